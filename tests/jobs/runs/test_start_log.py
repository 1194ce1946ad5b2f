"""What a start leaves behind: its log with the exit code and the cost, and who was told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fakes.webhooks import receiver
from support.run_files import PROMPTS

from nightpress import NightpressError, jobs
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs.shared import ignore
from nightpress.jobs.runs.start_log import StartLog, StartOptions
from nightpress.pipelines.errors import LeaseLost, SpecError, StoreError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import held
from nightpress.pipelines.run_directory.log import read_log, read_starts
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

COST = {"currency": "EUR", "per_gpu_hour": 3600.0}
"""An actor costs one euro a second."""


def spec_of(folder: Path, **values: Any) -> RunSpec:
    return RunSpec.from_dict({"name": "run", "manifest": "m.csv", "output": str(folder)} | values)


def record(spec: RunSpec, error: BaseException | None = None, **options: Any) -> list[Event]:
    """One start that ends at once; returns what was shown."""
    shown: list[Event] = []
    store = Store(spec.url)
    log = StartLog(StartOptions("run", **options), spec, shown.append)
    with held(store) as lease:
        try:
            with log.recorded(store, lease):
                if error is not None:
                    raise error
        except type(error or Exception):
            pass
    return shown


def ends(spec: RunSpec) -> list[dict[str, Any]]:
    return [line for line in read_log(Store(spec.url)) if line["event"] == "ended"]


@pytest.mark.parametrize(
    ("error", "state", "code", "reason"),
    [
        (None, "finished", 0, None),
        (StoppedOnRequest("stopped: it is late"), "stopped", 4, "stopped: it is late"),
        (KeyboardInterrupt(), "stopped", 4, "stopped at once by a signal"),
        (SpecError("job: no"), "failed", 2, "job: no"),
        (ZeroDivisionError("a\nbug"), "failed", 1, "ZeroDivisionError: a bug"),
        (ValueError(), "failed", 1, "ValueError"),
    ],
)
def test_the_log_says_how_a_start_ended(
    tmp_path: Path, error: BaseException | None, state: str, code: int, reason: str | None
) -> None:
    spec = spec_of(tmp_path)
    record(spec, error, ok_codes=(4,))
    (end,) = ends(spec)
    assert (end["state"], end["exit_code"], end["reason"]) == (state, code, reason)
    assert end["process_exit_code"] == (0 if code == 4 else code)
    started = next(read_log(Store(spec.url)))
    assert (started["event"], started["lease"], started["ok_codes"]) == ("started", 1, [4])


def test_a_start_that_lost_its_lease_writes_no_end_and_tells_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver() as hooks:
        monkeypatch.setenv("HOOK", f"{hooks.url}/200")
        spec = spec_of(tmp_path, notify=[{"url_env": "HOOK"}])
        store = Store(spec.url)
        record(spec, LeaseLost("taken over"))
        assert (ends(spec), hooks.bodies, store.list("notified")) == ([], [], {})


def test_an_error_of_the_listener_is_the_reason_of_the_end(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    store = Store(spec.url)

    def fail(event: Event) -> None:
        raise ZeroDivisionError("the display broke")

    log = StartLog(StartOptions("run"), spec, fail)
    with held(store) as lease:
        try:
            with log.recorded(store, lease):
                with pytest.raises(ZeroDivisionError):
                    log.show(Message("hello"))
                raise GeneratorExit  # what a generator sees that is closed
        except GeneratorExit:
            pass
    (end,) = ends(spec)
    assert (end["state"], end["exit_code"], end["reason"]) == (
        "failed",
        1,
        "ZeroDivisionError: the display broke",
    )


def test_a_failing_receiver_is_a_warning_and_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver() as hooks:
        monkeypatch.setenv("BAD", f"{hooks.url}/503")
        spec = spec_of(tmp_path, notify=[{"url_env": "BAD"}, {"url_env": "UNSET"}])
        shown = record(spec, StoppedOnRequest("stopped"))
    assert [event.text for event in shown if isinstance(event, Message) and event.warning] == [
        "notify: UNSET is not set in the environment of this process; nothing will be sent there",
        "notify: BAD was not told that the run stopped: it answered with status 503",
    ]
    notified = [line for line in read_log(Store(spec.url)) if line["event"] == "notified"]
    assert [(each["receiver"], each["ok"]) for each in notified] == [("BAD", False)]


def test_a_start_is_seen_at_once_and_a_store_that_refuses_its_log_is_said_once(
    tmp_path: Path,
) -> None:
    spec, shown = spec_of(tmp_path), list[Event]()
    store = Store(spec.url)
    log = StartLog(StartOptions("run"), spec, shown.append)
    with held(store) as lease, log.recorded(store, lease):
        assert [line["event"] for line in read_log(store)] == ["started", "progress"]
    (tmp_path / "run" / "log").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "log").write_text("a file where the folder should be")
    again = StartLog(StartOptions("run"), spec, shown.append)
    with held(store) as lease, again.recorded(store, lease):
        (warning,) = shown
        again.store_now()
    assert shown == [warning]
    assert isinstance(warning, Message)
    assert warning.text.startswith("the log cannot be written; the run goes on: ")


def spend(spec: RunSpec, seconds: float) -> None:
    """A start that used one actor for so long."""
    store = Store(spec.url)
    log = StartLog(StartOptions("run"), spec, ignore)
    log._actor_s = lambda: seconds
    with held(store) as lease, log.recorded(store, lease):
        pass


def test_a_budget_is_that_of_all_starts(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, cost=COST)
    spend(spec, 10)
    spend(spec_of(tmp_path), 5)  # without a price: counted at that of today
    log = StartLog(StartOptions("run", budget=20.0), spec, ignore)
    log.read_earlier(Store(spec.url))
    log.require_budget()
    left = log.budget(gpus_per_actor=0.0)
    assert left is not None
    assert (left.actor_s, left.text) == (pytest.approx(5), "20.00 EUR")
    spend(spec, 5)
    log.read_earlier(Store(spec.url))
    # Not exit code 4, with which a scheduler tries the same command again, for ever.
    with pytest.raises(SpecError, match=r"20.00 EUR is spent: 3 starts .* larger --budget"):
        log.require_budget()


def test_a_log_that_cannot_be_read_costs_a_warning_but_no_budget_is_kept_without_it(
    tmp_path: Path,
) -> None:
    spec, shown = spec_of(tmp_path, cost=COST), list[Event]()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log").write_text("a file where the folder should be")
    StartLog(StartOptions("run"), spec, shown.append).read_earlier(Store(spec.url))
    (warning,) = shown
    assert isinstance(warning, Message)
    assert warning.text.startswith("the log cannot be read, so costs are those of this start alone")
    with pytest.raises(StoreError):
        StartLog(StartOptions("run", budget=1.0), spec, ignore).read_earlier(Store(spec.url))


def test_a_budget_needs_a_price_in_the_currency_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--budget: the job has no price"):
        StartLog(StartOptions("run", budget=1.0), spec_of(tmp_path), ignore).read_earlier(
            Store(str(tmp_path / "run"))
        )
    spend(spec_of(tmp_path, cost=COST), 1)
    other = spec_of(tmp_path, cost=COST | {"currency": "USD"})
    with pytest.raises(SpecError, match="USD, but earlier starts of this run were counted in EUR"):
        StartLog(StartOptions("run"), other, ignore).read_earlier(Store(other.url))


@pytest.mark.usefixtures("local_ray")
def test_a_run_leaves_its_log_and_its_cost_and_tells_once(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver() as hooks:
        monkeypatch.setenv("HOOK", f"{hooks.url}/200")
        spec = make_spec(cost=COST, notify=[{"url_env": "HOOK"}])
        with pytest.raises(StoppedOnRequest, match=r"budget of 0\.0010 EUR is spent"):
            jobs.run(spec, budget=0.001)
        result = jobs.run(spec)
        jobs.run(spec)  # nothing is left; the receiver knows already
    stopped, finished = (body for _, body in hooks.bodies)
    assert (stopped["event"], stopped["exit_code"]) == ("stopped", 4)
    assert (finished["event"], finished["num_done"]) == ("finished", PROMPTS)
    first, second, third = read_starts(Store(spec.url))
    assert (first.state, second.state, third.num_made) == ("stopped", "finished", 0)
    assert second.actor_s > 0
    assert (second.num_done, second.gpu_s) == (PROMPTS, 0.0)
    assert result.cost is not None
    assert result.cost.amount == pytest.approx(first.actor_s + second.actor_s, abs=0.5)
    found = jobs.status(spec)
    assert isinstance(found, jobs.RunStatus)
    assert found.cost is not None
    assert found.cost.amount == pytest.approx(first.actor_s + second.actor_s, abs=0.01)
    assert "an image</dt>" in Path(spec.url, "report.html").read_text()
    events = [line["event"] for line in read_log(Store(spec.url)) if line["event"] != "progress"]
    assert {"started", "planned", "actor_joined", "shard_done", "ended", "notified"} <= set(events)
    record = json.loads(Path(spec.url, "run.json").read_text())
    assert record["spec"]["notify"][0]["url_env"] == "HOOK"
    assert hooks.url not in "".join(p.read_text() for p in Path(spec.url, "log").iterdir())


@pytest.mark.usefixtures("local_ray")
def test_a_job_in_another_currency_is_refused_before_anything_is_written(
    finished: MakeSpec,
) -> None:
    spend(finished(cost=COST), 1)
    before = sorted(Store(finished().url).list())
    with pytest.raises(NightpressError, match=r"cost\.currency"):
        jobs.run(finished(cost=COST | {"currency": "USD"}))
    assert sorted(Store(finished().url).list()) == before

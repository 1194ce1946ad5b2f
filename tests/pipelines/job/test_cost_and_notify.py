"""The keys cost and notify of a job."""

from typing import Any

import pytest
import yaml

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.cost_section import Cost, CostSpec, money
from nightpress.pipelines.job.spec import RunSpec


def job(**values: Any) -> RunSpec:
    return RunSpec.from_dict({"name": "n", "manifest": "m.csv", "output": "press"} | values)


def test_cost_and_notify_do_not_decide_what_a_run_makes() -> None:
    priced = job(
        cost={"currency": "EUR", "per_gpu_hour": 2}, notify=[{"url_env": "A", "on": ["failed"]}]
    )
    assert job().changes(priced) == []
    assert RunSpec.from_record(priced.as_dict(), "run.json") == priced


def test_the_key_on_survives_readers_that_take_it_for_true() -> None:
    values = yaml.safe_load("[{url_env: SLACK_URL, on: [stopped]}]")
    assert job(notify=values).notify[0].on == ("stopped",)
    assert job(notify=[{"url_env": "SLACK_URL"}]).notify[0].on == ("finished", "failed", "stopped")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cost": {"currency": "EUR"}}, "cost.per_gpu_hour"),
        ({"cost": {"currency": "euro", "per_gpu_hour": 1}}, "cost.currency"),
        ({"cost": {"currency": "EUR", "per_gpu_hour": 0}}, "cost.per_gpu_hour"),
        ({"cost": {"currency": "EUR", "per_gpu_hour": float("inf")}}, "cost.per_gpu_hour"),
        ({"cost": {"currency": "EUR", "per_gpu_hour": 1, "per_hour": 1}}, "per_hour"),
        ({"notify": [{"url_env": "https://hooks.slack.com/services/T0"}]}, "must not hold"),
        ({"notify": [{"url_env": "A", "on": ["done"]}]}, "done"),
        ({"notify": [{"url_env": "A", "on": []}]}, "notify.0.on"),
        ({"notify": [{"url_env": "A", "on": ["failed", "failed"]}]}, "once"),
        ({"notify": [{"url": "https://x"}]}, "url"),
        ({"notify": [{"url_env": "A", "format": "teams"}]}, "format"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        job(**values)


@pytest.mark.parametrize(
    "notify",
    [
        [{"url_env": "https://hooks.slack.com/services/s3cret"}],
        [{"url_env": "hooks.slack.com/services/s3cret"}],
        [{"url": "https://hooks.slack.com/services/s3cret"}],
        ["https://hooks.slack.com/services/s3cret"],
        "https://hooks.slack.com/services/s3cret",
    ],
)
def test_a_url_in_the_job_is_refused_without_being_printed(notify: Any) -> None:
    with pytest.raises(SpecError, match="notify") as raised:
        job(notify=notify)
    assert "s3cret" not in str(raised.value)


def test_an_actor_without_a_gpu_is_paid_for_as_one_gpu() -> None:
    cost = CostSpec(currency="EUR", per_gpu_hour=3.6)
    assert cost.of(1_000, 0.0, 10) == cost.of(1_000, 1.0, 10) == Cost(1.0, "EUR", 0.1)
    assert cost.of(1_000, 0.5, 0) == Cost(0.5, "EUR", None)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (1234.5, "1,234.50 EUR"),
        (0.1, "0.10 EUR"),
        (0.00213, "0.0021 EUR"),
        (0.0995, "0.10 EUR"),
        (0, "0.00 EUR"),
        (3e-12, "3.0e-12 EUR"),
    ],
)
def test_small_amounts_keep_two_digits(amount: float, said: str) -> None:
    assert money(amount, "EUR") == said

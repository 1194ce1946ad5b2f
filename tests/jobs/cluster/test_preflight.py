"""Before a run every node must reach its output; what may pass by itself ends with exit code 4."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support.fakes.faulty_proxy import FaultyProxy, Trouble, proxy
from support.servers import Folder

from nightpress.jobs.cli import command
from nightpress.jobs.cluster import preflight
from nightpress.jobs.cluster.connection import on_every_node
from nightpress.jobs.errors import ClusterError, NightpressError, exit_code
from nightpress.pipelines.errors import StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import QUICK, Store

MakeSpec = Callable[..., RunSpec]

JOINED = ClusterSpec(address="10.0.0.1:6379")
BUSY = StoreError("s3://press: http://store:9000 keeps failing ([Errno 16] Slow down.)")
DENIED = StoreDenied("s3://press: http://store:9000 denies permission (AccessDenied)")
MISSING = StoreMissing("s3://press/run.json: not found")

Answer = StoreError | bytes | None


def nodes_answer(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> None:
    """Let nodes 10.0.0.1, 10.0.0.2, ... answer so, whatever they are asked."""
    found = [(f"10.0.0.{number}", answer) for number, answer in enumerate(answers, 1)]
    monkeypatch.setattr(preflight, "on_every_node", lambda function, item: found)


def refusal(store: Store) -> NightpressError:
    """What the check before a run raises."""
    with pytest.raises(NightpressError) as caught:
        preflight.require_store_on_every_node(JOINED, store)
    return caught.value


def test_a_local_output_that_a_node_does_not_share_is_refused(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "alive_nodes", lambda: {"a": "10.0.0.1", "b": "10.0.0.2"})
    monkeypatch.setattr(
        preflight, "on_every_node", lambda f, x: [("10.0.0.1", f(x)), ("10.0.0.2", False)]
    )
    with pytest.raises(ClusterError, match=r"not shared by 10\.0\.0\.2") as caught:
        preflight.require_store_on_every_node(ClusterSpec(), Store(make_spec().url))
    assert "10.0.0.1" not in str(caught.value)
    assert not Path(make_spec().output).exists()


def test_a_node_that_cannot_write_to_the_store_is_named(
    make_spec: MakeSpec, bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(output="s3://no-such-bucket/runs", storage=bucket.options)
    monkeypatch.setattr(preflight, "alive_nodes", lambda: {"a": "10.0.0.1", "b": "10.0.0.2"})
    monkeypatch.setattr(
        preflight, "on_every_node", lambda f, x: [("10.0.0.1", None), ("10.0.0.2", f(x))]
    )
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.2: .*no-such-bucket"):
        preflight.require_store_on_every_node(ClusterSpec(), Store(spec.url, spec.storage))


def test_an_output_that_lets_no_marker_be_written_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(preflight, "alive_nodes", lambda: ["a", "b"])
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ClusterError, match="Read-only file system"):
        preflight.require_store_on_every_node(ClusterSpec(), Store(str(tmp_path / "out")))


@pytest.mark.parametrize(("error", "code"), [(BUSY, 4), (DENIED, 2), (MISSING, 2)])
def test_what_a_node_meets_keeps_its_exit_code_and_names_the_node(
    error: StoreError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_answer(monkeypatch, None, error)
    raised = refusal(Store("s3://press"))
    assert str(raised) == f"node 10.0.0.2: {error}"
    assert exit_code(raised) == code


def test_of_several_nodes_the_one_with_something_to_mend_is_named_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes_answer(monkeypatch, BUSY, None, DENIED, BUSY)
    raised = refusal(Store("s3://press"))
    assert str(raised) == f"node 10.0.0.3: {DENIED} (2 other nodes cannot use it either)"
    assert exit_code(raised) == 2
    nodes_answer(monkeypatch, None, BUSY, BUSY)
    raised = refusal(Store("s3://press"))
    assert str(raised) == f"node 10.0.0.2: {BUSY} (1 other node cannot use it either)"
    assert exit_code(raised) == 4


def test_nodes_that_can_all_write_are_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_answer(monkeypatch, None, None)
    preflight.require_store_on_every_node(JOINED, Store("s3://press"))


@pytest.mark.parametrize(
    ("seen", "code", "said"),
    [
        (BUSY, 4, str(BUSY)),
        (DENIED, 2, str(DENIED)),
        (None, 2, "it finds no such file, or another one"),
        (b"another", 2, "it finds no such file, or another one"),
    ],
    ids=["busy", "denied", "missing", "another"],
)
def test_a_node_that_cannot_read_a_run_keeps_the_exit_code_of_its_reason(
    seen: Answer, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_bytes(b"{}")
    nodes_answer(monkeypatch, b"{}", seen)
    with pytest.raises(NightpressError) as caught:
        preflight.require_readable_on_every_node(Store(str(tmp_path)), "run.json")
    assert str(caught.value) == f"node 10.0.0.2 cannot read {tmp_path}/run.json: {said}"
    assert exit_code(caught.value) == code


def test_nodes_that_read_the_same_are_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_bytes(b"{}")
    nodes_answer(monkeypatch, b"{}", b"{}")
    preflight.require_readable_on_every_node(Store(str(tmp_path)), "run.json")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_start_whose_node_meets_a_busy_store_ends_with_4(
    make_spec: MakeSpec,
    bucket: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with proxy(bucket.options["s3"]["endpoint_url"]) as faulty:
        make_busy_for_nodes(faulty, monkeypatch)
        spec = make_spec(
            output=f"{bucket.url}/runs", storage=faulty.options, cluster={"address": "auto"}
        )
        job = tmp_path / "job.yaml"
        job.write_text(yaml.safe_dump(spec.as_dict()))
        result = CliRunner().invoke(command, ["run", str(job)])
        assert not faulty.is_in_trouble
    assert result.exit_code == 4, result.output
    said = result.stderr.splitlines()[-1]
    assert said.startswith("error: node ")
    assert f"{faulty.endpoint} keeps failing" in said
    assert "Traceback" not in result.stderr
    assert not Store(spec.url, bucket.options).list("")


def make_busy_for_nodes(faulty: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store fail once nodes are asked about it: the driver has found it well before."""

    def asked(function: Callable[[Store], StoreError | None], store: Store) -> object:
        faulty.order("PUT", [Trouble.SLOW_DOWN] * QUICK.attempts)
        return on_every_node(function, store)

    monkeypatch.setattr(preflight, "on_every_node", asked)

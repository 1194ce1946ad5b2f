"""`doctor`: planted faults are found, and what could not be looked at is said."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.signers import Studio

from nightpress.jobs import cli
from nightpress.jobs.cluster.node_facts import Node, NodeFacts, Questions, facts_here
from nightpress.jobs.cluster.node_facts import facts_of_nodes as real_facts_of_nodes
from nightpress.jobs.errors import ClusterError
from nightpress.jobs.runs import doctor as module
from nightpress.jobs.runs.doctor import doctor
from nightpress.jobs.runs.doctor_checks import Check
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.content_credentials.signing_key import KEY, KEY_FILE
from nightpress.pipelines.job.spec import RunSpec

HEALTHY = replace(
    facts_here(Questions()),
    home_fault=None,
    ray_drains_s=90.0,
    gpus=(("H200", 140 * 2**30),),
    free_bytes={"/tmp": 10**12},
)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The nodes of a cluster without any Ray; to be filled by the test."""
    found: list[Node] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module, "cluster", lambda spec: nullcontext(True))
    monkeypatch.setattr(module, "facts_of_nodes", lambda questions: found)
    monkeypatch.setattr(module, "num_gone", lambda: 2)
    monkeypatch.setattr(module, "resolved_gpus", lambda wanted: 0.0)
    monkeypatch.setattr(module, "room", lambda cpus, gpus: 3)
    monkeypatch.setattr(module, "free_bytes", lambda paths: [(path, 10**12) for path in paths])
    monkeypatch.setattr(module, "asks_for_a_token", lambda address: True)
    return found


def job(tmp_path: Path, **values: Any) -> RunSpec:
    (tmp_path / "cats.csv").write_text("id,prompt\na,a cat\n")
    spec = {"name": "cats", "manifest": str(tmp_path / "cats.csv"), "output": str(tmp_path)}
    return RunSpec.from_dict(spec | values)


def node(facts: NodeFacts | None = HEALTHY, silence: str = "", ahead_s: float = 0.0) -> Node:
    return Node("10.0.0.2", facts, silence, ahead_s)


def of_node(checks: tuple[Check, ...], name: str) -> Check:
    return next(each for each in checks if (each.name, each.where) == (name, "10.0.0.2"))


def changed(**facts: Any) -> Node:
    return node(replace(HEALTHY, **facts))


def test_a_healthy_cluster_has_no_fault_and_no_warning(nodes: list[Node], tmp_path: Path) -> None:
    nodes.append(node())
    found = doctor(job(tmp_path), address="head:6379")
    assert found.is_healthy
    assert {check.state for check in found.checks} == {"ok"}, found
    (cluster,) = [check for check in found.checks if check.name == "cluster"]
    assert cluster.text == "1 node alive, 2 gone since the cluster started"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cats.csv"]


@pytest.mark.parametrize(
    ("planted", "name", "state", "words"),
    [
        (node(None, "it has not answered within 60 s"), "node", "fault", "has not answered"),
        (node(ahead_s=400.0), "clock", "fault", "6 min 40 s ahead"),
        (node(ahead_s=-5.0), "clock", "warning", "5.0 s behind"),
        (changed(ray_drains_s=30.0), "grace", "warning", "DRAIN_TIMEOUT_S=90"),
        (changed(home_fault="Permission denied"), "home", "fault", "set HOME to a folder"),
        (changed(versions=HEALTHY.versions | {"ray": "2.59.0"}), "versions", "fault", "2.59.0"),
        (changed(versions=HEALTHY.versions | {"torch": "2.8.0"}), "versions", "warning", "2.8.0"),
        (changed(versions=HEALTHY.versions | {"diffusers": None}), "versions", "fault", "install"),
        (changed(free_bytes={"/tmp": 5 * 10**9}), "disk", "warning", "5.0 GB free at /tmp"),
        (changed(free_bytes={"/tmp": 10**8}), "disk", "fault", "100.0 MB free at /tmp"),
        (changed(gpus=(("T4", 2**20),)), "memory", "fault", "they do not fit"),
        (changed(gpus=None, memory_bytes=2**20), "memory", "fault", "they do not fit"),
        (changed(output_fault="no credentials"), "output", "fault", "no credentials"),
        (changed(input_fault="403"), "inputs", "fault", "403"),
    ],
)
def test_a_planted_fault_is_found_at_its_node(
    nodes: list[Node], tmp_path: Path, planted: Node, name: str, state: str, words: str
) -> None:
    nodes.append(planted)
    found = doctor(job(tmp_path), address="head:6379")
    check = of_node(found.checks, name)
    assert check.state == state
    assert words in check.text
    assert found.is_healthy == (state == "warning")


def test_another_nightpress_on_a_node_is_a_fault_only_if_it_is_not_sent_along(
    nodes: list[Node], tmp_path: Path
) -> None:
    nodes.append(changed(versions=HEALTHY.versions | {"nightpress": "0.0.1"}))
    assert doctor(job(tmp_path), address="head:6379").is_healthy
    own = job(tmp_path, cluster={"ship_package": False})
    assert not doctor(own, address="head:6379").is_healthy


def test_a_cluster_without_a_token_is_pointed_out(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "asks_for_a_token", lambda address: False)
    found = doctor(address="head:6379")
    assert found.checks[0].state == "warning"
    assert "whoever reaches its ports can run code" in found.checks[0].text


def test_a_cluster_that_cannot_be_joined_is_a_fault_and_the_rest_is_still_looked_at(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(spec: object) -> None:
        raise ClusterError("no Ray cluster answers at head:6379")

    monkeypatch.setattr(module, "cluster", refuse)
    found = doctor(job(tmp_path), address="head:6379")
    states = {check.name: check.state for check in found.checks}
    assert states["cluster"] == "fault"
    assert states["nodes"] == "not checked"
    assert states["output"] == "ok"


def test_without_a_cluster_or_a_job_it_says_what_it_did_not_check(
    nodes: list[Node],
) -> None:
    result = CliRunner().invoke(cli.command, ["doctor", "--json"])
    states = {each["name"]: each["state"] for each in json.loads(result.stdout)["checks"]}
    assert [name for name, state in states.items() if state == "not checked"] == [
        *("token", "output", "inputs", "model", "cluster", "memory")
    ]
    assert states["home"] == "ok"


def test_faults_end_the_command_with_2_and_one_line_each(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes.append(node(ahead_s=400.0))
    Path("cats.csv").write_text("id,prompt\na,a cat\n")
    Path("cats.yaml").write_text("manifest: cats.csv\noutput: press\n")
    result = CliRunner().invoke(cli.command, ["doctor", "cats.yaml", "--address", "head:6379"])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("fault")]
    assert line.split()[:3] == ["fault", "clock", "10.0.0.2"]
    assert result.stdout.splitlines()[-1] == "1 fault"


def test_a_store_that_ignores_conditions_is_pointed_out(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for condition in ("honours_create_only", "honours_if_match"):
        monkeypatch.setattr(module.Store, condition, lambda self: False)
    found = doctor(job(tmp_path))
    states = {check.name: check.state for check in found.checks}
    assert (states["create-only"], states["replace-if-same"]) == ("warning", "warning")
    assert found.is_healthy


def test_a_store_that_fails_on_a_condition_is_a_fault(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object) -> bool:
        raise StoreError("s3://press: the store answered NotImplemented")

    monkeypatch.setattr(module.Store, "honours_if_match", fails)
    found = doctor(job(tmp_path))
    states = {check.name: check.state for check in found.checks}
    assert (states["output"], states["create-only"]) == ("ok", "ok")
    assert states["replace-if-same"] == "fault"
    assert not found.is_healthy


def test_an_output_that_cannot_be_written_is_a_fault_once(
    nodes: list[Node], tmp_path: Path
) -> None:
    nodes.append(node())
    (tmp_path / "taken").write_text("a file")
    found = doctor(job(tmp_path, output=str(tmp_path / "taken")), address="head:6379")
    assert [check.name for check in found.checks if check.state == "fault"] == ["output"]
    assert of_node(found.checks, "output").state == "not checked"


def test_a_manifest_that_this_machine_does_not_find_is_a_fault(
    nodes: list[Node], tmp_path: Path
) -> None:
    found = doctor(job(tmp_path, manifest=str(tmp_path / "dogs.csv")))
    (check,) = [each for each in found.checks if each.state == "fault"]
    assert (check.name, check.where) == ("inputs", "this machine")
    assert "dogs.csv" in check.text
    (tmp_path / "rows").mkdir()
    assert not doctor(job(tmp_path, inputs={"root": str(tmp_path / "photos")})).is_healthy
    assert doctor(job(tmp_path, inputs={"root": str(tmp_path / "rows")})).is_healthy


def test_a_certificate_or_key_that_is_not_there_is_a_fault(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_FILE, raising=False)
    monkeypatch.delenv(KEY, raising=False)
    studio = Studio.new()
    signing = job(tmp_path, provenance=studio.job())

    def check() -> Check:
        (found,) = [each for each in doctor(signing).checks if each.name == "signing"]
        return found

    assert check().state == "fault"
    assert KEY in check().text
    monkeypatch.setenv(KEY, studio.signer.key_pem)
    assert check().state == "ok"
    assert "signing" not in {each.name for each in doctor(job(tmp_path)).checks}


def test_an_output_on_a_full_disk_is_a_fault(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda paths: [(path, 10**6) for path in paths])
    (check,) = [each for each in doctor(job(tmp_path)).checks if each.state == "fault"]
    assert (check.name, check.where) == ("disk", "this machine")
    assert check.text == f"1.0 MB free at {tmp_path}/cats"
    assert doctor(job(tmp_path, output="memory://press")).is_healthy


def test_an_actor_that_no_node_can_hold_is_pointed_out(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.append(node())
    monkeypatch.setattr(module, "room", lambda cpus, gpus: 0)
    found = doctor(job(tmp_path, cluster={"cpus_per_actor": 9}), address="head:6379")
    (check,) = [each for each in found.checks if each.state == "warning"]
    assert (check.name, check.where) == ("room", "head:6379")
    assert "an actor needs 9 CPUs and no GPU on one node, and none is large enough" in check.text


def test_nodes_are_asked_about_what_they_read_with_the_job_s_own_options(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    options = {"s3": {"endpoint_url": "http://127.0.0.1:9"}}
    asked = module.what_nodes_read(
        job(
            tmp_path,
            manifest=["s3://press/rows.csv", str(tmp_path / "cats.csv")],
            model=str(tmp_path / "weights"),
            inputs={"root": str(tmp_path / "photos")},
            storage=options,
        )
    )
    assert asked.manifests == ("s3://press/rows.csv",)
    assert asked.paths == (str(tmp_path / "weights"), str(tmp_path / "photos"))
    assert asked.options == options


@pytest.mark.parametrize("source", ["nobody/nothing-of-this-name", "s3-models/none"])
def test_a_model_that_is_not_here_is_not_downloaded(
    nodes: list[Node], tmp_path: Path, source: str
) -> None:
    found = doctor(job(tmp_path, model=source))
    (check,) = [each for each in found.checks if each.name == "model"]
    assert check.state == "not checked"


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_every_node_answers_with_its_facts(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (answered,) = real_facts_of_nodes(Questions(marker=str(marker)))
    assert answered.facts is not None, answered
    assert answered.facts.versions == HEALTHY.versions
    assert answered.facts.output_fault == "this folder is not shared with the node"
    assert abs(answered.ahead_s) < 1

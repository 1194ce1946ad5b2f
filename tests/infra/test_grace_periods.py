"""Grace periods are in order in every file: process > Ray's drain > drain_s of the job.

Whoever kills a process (kubelet, systemd, Docker) waits longer than Ray does for its node to drain,
and Ray waits longer than the job lets its batches take. `submit` gets longer still: it stops the
job on the cluster, and waits for its end.
"""

import copy
import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml
from support.infra_checks import INFRA, OVERLAYS, Resource, of_kind, overlay, pod_specs, variables

from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.job.spec import RunSpec

LAUNCHERS = ("aws", "gcp", "on-prem")

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"

SUBMIT_EXTRA_S = 120
"""What `submit` may take beyond drain_s: a minute for the job's report, and one for its own end."""


@dataclass(frozen=True)
class Grace:
    """The periods of one process, in seconds; None where a step does not exist."""

    where: str
    killed_after_s: float
    ray_drains_s: float | None
    job_drains_s: float
    is_submit: bool = False


def out_of_order(grace: Grace) -> list[str]:
    """Which period of a process is not longer than the one inside it."""
    needed = grace.job_drains_s + (SUBMIT_EXTRA_S if grace.is_submit else 0)
    steps = [("is killed", grace.killed_after_s), ("Ray drains", grace.ray_drains_s)]
    known = [(name, value) for name, value in steps if value is not None]
    known.append(("drain_s", needed))
    return [
        f"{grace.where}: {outer} {outer_s:g} s, {inner} {inner_s:g} s"
        for (outer, outer_s), (inner, inner_s) in itertools.pairwise(known)
        if outer_s <= inner_s
    ]


def drain_of(job: str) -> float:
    """drain_s of a job file's text."""
    values = yaml.safe_load(job.replace("{night}", "2027-01-15")) | {"name": "job"}
    return RunSpec.from_dict(values).cluster.drain_s


def of_pods(name: str, resources: tuple[Resource, ...]) -> list[Grace]:
    """The periods of every pod of an overlay."""
    (config,) = of_kind(resources, "ConfigMap")
    drain_s = drain_of(config["data"]["job.yaml"])
    found = []
    for pod in (pod for resource in resources for pod in pod_specs(resource)):
        container = pod["containers"][0]
        is_submit = container["name"] == "submit"
        ray_s = None if is_submit else float(variables(container)[DRAIN])
        where = f"{name}: {container['name']}"
        killed_s = pod["terminationGracePeriodSeconds"]
        found.append(Grace(where, killed_s, ray_s, drain_s, is_submit))
        if stop_wait := variables(container).get(STOP_WAIT):
            found.append(Grace(f"{where}: stopped job", float(stop_wait), None, drain_s))
    return found


def seconds(text: str) -> float:
    """Seconds of a period such as `120s`."""
    return float(text.removesuffix("s"))


def of_compose(services: dict[str, Any]) -> list[Grace]:
    """The periods of the services of compose.yaml that Ray or nightpress run in."""
    drain_s = drain_of((INFRA / "compose" / "jobs" / "job.yaml").read_text(encoding="utf-8"))
    found = []
    for name, service in services.items():
        environment = service["environment"]
        if DRAIN not in environment:
            continue
        is_submit = name == "submit"
        ray_s = None if is_submit else float(environment[DRAIN])
        killed_s = seconds(service["stop_grace_period"])
        found.append(Grace(f"compose: {name}", killed_s, ray_s, drain_s, is_submit))
        found.append(
            Grace(f"compose: {name}: stopped job", float(environment[STOP_WAIT]), None, drain_s)
        )
    return found


def of_unit(name: str, text: str) -> Grace:
    """The periods of a systemd unit; its job has the default drain_s."""
    (killed,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    drain = re.findall(rf"^Environment={DRAIN}=(\d+)$", text, re.MULTILINE)
    return Grace(name, float(killed), float(drain[0]) if drain else None, ClusterSpec().drain_s)


def units() -> dict[str, str]:
    """The text of every systemd service, by its name."""
    files = (INFRA / "systemd").glob("*.service")
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    text = (INFRA / "compose" / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def stop_waits() -> dict[str, list[str]]:
    """What each file gives a job that is stopped from the dashboard, where the head runs."""
    (cluster,) = of_kind(overlay("cpu"), "RayCluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    runtime = yaml.safe_load(schedule["spec"]["jobTemplate"]["runtimeEnvYAML"])
    found = {
        "cluster": [variables(head)[STOP_WAIT]],
        "raycronjob": [runtime["env_vars"][STOP_WAIT]],
    }
    for name in ("systemd/ray-head.service", *(f"launcher/{each}.yaml" for each in LAUNCHERS)):
        text = (INFRA / name).read_text(encoding="utf-8")
        found[name] = re.findall(rf"\b{STOP_WAIT}=(\d+)", text)
    return found


def argo() -> Grace:
    """The periods of the Argo workflow, whose job is that of the base."""
    text = (INFRA / "schedulers" / "argo.yaml").read_text(encoding="utf-8")
    patch = yaml.safe_load(next(yaml.safe_load_all(text))["spec"]["workflowSpec"]["podSpecPatch"])
    drain_s = drain_of((INFRA / "kubernetes/base/job.yaml").read_text(encoding="utf-8"))
    return Grace("argo", patch["terminationGracePeriodSeconds"], None, drain_s, is_submit=True)


def test_every_process_is_given_longer_than_what_it_waits_for() -> None:
    pods = [grace for name in OVERLAYS for grace in of_pods(name, overlay(name))]
    others = [*of_compose(services()), *(of_unit(*each) for each in units().items()), argo()]
    assert len(pods) >= 11
    assert len(others) >= 9
    assert [found for grace in [*pods, *others] for found in out_of_order(grace)] == []


def test_every_head_gives_a_stopped_job_longer_than_its_drain() -> None:
    """Three seconds, which are Ray's own, would kill it in the middle of its batches."""
    drain_s = ClusterSpec().drain_s
    assert {name: len(found) for name, found in stop_waits().items()} == dict.fromkeys(
        stop_waits(), 1
    )
    assert [name for name, (found,) in stop_waits().items() if not float(found) > drain_s] == []


def test_every_ray_of_systemd_drains_its_node() -> None:
    drained = {name for name, text in units().items() if of_unit(name, text).ray_drains_s}
    assert drained == {"ray-head.service", "ray-worker.service"}


@pytest.mark.parametrize(
    "shorter",
    [
        {"killed_after_s": 90.0},  # as long as Ray's drain: SIGKILL comes in the middle of it
        {"killed_after_s": 30.0},  # Kubernetes' default
        {"ray_drains_s": 30.0},  # Ray's default
        {"job_drains_s": 300.0},  # a job with slow batches, and nothing else changed
    ],
)
def test_a_period_that_is_too_short_is_found(shorter: dict[str, float]) -> None:
    grace = Grace("a worker", 120.0, 90.0, 60.0)
    assert out_of_order(grace) == []
    assert len(out_of_order(replace(grace, **shorter))) == 1


def test_a_pod_that_is_killed_too_early_is_found_in_the_rendered_files() -> None:
    resources = copy.deepcopy(overlay("spot-gpu"))
    (cluster,) = of_kind(resources, "RayCluster")
    worker = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    worker["terminationGracePeriodSeconds"] = 30
    wrong = [found for grace in of_pods("spot-gpu", resources) for found in out_of_order(grace)]
    assert wrong == ["spot-gpu: ray-worker: is killed 30 s, Ray drains 90 s"]


def test_a_unit_that_signals_all_its_processes_is_not_among_them() -> None:
    """systemd's default would send SIGTERM to actors too, and they end without finishing."""
    assert {name for name, text in units().items() if "\nKillMode=mixed\n" not in text} == set()


def test_ray_waits_as_these_variables_say() -> None:
    """They are not documented; an upgrade that renames them must not go unseen."""
    from ray._private import ray_constants
    from ray.dashboard.modules.job import job_supervisor

    assert hasattr(ray_constants, DRAIN)
    assert hasattr(job_supervisor.JobSupervisor, f"DEFAULT_{STOP_WAIT}")

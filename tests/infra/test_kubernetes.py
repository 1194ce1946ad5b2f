"""The Kustomize overlays render, and everything in them is what Kubernetes and KubeRay accept."""

import copy
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from structure import ROOT
from support.infra_checks import (
    KUBERNETES,
    OVERLAYS,
    Resource,
    custom_findings,
    is_custom,
    of_kind,
    overlay,
    plain_findings,
    pod_specs,
    ray_cluster,
    rendered,
    run_tool,
)

from nightpress.pipelines.job.spec import RunSpec

every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def job_of(name: str) -> RunSpec:
    """The job of an overlay, as nightpress reads it."""
    (config,) = of_kind(overlay(name), "ConfigMap")
    text = config["data"]["job.yaml"].replace("{night}", "2027-01-15")
    return RunSpec.from_dict(yaml.safe_load(text))


@every_overlay
def test_plain_resources_are_valid(name: str) -> None:
    plain = [each for each in overlay(name) if not is_custom(each)]
    assert len(plain) >= 6
    assert [found for each in plain for found in plain_findings(each)] == []


@every_overlay
def test_resources_of_ray_match_their_definitions(name: str) -> None:
    custom = [each for each in overlay(name) if each["apiVersion"].startswith("ray.io/")]
    assert len(custom) == 1
    assert [found for each in custom for found in custom_findings(each)] == []


@pytest.mark.parametrize("kind", ["ResourceFlavor", "ClusterQueue", "LocalQueue"])
def test_resources_of_kueue_match_their_definitions(kind: str) -> None:
    (resource,) = of_kind(overlay("kueue"), kind)
    assert custom_findings(resource) == []


def change(resource: Resource, path: str, value: Any) -> Resource:
    """A copy of a resource in which `a.b.0.c` has another value."""
    changed = copy.deepcopy(resource)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = changed
    for part in parents:
        place = place[part]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("CronJob", "spec.concurencyPolicy", "Forbid"),
        ("CronJob", "spec.jobTemplate.spec.backoffLimit", "none"),
        ("NetworkPolicy", "spec.ingress.0.form", []),
        ("PodDisruptionBudget", "spec.minAvailble", 1),
        ("ServiceAccount", "automountServiceAccountTokens", False),
        ("ConfigMap", "data.job", {"name": "a mapping"}),
    ],
)
def test_a_mistake_in_a_plain_resource_is_found(kind: str, path: str, value: Any) -> None:
    resource = of_kind(overlay("cpu"), kind)[0]
    assert plain_findings(resource) == []
    assert len(plain_findings(change(resource, path, value))) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.authOptions.mode", "tokens"),
        ("spec.authOption", {"mode": "token"}),
        ("spec.workerGroupSpecs.0.minReplica", 1),
        ("spec.workerGroupSpecs.0.maxReplicas", "four"),
        ("spec.workerGroupSpecs.0.template.spec.terminationGracePeriod", 120),
        ("spec.headGroupSpec.template.spec.containers.0.envForm", []),
        ("spec.managedBy", "someone/else"),  # which only a CEL rule forbids
    ],
)
def test_a_mistake_in_a_ray_cluster_is_found(path: str, value: Any) -> None:
    (cluster,) = of_kind(overlay("cpu"), "RayCluster")
    assert custom_findings(change(cluster, path, value)) != []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.timezone", "Europe/Berlin"),
        ("spec.jobTemplate.deletionStrategy.onSuccess", {"policy": "DeleteCluster"}),
        (
            "spec.jobTemplate.deletionStrategy.deletionRules.0.condition.jobDeploymentStatus",
            "Failed",
        ),
        ("spec.jobTemplate.deletionStrategy.deletionRules.0.condition", {"ttlSeconds": 60}),
        ("spec.jobTemplate.deletionStrategy", {}),
        ("spec.jobTemplate.managedBy", "someone/else"),
        ("spec.jobTemplate.rayClusterSpec.headGroupSpec.template.spec.container", []),
    ],
)
def test_a_mistake_in_a_ray_cron_job_is_found(path: str, value: Any) -> None:
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    assert custom_findings(change(schedule, path, value)) != []


def test_a_patch_of_what_is_not_there_does_not_render(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(KUBERNETES, tmp_path / "kubernetes"))
    patch = copied / "overlays" / "spot-gpu" / "workers.yaml"
    text = patch.read_text(encoding="utf-8")
    patch.write_text(text.replace("workerGroupSpecs/0", "workerGroupSpecs/1"), encoding="utf-8")
    assert run_tool("kubectl", "kustomize", patch.parent).returncode != 0


@every_overlay
def test_every_container_runs_as_an_ordinary_user_without_privileges(name: str) -> None:
    pods = [each for resource in overlay(name) for each in pod_specs(resource)]
    assert len(pods) >= 2
    for pod in pods:
        who = pod["securityContext"]
        assert (who["runAsNonRoot"], who["runAsUser"]) == (True, 1000)
        assert who["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


@every_overlay
def test_every_image_is_the_project_s_and_none_is_left_unnamed(name: str) -> None:
    images = {
        container["image"]
        for resource in overlay(name)
        for pod in pod_specs(resource)
        for container in pod["containers"]
    }
    kind = "gpu" if name in ("spot-gpu", "kueue") else "cpu"
    assert images == {f"registry.example.com/nightpress:{kind}"}


@every_overlay
def test_the_cluster_has_the_pinned_ray_and_asks_for_its_token(name: str) -> None:
    cluster = ray_cluster(name)
    pins = (ROOT / "infra" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    assert cluster["authOptions"] == {"mode": "token"}


@every_overlay
def test_the_job_is_valid_and_ships_no_package_over_the_image_s(name: str) -> None:
    job = job_of(name)
    assert not job.cluster.ship_package
    assert job.name == "catalogue-2027-01-15"


@pytest.mark.parametrize("name", ["spot-gpu", "kueue"])
def test_a_cluster_that_may_be_scaled_down_says_how_many_gpus_an_actor_takes(name: str) -> None:
    worker = ray_cluster(name)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    job = job_of(name).cluster
    assert job.gpus_per_actor == 1
    assert job.cpus_per_actor <= int(worker["resources"]["limits"]["cpu"])


def test_the_cron_job_fails_on_what_a_retry_cannot_change_and_ignores_evictions() -> None:
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    spec, job = cron["spec"], cron["spec"]["jobTemplate"]["spec"]
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Europe/Berlin")
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "submit", "operator": "In", "values": [1, 2, 3, 5]},
        },
    ]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs
    assert pod["containers"][0]["name"] == "submit"


@pytest.mark.parametrize("name", ["cpu", "spot-gpu", "kueue"])
def test_no_start_of_the_cron_job_goes_on_into_the_day(name: str) -> None:
    (cron,) = of_kind(overlay(name), "CronJob")
    job = cron["spec"]["jobTemplate"]["spec"]
    (submit,) = job["template"]["spec"]["containers"]
    options = dict(itertools.pairwise(submit["args"]))
    assert options["--tz"] == cron["spec"]["timeZone"]
    opens, closes = options["--deadline"].split("-")  # outside of them it ends at once
    minute, hours = cron["spec"]["schedule"].split()[:2]
    ticks = [tick for each in hours.split(",") for tick in range_of(each)]
    assert all(tick >= int(opens[:2]) or tick < int(closes[:2]) for tick in ticks)
    assert opens == f"{hours.split(',')[0]}:{minute:0>2}"
    opened_h, closed_h = (int(clock[:2]) + int(clock[3:]) / 60 for clock in (opens, closes))
    longest_night_s = (closed_h + 24 - opened_h + 1) * 3600
    assert job["activeDeadlineSeconds"] > longest_night_s
    assert job["backoffLimit"] > 0


def range_of(hours: str) -> range:
    """The hours of `4` or of `0-5`."""
    first, _, last = hours.partition("-")
    return range(int(first), int(last or first) + 1)


def test_submit_reaches_the_head_by_the_name_that_kuberay_gives_its_service() -> None:
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    (cluster,) = of_kind(overlay("cpu"), "RayCluster")
    submit = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    name = cluster["metadata"]["name"]
    assert f"http://{name}-head-svc:8265" in submit["args"]
    (token,) = [each for each in submit["env"] if each["name"] == "RAY_AUTH_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}


def test_only_the_head_may_talk_to_kubernetes() -> None:
    accounts = {
        each["metadata"]["name"]: each.get("automountServiceAccountToken", True)
        for each in of_kind(overlay("cpu"), "ServiceAccount")
    }
    assert accounts == {"nightpress": False, "nightpress-head": True}
    cluster = ray_cluster("cpu")
    assert cluster["headGroupSpec"]["template"]["spec"]["serviceAccountName"] == "nightpress-head"
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert (worker["serviceAccountName"], worker["automountServiceAccountToken"]) == (
        "nightpress",
        False,
    )


def test_kueue_s_quota_holds_the_whole_cluster_which_has_a_fixed_size() -> None:
    cluster = ray_cluster("kueue")
    (group,) = cluster["workerGroupSpecs"]
    assert not cluster["enableInTreeAutoscaling"]
    assert group["minReplicas"] == group["maxReplicas"] == group["replicas"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    worker = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    (queue,) = of_kind(overlay("kueue"), "ClusterQueue")
    quota = {
        each["name"]: each["nominalQuota"]
        for each in queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    }
    for resource, amount in quota.items():
        needed = number(head.get(resource, "0")) + group["replicas"] * number(worker[resource])
        assert number(amount) == needed, resource


def number(quantity: str) -> int:
    """The number of a quantity such as `32Gi`; all compared ones have the same unit."""
    return int(quantity.removesuffix("Gi"))


def test_the_overlay_with_kuberay_s_schedule_has_no_second_schedule_or_cluster() -> None:
    kinds = [each["kind"] for each in overlay("raycronjob")]
    assert "CronJob" not in kinds
    assert "RayCluster" not in kinds
    assert ray_cluster("raycronjob")["workerGroupSpecs"] == ray_cluster("cpu")["workerGroupSpecs"]


def test_the_base_renders_by_itself() -> None:
    assert len(rendered(KUBERNETES / "base")) == len(overlay("cpu"))


def test_the_overlay_that_the_manual_shows_renders_with_its_image_and_job(tmp_path: Path) -> None:
    manual = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^mkdir night .*?^EOF$", manual, re.MULTILINE | re.DOTALL)
    shutil.copytree(ROOT / "infra", tmp_path / "infra")
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True)
    job = tmp_path / "night" / "job.yaml"
    job.write_text(job.read_text(encoding="utf-8").replace("studio/press", "other"))
    resources = rendered(tmp_path / "night")
    images = {
        container["image"]
        for resource in resources
        for pod in pod_specs(resource)
        for container in pod["containers"]
    }
    assert images == {"ghcr.io/your/nightpress:gpu"}
    (config,) = of_kind(resources, "ConfigMap")
    assert "output: s3://other" in config["data"]["job.yaml"]

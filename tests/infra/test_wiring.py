"""Names, ports, paths and exit codes of the Kubernetes files fit each other, Ray and nightpress."""

import re
from typing import Any

import pytest
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
from ray.dashboard.consts import DASHBOARD_METRIC_PORT
from structure import ROOT
from support.infra_checks import (
    INFRA,
    OVERLAYS,
    Resource,
    custom_findings,
    of_kind,
    overlay,
    plain_findings,
    pod_specs,
    ray_cluster,
)

from nightpress.jobs.errors import BAD_INPUT, HELD, SOME_FAILED, STOPPED, UNEXPECTED

every_overlay = pytest.mark.parametrize("name", OVERLAYS)

JOB = "/etc/nightpress-job/job.yaml"

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What the namespace asks of every container."""


def argo() -> list[Resource]:
    """The resources of the file for Argo Workflows."""
    text = (INFRA / "schedulers" / "argo.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


def argo_template() -> tuple[Resource, Resource]:
    """(specification of the workflow, its one template)."""
    (cron,) = of_kind(argo(), "CronWorkflow")
    spec: Resource = cron["spec"]["workflowSpec"]
    (template,) = spec["templates"]
    return spec, template


def cron_pod() -> Resource:
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    spec: Resource = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


# Ports


@every_overlay
def test_the_head_has_the_ports_that_ray_uses(name: str) -> None:
    container = ray_cluster(name)["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == {
        "gcs-server": ray_constants.DEFAULT_PORT,
        "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT,
        "metrics": 8080,  # KubeRay's --metrics-export-port
        "as-metrics": AUTOSCALER_METRIC_PORT,
        "dash-metrics": DASHBOARD_METRIC_PORT,
    }
    (group,) = ray_cluster(name)["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["ports"] == [{"name": "metrics", "containerPort": 8080}]


@every_overlay
def test_the_network_policy_lets_in_those_who_need_it_and_nobody_else(name: str) -> None:
    (policy,) = [
        each["spec"]
        for each in of_kind(overlay(name), "NetworkPolicy")
        if each["metadata"]["name"] == "nightpress-ray"
    ]
    dashboard = ray_constants.DEFAULT_DASHBOARD_PORT
    agent = ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    ray = {"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}
    submit = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "submit"}}}
    expected = [
        (ray, set()),  # all ports
        (submit, {dashboard}),
        (namespace("kuberay-system"), {dashboard, agent}),
        (namespace("monitoring"), {8080, AUTOSCALER_METRIC_PORT, DASHBOARD_METRIC_PORT}),
    ]
    found = []
    for rule in policy["ingress"]:
        (source,) = rule["from"]
        ports = rule.get("ports", [])
        assert all(each["protocol"] == "TCP" for each in ports)
        found.append((source, {each["port"] for each in ports}))
    assert found == expected
    assert policy["policyTypes"] == ["Ingress"]
    assert {"podSelector": policy["podSelector"]} == ray


def namespace(name: str) -> Resource:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def test_the_alert_for_nodes_looks_at_what_prometheus_scrapes() -> None:
    config = yaml.safe_load((INFRA / "observability" / "prometheus.yml").read_text("utf-8"))
    (scrape,) = config["scrape_configs"]
    (files,) = [each["files"] for each in scrape["file_sd_configs"]]
    assert files == [f"/tmp/ray/{ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    monitor = yaml.safe_load((INFRA / "observability" / "podmonitor.yaml").read_text("utf-8"))
    metadata = monitor["metadata"]
    operator_s = f"{metadata['namespace']}/{metadata['name']}"  # its label `job`
    rules = (INFRA / "observability" / "rules.yml").read_text("utf-8")
    (jobs,) = re.findall(r'up\{job=~"(.*?)"\}', rules)
    assert all(re.fullmatch(jobs, each) for each in (scrape["job_name"], operator_s))


def test_prometheus_scrapes_ports_that_the_pods_have() -> None:
    text = (INFRA / "observability" / "podmonitor.yaml").read_text(encoding="utf-8")
    spec = yaml.safe_load(text)["spec"]
    head = ray_cluster("cpu")["headGroupSpec"]["template"]["spec"]["containers"][0]
    named = {each["name"] for each in head["ports"] if "metrics" in each["name"]}
    assert {each["port"] for each in spec["podMetricsEndpoints"]} == named
    assert spec["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}


@every_overlay
def test_the_head_has_an_address_that_stays_while_it_is_away(name: str) -> None:
    """KubeRay's own service has none then, and a name that is unknown is exit code 2, not 4."""
    service = ray_cluster(name)["headGroupSpec"]["headService"]
    assert service == {"spec": {"type": "ClusterIP", "publishNotReadyAddresses": True}}


@every_overlay
def test_the_head_runs_no_actors_and_stays_while_its_kubernetes_node_is_drained(name: str) -> None:
    assert ray_cluster(name)["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (budget,) = of_kind(overlay(name), "PodDisruptionBudget")
    assert budget["spec"] == {
        "minAvailable": 1,
        "selector": {"matchLabels": {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}},
    }


@every_overlay
def test_workers_come_and_go_with_the_work_unless_a_queue_admits_them(name: str) -> None:
    cluster = ray_cluster(name)
    (group,) = cluster["workerGroupSpecs"]
    numbers = [group[key] for key in ("minReplicas", "replicas", "maxReplicas")]
    if name == "kueue":
        assert not cluster["enableInTreeAutoscaling"]
        assert len(set(numbers)) == 1
    else:
        assert cluster["enableInTreeAutoscaling"]
        assert numbers == [0, 0, 4]
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 300


@pytest.mark.parametrize("name", ["cpu", "spot-gpu"])
def test_the_job_asks_for_no_more_actors_than_the_largest_cluster_has_room_for(name: str) -> None:
    (group,) = ray_cluster(name)["workerGroupSpecs"]
    (config,) = of_kind(overlay(name), "ConfigMap")
    job = yaml.safe_load(config["data"]["job.yaml"])["cluster"]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    room = group["maxReplicas"] * (cpus // job.get("cpus_per_actor", 1))
    assert job["actors"] == {"min": 1, "max": room}


# Exit codes


def test_the_cron_job_gives_up_at_the_exit_codes_that_stay_and_tries_the_others_again() -> None:
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    _, fail = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    values = fail["onExitCodes"]["values"]
    assert values == sorted([UNEXPECTED, BAD_INPUT, SOME_FAILED, HELD])
    assert STOPPED not in values
    assert cron["spec"]["jobTemplate"]["spec"]["podReplacementPolicy"] == "Failed"


def test_the_pods_that_submit_have_the_label_that_the_network_policy_lets_in() -> None:
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    cron_labels = cron["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    _, template = argo_template()
    (policy,) = [
        each["spec"]
        for each in of_kind(overlay("cpu"), "NetworkPolicy")
        if each["metadata"]["name"] == "nightpress-submit"
    ]
    assert policy == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/component": "submit"}},
        "policyTypes": ["Ingress"],
    }
    assert cron_labels == template["metadata"]["labels"] == policy["podSelector"]["matchLabels"]


def test_the_ray_cron_job_counts_failed_rows_and_a_run_in_other_hands_as_success() -> None:
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    entrypoint = schedule["spec"]["jobTemplate"]["entrypoint"]
    assert f"--ok-codes {SOME_FAILED},{HELD}" in entrypoint
    assert schedule["spec"]["jobTemplate"]["backoffLimit"] == 0


def test_the_ray_cron_job_is_none_that_kuberay_refuses_beyond_its_definition() -> None:
    """Its operator wants rules or the older switch, and the cluster deleted before its record."""
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    template = schedule["spec"]["jobTemplate"]
    assert not {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & set(template)
    times: dict[str, dict[str, int]] = {}
    for rule in template["deletionStrategy"]["deletionRules"]:
        condition = dict(rule["condition"])
        after_s = condition.pop("ttlSeconds")
        times.setdefault(str(condition), {})[rule["policy"]] = after_s
    assert [list(each) for each in times.values()] == [["DeleteCluster", "DeleteSelf"]] * 3
    assert all(each["DeleteCluster"] < each["DeleteSelf"] for each in times.values())


# Hours


def test_every_schedule_begins_with_the_hours_of_the_deadline_in_its_own_time_zone() -> None:
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    (ray_cron,) = of_kind(overlay("raycronjob"), "RayCronJob")
    (workflow,) = of_kind(argo(), "CronWorkflow")
    (argo_schedule,) = workflow["spec"]["schedules"]
    _, template = argo_template()
    commands = {
        cron["spec"]["schedule"]: cron_pod()["containers"][0]["args"],
        ray_cron["spec"]["schedule"]: ray_cron["spec"]["jobTemplate"]["entrypoint"].split(),
    }
    commands[f"{argo_schedule} "] = template["container"]["args"]
    assert len(commands) == 3
    for schedule, command in commands.items():
        assert schedule.startswith("0 22"), schedule
        deadline = command[command.index("--deadline") : command.index("--tz") + 2]
        assert deadline == ["--deadline", "22:00-06:30", "--tz", "Europe/Berlin"]
    hanging = cron["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert ray_cron["spec"]["jobTemplate"]["activeDeadlineSeconds"] == hanging
    assert workflow["spec"]["workflowSpec"]["activeDeadlineSeconds"] == hanging
    zones = (cron["spec"]["timeZone"], ray_cron["spec"]["timeZone"], workflow["spec"]["timezone"])
    assert set(zones) == {"Europe/Berlin"}


# The job, the token, the accounts


def mounted(pod: Resource, container: Resource) -> str:
    """Where a container finds the job."""
    (volume,) = [each for each in pod["volumes"] if each["name"] == "job"]
    assert volume["configMap"] == {"name": "nightpress-job"}
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "job"]
    return f"{mount['mountPath']}/job.yaml"


def test_every_command_names_the_job_where_its_volume_is() -> None:
    pod = cron_pod()
    assert mounted(pod, pod["containers"][0]) == JOB == pod["containers"][0]["args"][2]
    _, template = argo_template()
    assert mounted(template, template["container"]) == JOB == template["container"]["args"][1]
    head = ray_cluster("raycronjob")["headGroupSpec"]["template"]["spec"]
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    assert mounted(head, head["containers"][0]) == JOB
    assert JOB in schedule["spec"]["jobTemplate"]["entrypoint"].split()
    for name in OVERLAYS:
        (config,) = of_kind(overlay(name), "ConfigMap")
        assert (config["metadata"]["name"], list(config["data"])) == (
            "nightpress-job",
            ["job.yaml"],
        )


@every_overlay
def test_every_pod_has_the_credentials_that_the_manual_makes(name: str) -> None:
    manual = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    (secret,) = re.findall(r"create secret generic (\S+)", manual)
    containers = [
        each
        for resource in overlay(name)
        for pod in pod_specs(resource)
        for each in pod["containers"]
    ]
    for container in containers:
        assert container["envFrom"] == [{"secretRef": {"name": secret, "optional": True}}]
    made, applied = manual.index("create secret generic"), manual.index("kubectl apply -k")
    assert made < applied  # the head reads it once, when it starts


@pytest.mark.parametrize("file", ["schedulers/argo.yaml", "observability/podmonitor.yaml"])
def test_resources_of_other_operators_match_their_definitions(file: str) -> None:
    resource = next(yaml.safe_load_all((INFRA / file).read_text(encoding="utf-8")))
    assert custom_findings(resource) == []


def test_argo_runs_the_pod_of_the_cron_job() -> None:
    spec, template = argo_template()
    pod, container = cron_pod(), dict(template["container"])
    submit = pod["containers"][0]
    assert spec["securityContext"] == pod["securityContext"]
    assert [*container.pop("command"), *container.pop("args")] == submit["args"]
    for key, value in container.items():
        assert value == submit[key], key
    assert template["volumes"] == pod["volumes"]
    accounts = {each["metadata"]["name"] for each in of_kind(argo(), "ServiceAccount")}
    assert accounts == {spec["serviceAccountName"]}


def test_argo_s_account_may_report_how_a_pod_ended() -> None:
    (role,), (binding,) = of_kind(argo(), "Role"), of_kind(argo(), "RoleBinding")
    assert [plain_findings(each) for each in argo()[1:]] == [[], [], []]
    assert role["rules"] == [
        {
            "apiGroups": ["argoproj.io"],
            "resources": ["workflowtaskresults"],
            "verbs": ["create", "patch"],
        }
    ]
    spec, _ = argo_template()
    assert [each["name"] for each in binding["subjects"]] == [spec["serviceAccountName"]]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in argo()} == {"nightpress"}


@every_overlay
def test_the_namespace_asks_for_ordinary_users_and_the_autoscaler_is_one(name: str) -> None:
    (made,) = of_kind(overlay(name), "Namespace")
    assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    options = ray_cluster(name).get("autoscalerOptions")
    assert (options is None) == (name == "kueue")
    assert options is None or options["securityContext"] == RESTRICTED


# Models and queues


@pytest.mark.parametrize("name", ["spot-gpu", "kueue"])
def test_workers_on_many_nodes_share_the_volume_of_models(name: str) -> None:
    (claim,) = of_kind(overlay(name), "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (group,) = ray_cluster(name)["workerGroupSpecs"]
    (volume,) = group["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}


@every_overlay
def test_models_are_kept_on_the_volume_that_is_mounted(name: str) -> None:
    (group,) = ray_cluster(name)["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]
    (mount,) = worker["volumeMounts"]
    (volume,) = group["template"]["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    variables = {each["name"]: each["value"] for each in worker["env"]}
    folder: Any = mount["mountPath"]
    assert (variables["XDG_CACHE_HOME"], variables["HF_HOME"]) == (folder, f"{folder}/huggingface")


def test_kueue_s_objects_name_each_other_and_the_cluster_its_queue() -> None:
    resources = overlay("kueue")
    (cluster,) = of_kind(resources, "RayCluster")
    (local,), (queue,) = of_kind(resources, "LocalQueue"), of_kind(resources, "ClusterQueue")
    (flavor,) = of_kind(resources, "ResourceFlavor")
    labels = cluster["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    assert [each["name"] for each in group["flavors"]] == [flavor["metadata"]["name"]]
    (cron,) = of_kind(resources, "CronJob")
    assert cron["spec"]["schedule"] == "0 22,23,0-5 * * *"  # as often as it may be admitted


@pytest.mark.parametrize("name", ["spot-gpu", "kueue"])
def test_workers_alone_are_on_spot_nodes(name: str) -> None:
    cluster = ray_cluster(name)
    head = cluster["headGroupSpec"]["template"]["spec"]
    (cron,) = of_kind(overlay(name), "CronJob")
    submit = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert submit["affinity"] == head["affinity"]
    affinity = head["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    avoided = {each["key"]: each.get("values") for each in term["matchExpressions"]}
    (group,) = cluster["workerGroupSpecs"]
    worker = group["template"]["spec"]
    ((key, value),) = worker["nodeSelector"].items()
    assert value in avoided[key]
    text = (INFRA / "kubernetes/overlays/spot-gpu/workers.yaml").read_text(encoding="utf-8")
    others = re.findall(r"([\w.]+/[\w-]+):? ", text.partition("tolerations")[0])
    spot = {each for each in others if not each.startswith("workerGroupSpecs")}
    assert spot == set(avoided)
    tainted = {each["key"] for each in worker["tolerations"]}
    assert tainted == {
        "nvidia.com/gpu",
        "cloud.google.com/gke-spot",
        "kubernetes.azure.com/scalesetpriority",
    }

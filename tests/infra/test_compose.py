"""compose.yaml is what Docker Compose accepts, and its pieces fit each other."""

from pathlib import Path

import pytest
import yaml
from support.infra_checks import INFRA, findings, run_tool

from nightpress.pipelines.job.spec import RunSpec

COMPOSE = INFRA / "compose" / "compose.yaml"
SCHEMA = ("--builtin-schema", "vendor.compose-spec")


def text() -> str:
    return COMPOSE.read_text(encoding="utf-8")


def test_compose_accepts_the_file() -> None:
    assert findings(run_tool("check-jsonschema", *SCHEMA, COMPOSE)) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("depends_on:", "depend_on:"),
        ("stop_grace_period: 120s", "stop_grace: 120s"),
        ('ports: ["127.0.0.1:8333:8333"]', 'ports: "127.0.0.1:8333:8333"'),
        ("profiles: [submit]", "profiles: submit"),
    ],
)
def test_a_mistake_in_compose_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in text()
    changed = tmp_path / "compose.yaml"
    changed.write_text(text().replace(right, wrong), encoding="utf-8")
    assert findings(run_tool("check-jsonschema", *SCHEMA, changed)) != []


def test_the_job_uses_the_store_and_the_bucket_that_compose_starts() -> None:
    services = yaml.safe_load(text())["services"]
    store = services["store"]
    job_file = INFRA / "compose" / "jobs" / "job.yaml"
    job = RunSpec.from_file(str(job_file))
    assert job.storage["s3"]["endpoint_url"] == "http://store:8333"
    assert "-s3.port=8333" in store["command"]
    (bucket,) = [each for each in store["command"] if each.startswith("-bucket=")]
    assert job.output == f"s3://{bucket.removeprefix('-bucket=')}/runs"
    assert not job.cluster.ship_package
    prompts = (job_file.parent / job.manifests[0]).read_text(encoding="utf-8")
    assert len(prompts.splitlines()) == 4
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name in ("head", "worker", "submit"):
        environment = services[name]["environment"]
        assert [environment[key] for key in keys] == [store["environment"][key] for key in keys]
        assert environment["RAY_AUTH_MODE"] == "token"


def test_every_service_goes_where_the_others_listen() -> None:
    services = yaml.safe_load(text())["services"]
    words = {name: " ".join(service["command"]) for name, service in services.items()}
    assert "--head --block --port=6379 --dashboard-host=0.0.0.0 " in words["head"]
    assert "--num-cpus=0 " in words["head"]  # the driver's, which runs no actors
    assert "--block --address=head:6379 " in words["worker"]
    assert words["submit"].endswith("/jobs/job.yaml --to http://head:8265")
    assert services["submit"]["volumes"] == ["./jobs:/jobs:ro"]
    assert "127.0.0.1:6379" in services["head"]["healthcheck"]["test"]
    (address,) = [each for each in services["store"]["healthcheck"]["test"] if "://" in each]
    assert address == "http://127.0.0.1:8333/healthz"


def test_nothing_is_opened_to_other_machines() -> None:
    services = yaml.safe_load(text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)

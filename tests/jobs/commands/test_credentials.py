"""Planted credentials, searched for in everything that a run leaves behind."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from click.testing import CliRunner
from ray._raylet import GcsClient, GcsClientOptions, GlobalStateAccessor
from ray.cluster_utils import Cluster
from support import servers
from support.servers import Folder

from nightpress.jobs.cli import command
from nightpress.pipelines.storage import Store

TOKEN = "hf_planted0123456789planted"
WRONG = "planted-and-wrong-0123456789"
PLANTED = [servers.SECRET_KEY, servers.ACCESS_KEY, TOKEN, WRONG]

NAMESPACES = (None, b"fun", b"job", b"cluster", b"session", b"tune", b"default")
"""Namespaces of Ray's key-value store: functions, jobs, runtime environments, libraries."""


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    """A cluster of one node, with a session folder of its own."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


def nightpress(job: Path, node: Cluster, **environment: str) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).parent / "nightpress"
    return subprocess.run(
        [program, "run", job, "--address", node.address],
        env={**os.environ, "HF_TOKEN": TOKEN, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def planted_in(data: bytes) -> list[str]:
    return [secret for secret in PLANTED if secret.encode() in data]


def ray_metadata(node: Cluster) -> Iterator[tuple[str, bytes]]:
    """What Ray stores about the cluster and its jobs, with its place."""
    client = GcsClient(address=node.address)
    for namespace in NAMESPACES:
        for key in client.internal_kv_keys(b"", namespace):
            yield f"{namespace!r} {key!r}", key + (client.internal_kv_get(key, namespace) or b"")
    tables = GlobalStateAccessor(GcsClientOptions.create(node.address, None, True, False))
    assert tables.connect()
    kept = [*tables.get_job_table(), *tables.get_actor_table(None, None), *tables.get_node_table()]
    assert len(kept) >= 3
    yield "tables", repr(kept).encode()


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def everything(node: Cluster, store: Store) -> Mapping[str, bytes]:
    session = Path(node.head_node.get_session_dir_path())
    found = dict(files_below(session / "logs"))
    assert any("worker" in name for name in found)
    found |= dict(ray_metadata(node))
    found |= {name: store.read(name) for name in store.list()}
    return found


def job_at(tmp_path: Path, tiny_model: Path, output: Folder, **values: Any) -> Path:
    manifest = tmp_path / "prompts.txt"
    manifest.write_text("a house\na tree\na cat\n")
    path = tmp_path / "job.yaml"
    job = {
        "name": "planted",
        "manifest": str(manifest),
        "output": output.url,
        "storage": output.options,
        "model": str(tiny_model),
        "sampling": {"num_inference_steps": 2, "width": 64, "height": 64},
        **values,
    }
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.mark.slow
def test_no_credential_is_in_what_a_run_leaves_behind(
    node: Cluster, bucket: Folder, tmp_path: Path, tiny_model: Path
) -> None:
    job = job_at(tmp_path, tiny_model, bucket)
    refused = nightpress(job, node, AWS_SECRET_ACCESS_KEY=WRONG)
    assert refused.returncode == 2
    made = nightpress(job, node)
    assert made.returncode == 0, made.stderr
    store = Store(f"{bucket.url}/planted", bucket.options)
    left = everything(node, store)
    assert {"run.json", "report.html", "images/00000000_00.png"} <= set(left)
    said = refused.stdout + refused.stderr + made.stdout + made.stderr
    assert planted_in(said.encode()) == []
    assert {name: planted_in(data) for name, data in left.items() if planted_in(data)} == {}


@pytest.mark.parametrize(
    "storage",
    [
        {"s3": {"secret": WRONG}},
        {"s3": {"client_kwargs": {"aws_secret_access_key": WRONG}}},
        {"s3": {"endpoint_url": f"http://user:{WRONG}@127.0.0.1:1"}},
    ],
)
def test_a_job_with_a_credential_is_refused_without_repeating_it(
    tmp_path: Path,
    tiny_model: Path,
    storage: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = job_at(tmp_path, tiny_model, Folder("s3://bucket/runs", {}), storage=storage)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delattr(ray, "init")  # it is refused before any cluster is looked for
    refused = CliRunner().invoke(command, ["run", str(job)])
    assert refused.exit_code == 2
    assert "credentials" in refused.stderr
    captured = capfd.readouterr()
    said = refused.output + captured.out + captured.err
    assert planted_in(said.encode()) == []

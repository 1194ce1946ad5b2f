"""Joining clusters: two Ray nodes that share no disk, with an S3 server between them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.cluster_utils import Cluster
from support.run_files import PROMPTS
from support.servers import Folder

from nightpress import jobs
from nightpress.jobs.cli import exit_code
from nightpress.jobs.cluster import connection
from nightpress.jobs.cluster.connection import connect
from nightpress.jobs.errors import ClusterError, ClusterUnavailable
from nightpress.jobs.runs import shared
from nightpress.pipelines import Run, open_run
from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def two_nodes(local_ray: None) -> Iterator[Cluster]:
    """A head and a second node with room for one actor each; the last test kills the second."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


WHERE = """
from inspect import getsourcefile
from nightpress.jobs.cluster.connection import cluster, on_every_node
from nightpress.pipelines.job.sections import ClusterSpec
spec = ClusterSpec(address={address!r}, ship_package={ship})
with cluster(spec):
    print(*(place for _, place in on_every_node(getsourcefile, ClusterSpec)))
"""


@pytest.mark.parametrize("ship", [True, False])
def test_the_package_is_sent_with_the_job_or_found_installed(
    two_nodes: Cluster, tmp_path: Path, ship: bool
) -> None:
    code = WHERE.format(address=two_nodes.address, ship=ship)
    # Elsewhere than in the checkout, which Python would add to every worker's path.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    places = done.stdout.split()
    assert len(places) == 2
    assert all(("py_modules" in place) == ship for place in places)


def test_an_address_without_a_cluster_is_refused_in_one_line(make_spec: MakeSpec) -> None:
    job = make_spec(cluster={"address": "127.0.0.1:9"})
    program = Path(sys.executable).parent / "nightpress"
    path = Path(job.output).parent / "job.yaml"
    path.write_text(yaml.safe_dump(job.as_dict()))
    done = subprocess.run([program, "run", path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["local", "auto"])
def test_a_ray_that_does_not_start_in_time_is_reported_in_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: Any) -> None:
        raise Exception("The current node timed out\nduring startup.")  # as Ray does

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(connection, "require_head", lambda address: None)
    with pytest.raises(ClusterUnavailable, match="try again") as caught:
        connect(ClusterSpec(address=address))
    assert str(caught.value).endswith(": The current node timed out during startup.")
    assert exit_code(caught.value) == 4


def test_a_ray_that_cannot_start_at_all_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**settings: Any) -> None:
        raise ValueError("object_store_memory must be at least 78643200")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ClusterError, match="object_store_memory") as caught:
        connect(ClusterSpec(address="local"))
    assert exit_code(caught.value) == 2


def test_a_manifest_on_a_local_disk_is_planned_on_this_machine(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "alive_nodes", lambda: {"a": "10.0.0.1", "b": "10.0.0.2"})
    assert shared.planning_mapper(make_spec()) is map
    mapper = shared.planning_mapper(make_spec(manifest="s3://b/*.parquet"))
    assert mapper is shared.spread_several


def test_what_is_planned_in_one_piece_is_planned_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[list[int]] = []

    def send(function: Callable[[int], int], items: Iterable[int]) -> Iterator[int]:
        sent.append(list(items))
        return map(function, sent[-1])

    monkeypatch.setattr(connection, "spread_map", send)
    assert list(shared.spread_several(abs, [-1])) == [1]
    assert not sent
    assert list(shared.spread_several(abs, iter([-1, -2, -3]))) == [1, 2, 3]
    assert list(shared.spread_several(abs, [])) == []
    assert sent == [[-1, -2, -3], []]


@pytest.mark.parametrize(
    ("actors", "fewest", "most"),
    [("auto", 1, None), (3, 3, 3), ({"min": 2}, 2, None), ({"min": 2, "max": 5}, 2, 5)],
)
def test_actors_may_be_a_number_a_range_or_auto(
    actors: object, fewest: int, most: int | None
) -> None:
    spec = ClusterSpec.model_validate({"actors": actors})
    assert (spec.min_actors, spec.max_actors) == (fewest, most)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose own modules have the names of our folders, and fail when they are imported."""
    folder = tmp_path / "hostile"
    for name in ("jobs", "pipelines"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('the hostile {name}')\n")
    for name in ("pipelines", "diffusion_core"):
        (folder / f"{name}.py").write_text(f"raise ImportError('the hostile {name}.py')\n")
    return folder


LIBRARIES = ("torch", "ray", "json", "types", "random", "numpy", "pyarrow", "click", "nightpress")


@pytest.fixture
def very_hostile(hostile: Path) -> Path:
    """The same with modules that have the names of libraries, and of the whole package."""
    for name in LIBRARIES:
        (hostile / f"{name}.py").write_text(f"raise ImportError('the hostile {name}.py')\n")
    (hostile / "nightpress").mkdir()
    (hostile / "nightpress/__init__.py").write_text("raise ImportError('the hostile nightpress')\n")
    return hostile


def called_in(folder: Path, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own, which finds no Ray that tests have started."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


API = """
from nightpress import RunSpec, plan, run
spec = RunSpec.from_file("job.yaml")
print(plan(spec).num_images, run(spec).num_ok)
"""

NAMES = """
import nightpress
print(*nightpress.__path__)
from jobs import run
"""


def test_in_a_folder_with_a_jobs_of_its_own_that_one_is_imported(hostile: Path) -> None:
    done = called_in(hostile, sys.executable, "-c", NAMES)
    checkout = Path(__file__).parents[3]
    assert done.stdout.split() == [str(checkout / ".src/nightpress")]
    assert done.stderr.splitlines()[-1] == "ImportError: the hostile jobs"


@pytest.mark.slow  # the test above shows which package is imported
def test_the_python_api_works_in_a_folder_full_of_hostile_modules(
    hostile: Path, make_spec: MakeSpec
) -> None:
    (hostile / "job.yaml").write_text(yaml.safe_dump(make_spec().as_dict()))
    (hostile / "notebook.py").write_text(API)
    done = called_in(hostile, sys.executable, "notebook.py")
    assert done.stdout.split() == [str(PROMPTS)] * 2, done.stderr
    assert "the hostile" not in done.stderr


@pytest.mark.slow  # that the package is sent, and which is imported, are shown by tests above
def test_a_job_runs_on_a_cluster_from_a_folder_full_of_hostile_modules(
    two_nodes: Cluster, very_hostile: Path, make_spec: MakeSpec
) -> None:
    spec = make_spec(cluster={"actors": 2, "address": two_nodes.address, "ship_package": True})
    (very_hostile / "job.yaml").write_text(yaml.safe_dump(spec.as_dict()))
    done = called_in(very_hostile, Path(sys.executable).parent / "nightpress", "run", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert f"{PROMPTS} of {PROMPTS} images" in done.stdout
    assert "the hostile" not in done.stderr


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_two_nodes_make_one_image_set_though_one_of_them_dies(
    two_nodes: Cluster, make_spec: MakeSpec, tiny_model: Path, bucket: Folder, tmp_path: Path
) -> None:
    slow = {"num_inference_steps": 20, "height": 64, "guidance_scale": 3.0}
    batch = {"size": 2, "shard_size": 2}
    undisturbed = make_spec(name="undisturbed", sampling=slow, batch=batch)
    jobs.run(undisturbed)

    upload(tiny_model, Store(f"{bucket.url}/models/tiny", bucket.options))
    spec = make_spec(
        model=f"{bucket.url}/models/tiny",
        output=f"{bucket.url}/runs",
        storage=bucket.options,
        sampling=slow,
        batch=batch,
        cluster={"actors": 2, "address": two_nodes.address},
    )
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(spec.as_dict()))
    program = Path(sys.executable).parent / "nightpress"
    with subprocess.Popen([program, "run", job], stderr=subprocess.PIPE, text=True) as driver:
        wait_for_commits(Store(spec.url, spec.storage), 2, driver)
        two_nodes.remove_node(next(iter(two_nodes.worker_nodes)), allow_graceful=False)
        _, said = driver.communicate(timeout=180)
    assert driver.returncode == 0, said
    assert pixels(open_run(spec.url, bucket.options)) == pixels(open_run(undisturbed.url))
    assert len(Store(spec.url, spec.storage).list("images")) == PROMPTS


def pixels(run: Run) -> dict[str, bytes]:
    """image_id -> its pixels; the files differ in the recorded source of the model."""
    return {row["image_id"]: image.tobytes() for row, image in run.images()}


def upload(folder: Path, store: Store) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(folder).as_posix(), path.read_bytes())


def wait_for_commits(store: Store, count: int, driver: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and driver.poll() is None:
        if len(store.list("metadata")) >= count:
            return
        time.sleep(0.1)
    driver.kill()
    raise AssertionError(f"no {count} commits: {driver.communicate()}")


def test_a_home_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/nope")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=r"'/proc/nope'; Ray needs a HOME and a /tmp"):
        connect(ClusterSpec())

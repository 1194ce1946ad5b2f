"""How many copies of a model fit, by its weights' bytes and not by CPUs alone."""

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nightpress.diffusion_core.models.adapter_files import AdapterFiles, ReferenceFiles
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_size import WeightSizes, weight_sizes
from nightpress.jobs.cluster import connection
from nightpress.jobs.cluster.connection import room
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.actor_pool import ActorPool
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.footprint import OVERHEAD_BYTES, sized_factory
from nightpress.jobs.dispatch.memory_needs import Footprint
from nightpress.jobs.errors import ClusterError
from nightpress.pipelines.job.spec import RunSpec

GIB = 1 << 30
SDXL_BYTES = 7 * GIB


def factory(gpus: float = 0.0) -> ActorFactory:
    return ActorFactory(ModelSpec(), {}, cpus=1, gpus=gpus, threads=1)


def sized(
    found: Footprint, gpus: float = 0.0, actors: Any = "auto"
) -> tuple[list[Any], ActorFactory]:
    """The factory after the first actor, and what is said."""

    def footprint() -> Generator[Any, None, Footprint]:
        yield from ()
        return found

    first: Any = SimpleNamespace(factory=factory(gpus), footprint=footprint)
    spec = RunSpec.from_dict({"name": "a", "output": "b", "cluster": {"actors": actors}})
    said, steps = [], sized_factory(spec, first)
    while True:
        try:
            said.append(next(steps))
        except StopIteration as end:
            return said, end.value


def have(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    listed = [{"Alive": True, "NodeID": str(n), "Resources": node} for n, node in enumerate(nodes)]
    monkeypatch.setattr(connection.ray, "nodes", lambda: listed)
    monkeypatch.setattr(connection, "draining_nodes", set)
    monkeypatch.setattr("nightpress.jobs.cluster.capacity.draining_nodes", set)


def test_64_cores_do_not_load_64_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, {"CPU": 64.0, "memory": 90.0 * GIB}, {"CPU": 4.0, "memory": 500.0 * GIB})
    said, actors = sized(Footprint(SDXL_BYTES, 0))
    assert not said
    assert actors.memory_bytes == SDXL_BYTES + OVERHEAD_BYTES
    assert room(1, 0) == 68
    assert room(1, 0, actors.memory_bytes) == 90 // 8 + 4


def test_a_node_too_small_for_one_copy_gets_one_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have(monkeypatch, {"CPU": 64.0, "memory": 4.0 * GIB})
    said, actors = sized(Footprint(SDXL_BYTES, 0))
    assert "an actor needs about 8.6 GB of memory" in said[0].text
    assert room(1, 0, actors.memory_bytes) == 1


def test_a_fixed_number_of_actors_reserves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, {"CPU": 64.0, "memory": 4.0 * GIB})
    assert sized(Footprint(SDXL_BYTES, 0), actors=3) == ([], factory())


def test_a_share_of_a_gpu_that_the_weights_cannot_have_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have(monkeypatch, {"CPU": 64.0, "GPU": 8.0, "memory": 900.0 * GIB})
    with pytest.raises(ClusterError, match=r"puts 10 actors on a GPU of .* 0\.333 or more"):
        sized(Footprint(SDXL_BYTES, 24 * GIB), gpus=0.1)
    assert sized(Footprint(SDXL_BYTES, 24 * GIB), gpus=0.5)[1].gpus == 0.5


def needs(total: int, network: int, block: int) -> dict[str, WeightSizes]:
    return {
        "float32": WeightSizes(2 * total, 2 * network, 2 * block),
        "bfloat16": WeightSizes(total, network, block),
    }


SIZES = needs(24 * GIB, 14 * GIB, 2 * GIB)
"""A model of the size of FLUX.1."""


@pytest.mark.parametrize(
    ("device", "dtype", "advice"),
    [
        (40, "float32", "bfloat16 .25.8 GB.; .*device_map: balanced with .*gpus_per_actor: 2; .*m"),
        (20, "bfloat16", "would fit: .*gpus_per_actor: 2; .*offload: model .15.0 GB at a time.; "),
        (8, "bfloat16", "would fit: .*gpus_per_actor: 4; .*offload: group .2.1 GB at a time.$"),
    ],
)
def test_a_model_larger_than_its_gpu_is_refused_with_the_settings_that_would_fit(
    device: int, dtype: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, {"CPU": 64.0, "GPU": 8.0, "memory": 900.0 * GIB})
    found = Footprint(SIZES[dtype].total_bytes, device * GIB, SIZES, dtype)
    with pytest.raises(ClusterError, match=advice):
        sized(found, gpus=1.0)


@pytest.mark.parametrize(
    ("memory", "gpus", "fits"),
    [
        ({"offload": "model"}, 1.0, True),
        ({"offload": "group"}, 1.0, True),
        ({"device_map": "balanced"}, 2.0, True),
        ({"device_map": "balanced"}, 1.0, False),
        ({}, 2.0, False),
    ],
)
def test_what_makes_a_model_fit_is_counted_as_such(
    memory: dict[str, Any], gpus: float, fits: bool
) -> None:
    found = Footprint(SIZES["bfloat16"].total_bytes, 20 * GIB, SIZES, "bfloat16")
    fault = found.fault(ModelSpec.model_validate({"memory": memory}), gpus)
    assert (fault is None) == fits


def test_the_weights_are_counted_in_the_type_they_are_loaded_in(tiny_model: Path) -> None:
    stored = sum(file.stat().st_size for file in tiny_model.rglob("*.safetensors"))
    sizes = weight_sizes(tiny_model, ModelSpec())
    in_full = sizes["float32"].total_bytes
    assert 0.8 * stored < in_full <= stored
    assert sizes["bfloat16"].total_bytes == pytest.approx(in_full / 2, rel=0.02)


def test_every_part_of_what_is_added_to_a_model_is_counted(
    tiny_model: Path, tmp_path: Path
) -> None:
    def save(name: str) -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"weight": torch.zeros(100)}, tmp_path / name)
        return tmp_path / name

    for part in ("00001-of-00002", "00002-of-00002"):
        save(f"depth/diffusion_pytorch_model-{part}.safetensors")
    save("encoder/model.safetensors")
    adapter = ReferenceFiles(save("ip.safetensors"), tmp_path / "encoder")
    files = AdapterFiles((tmp_path / "depth",), (adapter, adapter))
    spec = ModelSpec.model_validate({"controlnets": [str(tmp_path / "depth")]})
    plain = weight_sizes(tiny_model, ModelSpec())["float32"].total_bytes
    added = weight_sizes(tiny_model, spec, adapters=files)["float32"].total_bytes - plain
    assert added == 400 * (2 + 2 + 1)  # the shards of the ControlNet, two adapters, one encoder


@pytest.mark.parametrize(
    ("fits", "most", "grows", "waiting", "target"),
    [
        (2, None, False, 50, 2),
        (2, None, True, 50, 4),
        (2, 3, True, 50, 3),
        (2, 1, True, 50, 1),
        (8, None, True, 3, 3),
        (0, None, True, 50, 2),
    ],
)
def test_a_cluster_that_may_grow_is_asked_for_as_many_again_within_min_and_max(
    fits: int, most: int | None, grows: bool, waiting: int, target: int
) -> None:
    config = DispatchConfig(min_actors=1, max_actors=most, max_attempts=3, look_first=False)
    pool = ActorPool.__new__(ActorPool)
    pool.workers, pool._config, pool._factory = [], config, factory()
    pool._room, pool._can_grow = lambda *_: fits, lambda: grows
    assert pool._target_size(waiting) == target

"""An image made from pictures has the same bits beside any companions, at any place."""

from pathlib import Path

import pytest
import torch
from support import tiny_models
from support.picture_files import png
from support.pictured_runs import begin, make

from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.inputs.memory_cache import MemoryCache
from nightpress.pipelines.run_directory.commit import read_commit

TARGETS = [
    {"id": "image", "prompt": "a fox", "seed": 5, "init_image": "0.png", "strength": 0.8},
    {
        **{"id": "inpaint", "prompt": "a fox", "seed": 5, "init_image": "0.png"},
        **{"mask_image": "mask.png", "strength": 1.0},
    },
]
COMPANIONS = [
    {"id": "text", "prompt": "text alone", "seed": 1},
    {"id": "same size", "prompt": "a", "seed": 2, "init_image": "1.png", "strength": 0.8},
    {"id": "same picture", "prompt": "b", "seed": 3, "init_image": "0.png", "strength": 0.8},
    {
        **{"id": "other size", "prompt": "c", "seed": 4, "init_image": "0.png"},
        **{"width": 64, "height": 48, "strength": 0.8},
    },
    {
        **{"id": "other mask", "prompt": "d", "seed": 6, "init_image": "1.png"},
        **{"mask_image": "1.png", "strength": 1.0},
    },
]


def test_an_image_has_the_same_bits_whatever_surrounds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    spec = ModelSpec(source=str(tiny_models.save("sd", tmp_path / "model")))
    info = describe(tmp_path / "model", spec)
    sampler = Sampler(load(tmp_path / "model", spec, "cpu"), 2)

    def hashes(name: str, rows: list[dict[str, object]], shard_size: int) -> dict[str, str]:
        """Row -> the sha256 of its image, in a run of these rows."""
        folder = tmp_path / name
        folder.mkdir()
        (folder / "0.png").write_bytes(png(70, 50, 0))
        (folder / "1.png").write_bytes(png(41, 90, 1))
        (folder / "mask.png").write_bytes(png(35, 25, 2))
        values = {"batch": {"size": 2, "shard_size": shard_size}}
        sampling = {"num_inference_steps": 2, "width": 32, "height": 32}
        store, record = begin(folder, rows, info, sampling=sampling, **values)
        for shard in range(record.layout.num_shards):
            make(store, record, shard, sampler)
        parts = [read_commit(store, shard) for shard in range(record.layout.num_shards)]
        return {row["id"]: row["sha256"] for part in parts for row in part.to_pylist()}

    alone = hashes("alone", TARGETS, 1)
    assert None not in alone.values()
    together = hashes("together", [*COMPANIONS, *TARGETS], 100)
    assert None not in together.values()
    assert len(set(together.values())) == 7
    monkeypatch.setattr(MemoryCache, "_keep", lambda self, key, value: None)
    reversed_ = hashes("uncached", [*TARGETS, *reversed(COMPANIONS)], 3)
    assert {**together, **alone} == together == reversed_

"""Batches of a plan: full batches first, one padded batch for each setting, few size changes."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import MODEL, job, planned, write

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines.planning import check, cut_into_shards, units
from nightpress.pipelines.planning.images import full_batches_first
from nightpress.pipelines.shards.batching import PlannedImage, batches, planned_images

SIZES = ((64, 64), (128, 64), (64, 128), (128, 128), (192, 128), (256, 256))
SAMPLERS = ("ddim", "euler", "dpmsolver++")
LORAS = (None, "ink", "clay")
ROW_LORAS = {"row_loras": [{"source": f"/loras/{name}.safetensors"} for name in LORAS if name]}


def mixed(num_rows: int) -> list[dict[str, Any]]:
    """Rows of six sizes, three samplers and two LoRAs or none, in random order."""
    random = np.random.default_rng(5)
    return [
        {
            "prompt": f"p{n}",
            "width": width,
            "height": height,
            "scheduler": SAMPLERS[random.integers(3)],
            "lora": LORAS[random.integers(3)],
        }
        for n, (width, height) in enumerate(random.choice(SIZES, num_rows).tolist())
    ]


def batches_of(images: list[PlannedImage], size: int) -> list[list[PlannedImage]]:
    """The batches of every shard, shard after shard."""
    shards: dict[int, list[PlannedImage]] = {}
    for image in images:
        shards.setdefault(image.shard, []).append(image)
    return [batch for rows in shards.values() for batch in batches(rows, lambda image: size)]


def plan_of(folder: Path, rows: list[dict[str, Any]], size: int, **values: Any) -> list[Any]:
    """The images of a manifest in sampling order."""
    spec = job(folder, write(folder / "m.jsonl", rows), model=ROW_LORAS, **values)
    return planned_images(planned(spec, MODEL, size)[1])


def fewest(images: list[PlannedImage], size: int) -> int:
    """The smallest possible number of batches."""
    return sum(-(-count // size) for count in Counter(image.params for image in images).values())


@pytest.mark.parametrize("size", [1, 4, 8])
def test_a_mixed_manifest_takes_few_more_batches_than_necessary(tmp_path: Path, size: int) -> None:
    images = plan_of(tmp_path, mixed(500), size)
    made = batches_of(images, size)
    assert sorted(image.image_id for batch in made for image in batch) == sorted(
        image.image_id for image in images
    )
    assert all(len({image.params for image in batch}) == 1 for batch in made)
    padded = Counter(batch[0].params for batch in made if len(batch) < size)
    last = {image.shard for image in images[-len(padded) * size :]}
    assert len(made) <= fewest(images, size) + len(last)
    assert sum(padded.values()) <= len(SIZES) * len(SAMPLERS) * len(LORAS) + len(last)


def test_within_one_shard_every_setting_is_padded_once(tmp_path: Path) -> None:
    images = plan_of(tmp_path, mixed(300), 8, batch={"shard_size": 1_000})
    assert len(batches_of(images, 8)) == fewest(images, 8)


def test_the_image_size_changes_rarely_from_the_first_shard_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 250)
    images = plan_of(tmp_path, [row | {"lora": "ink"} for row in mixed(1_000)], 4)
    sizes = [(batch[0].width, batch[0].height) for batch in batches_of(images, 4)]
    changes = sum(one != other for one, other in pairwise(sizes))
    num_parts = 4
    assert changes == num_parts * (2 * len(SIZES) - 2)


def test_a_part_switches_to_each_lora_at_most_twice_and_its_shards_hold_full_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 1_000)
    spec = job(tmp_path, write(tmp_path / "m.jsonl", mixed(3_000)), model=ROW_LORAS)
    layout, plan = planned(spec, MODEL, 4)
    assert [part.num_images for part in layout.parts] == [1_000] * 3
    images = planned_images(plan)
    for part in layout.parts:
        shards = range(part.first_shard, part.first_shard + part.num_shards)
        own = [image for image in images if image.shard in shards]
        adapters = [(batch[0].lora, batch[0].lora_scale) for batch in batches_of(own, 4)]
        begun = [adapters[0], *(now for before, now in pairwise(adapters) if now != before)]
        assert set(Counter(begun).values()) <= {1, 2}
        num_whole = sum(count // 4 for count in Counter(image.params for image in own).values())
        whole = [own[4 * number : 4 * number + 4] for number in range(num_whole)]
        assert all(len({(image.params, image.shard) for image in batch}) == 1 for batch in whole)
        assert 8 * num_whole > len(own)


@given(groups=st.lists(st.integers(0, 5), min_size=1, max_size=200), size=st.integers(1, 9))
def test_full_batches_come_first_and_every_image_comes_once(groups: list[int], size: int) -> None:
    _, ranked = np.unique(groups, return_inverse=True)
    ranked = np.sort(ranked)
    order = full_batches_first(ranked, size)
    assert sorted(order) == list(range(len(groups)))
    counts = np.bincount(ranked)
    num_whole = int((counts // size * size).sum())
    whole, left = ranked[order][:num_whole], ranked[order][num_whole:]
    assert (np.diff(whole) >= 0).all()
    assert (np.diff(left) <= 0).all()
    assert np.array_equal(np.bincount(left, minlength=len(counts)), counts % size)
    for group in range(len(counts)):
        assert (np.diff(order[ranked[order] == group]) > 0).all()


def test_images_that_differ_only_in_guidance_share_batches_if_the_model_supports_it(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": f"p{n}", "guidance_scale": 0.5 + n % 10 / 2} for n in range(100)]
    images = plan_of(tmp_path, rows, 8, batch={"shard_size": 1_000})
    guided = [image for image in images if image.guidance_scale > 1]
    made = list(batches(images, lambda image: 8, supports_per_image_guidance=True))
    assert len(made) == -(-len(guided) // 8) + -(-(100 - len(guided)) // 8) == 10 + 3
    assert all(len({image.guidance_scale > 1 for image in batch}) == 1 for batch in made)
    assert [image.request().guidance_scale for image in images] == [
        image.guidance_scale for image in images
    ]
    apart = list(batches(images, lambda image: 8))
    assert len(apart) == 10 * 2
    assert all(len({image.params for image in batch}) == 1 for batch in apart)


@pytest.mark.parametrize(
    ("mode", "num_batches"), [("image", 1), ("outpaint", 1), ("image+control", 4), ("edit", 4)]
)
def test_images_that_begin_with_pictures_share_batches_whatever_their_guidance(
    tmp_path: Path, mode: str, num_batches: int
) -> None:
    rows = [{"prompt": f"p{n}", "guidance_scale": 2.0 + n} for n in range(4)]
    conditioning = Conditioning(mode).as_text()
    images = [
        replace(each, conditioning=conditioning)
        for each in plan_of(tmp_path, rows, 4, batch={"shard_size": 100})
    ]
    made = list(batches(images, lambda image: 4, supports_per_image_guidance=True))
    assert len(made) == num_batches


@pytest.mark.parametrize(
    "change",
    [
        {"control_scales": (0.8,)},
        {"controls": ("depth",)},
        {"num_references": (2,)},
        {"reference_scales": (0.8,)},
        {"mode": "image+control+reference"},
        {"strength": 0.5},
    ],
)
def test_images_with_other_adapters_scales_or_modes_share_no_batch(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """diffusers takes one scale, and one number of references, for a whole call."""
    one = Conditioning("text+control+reference", None, None, ("edges",), (0.5,), ("style",), (1,))
    one = replace(one, reference_scales=(0.5,))
    rows = [{"prompt": f"p{n}"} for n in range(4)]
    images = [
        replace(each, conditioning=(replace(one, **change) if n % 2 else one).as_text())
        for n, each in enumerate(plan_of(tmp_path, rows, 4, batch={"shard_size": 100}))
    ]
    made = list(batches(images, lambda image: 4, supports_per_image_guidance=True))
    assert [len({each.conditioning for each in batch}) for batch in made] == [1, 1]


def test_a_plan_puts_images_that_can_share_batches_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "guidance_scale": 2 + n % 7, "width": 64 + n % 2 * 64}
        for n in range(120)
    ]
    images = plan_of(tmp_path, rows, 8, batch={"shard_size": 8})
    widths = [image.width for image in images]
    assert widths == [64] * 56 + [128] * 60 + [64] * 4
    shards = [[image for image in images if image.shard == shard] for shard in range(15)]
    assert (
        sum(
            len(list(batches(rows, lambda i: 8, supports_per_image_guidance=True)))
            for rows in shards
        )
        == 16
    )


def test_a_plan_cut_for_another_batch_size_equals_one_checked_for_it(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", mixed(5_000)), model=ROW_LORAS)
    assert cut_into_shards(spec, check(spec, MODEL), 12) == check(spec, MODEL, 12)
    fixed = job(tmp_path, tmp_path / "m.jsonl", model=ROW_LORAS, batch={"shard_size": 7})
    assert cut_into_shards(fixed, check(fixed, MODEL), 12) == check(fixed, MODEL, 12)
    assert cut_into_shards(fixed, check(fixed, MODEL), 12).shard_size == 7


def test_a_batch_size_may_shrink_from_one_batch_to_the_next(tmp_path: Path) -> None:
    images = plan_of(tmp_path, [{"prompt": f"p{n}"} for n in range(10)], 4)
    sizes = iter([4] * 10 + [4, 2, 1, 3, 3])
    assert [len(batch) for batch in batches(images, lambda image: next(sizes))] == [4, 2, 1, 3]

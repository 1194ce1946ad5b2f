"""Which kinds of images are measured, and which batch sizes the others get."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes.fake_runs import FakeSampler, make_shard, prepare
from support.made_runs import record_of
from support.plans import MODEL, job

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.batch_size import BestBatchSize, Ending, SizeTrial
from nightpress.pipelines.planning import SettingsCount, check, plan_part
from nightpress.pipelines.planning.batch_sizes import (
    BatchSizes,
    ImageKind,
    MeasuredKind,
    num_steps,
    settings_to_measure,
)
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.record import RunRecord, new_record
from nightpress.pipelines.shards.batch_size_fallback import BatchSizeFallback
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.storage import Store


def count(side: int, num_images: int, guidance: float = 5.0, steps: int = 20) -> SettingsCount:
    return SettingsCount(SamplingParams(side, side, steps, guidance, "euler"), num_images)


def measured(side: int, size: int, guided: bool = True) -> MeasuredKind:
    trials = (SizeTrial(1, 1.5, 100), SizeTrial(2, 2.5, 140))
    return MeasuredKind(ImageKind(side, side, guided), BestBatchSize(size, Ending.RATE, trials))


def test_a_small_run_is_not_worth_measuring() -> None:
    assert settings_to_measure([count(512, 999)]) == []
    assert settings_to_measure([count(512, 4_999, steps=4)]) == []
    assert settings_to_measure([count(512, 500), count(768, 499)]) == []
    assert settings_to_measure([count(512, 1_000)]) == [count(512, 1).settings]


def test_each_kind_with_enough_steps_is_measured_once_the_costliest_first() -> None:
    counts = [
        count(512, 3_000, guidance=5.0),
        count(512, 700, guidance=7.5),
        count(1024, 2_000),
        count(512, 1_500, guidance=1.0),
        count(768, 10),
    ]
    found = [(each.width, each.guidance_scale) for each in settings_to_measure(counts)]
    assert found == [(1024, 5.0), (512, 5.0), (512, 1.0)]


def test_a_kinds_steps_are_counted_over_all_its_settings() -> None:
    counts = [count(512, 400, guidance=g) for g in (3.0, 5.0, 7.5)]
    assert [ImageKind.of(each) for each in settings_to_measure(counts)] == [
        ImageKind(512, 512, True)
    ]


def test_if_only_all_kinds_together_have_enough_steps_the_costliest_is_measured() -> None:
    counts = [count(512, 900), count(1024, 300)]
    assert num_steps(counts) == 24_000
    assert settings_to_measure(counts) == [count(1024, 1).settings]


def test_without_a_measurement_every_kind_has_the_same_size() -> None:
    assert (
        BatchSizes(6).of(ImageKind(512, 512, True))
        == BatchSizes(6).of(ImageKind(64, 64, False))
        == 6
    )
    assert BatchSizes(6).text == "6"


def test_a_measured_kind_has_its_measured_size() -> None:
    sizes = BatchSizes.from_measurements(
        [measured(512, 16), measured(1024, 3), measured(512, 32, False)]
    )
    assert sizes.largest == 32
    assert sizes.of(ImageKind(512, 512, True)) == 16
    assert sizes.of(ImageKind(1024, 1024, True)) == 3
    assert sizes.text == "16 (512x512-guided), 3 (1024x1024-guided), 32 (512x512-unguided)"


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (ImageKind(1024, 1024, True), 4),
        (ImageKind(1024, 1024, False), 8),
        (ImageKind(768, 512, True), 8),
        (ImageKind(256, 256, True), 16),
        (ImageKind(4096, 4096, True), 1),
    ],
)
def test_an_unmeasured_kind_puts_no_more_pixels_into_a_batch(kind: ImageKind, size: int) -> None:
    assert BatchSizes.from_measurements([measured(512, 16)]).of(kind) == size


@given(
    width=st.integers(1, 512), height=st.integers(1, 512), guided=st.booleans(), size=st.integers(1)
)
def test_derived_sizes_stay_within_the_measured_ones(
    width: int, height: int, guided: bool, size: int
) -> None:
    kind, one = ImageKind(8 * width, 8 * height, guided), measured(512, size)
    found = BatchSizes.from_measurements([one]).of(kind)
    assert 1 <= found <= size
    assert found == 1 or found * kind.weight <= size * one.kind.weight


def test_an_unmeasured_kind_follows_the_most_similar_one() -> None:
    sizes = BatchSizes.from_measurements([measured(1024, 2), measured(512, 32)])
    assert sizes.of(ImageKind(768, 576, True)) == 16
    assert sizes.of(ImageKind(960, 960, True)) == 2


def test_a_record_keeps_measurements_and_its_fingerprint_the_sizes(tmp_path: Path) -> None:
    plain = record_of(str(tmp_path))
    record = replace(plain, batch_size=16, measured=(measured(512, 16), measured(1024, 3)))
    assert RunRecord.from_json(record.to_json(), "run") == record
    values = json.loads(record.to_json())["measured"][1]
    assert values["batch_size"] == 3
    assert values["trials"][1] == {"batch_size": 2, "images_per_s": 2.5, "peak_bytes": 140}
    other = replace(record, measured=(measured(512, 16), measured(1024, 4)))
    slower = replace(measured(1024, 3), best=BestBatchSize(3, Ending.TIME, ()))
    assert other.fingerprint != record.fingerprint
    assert replace(record, measured=(measured(512, 16), slower)).fingerprint == record.fingerprint


def test_a_measured_size_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sizes = BatchSizes.from_measurements([measured(512, 16), measured(1024, 4)])
    working = BatchSizeFallback(store, sizes)
    large, small = SamplingParams(1024, 1024, 20, 5.0), SamplingParams(512, 512, 20, 5.0)
    assert (working.size_for(large), working.size_for(small)) == (4, 16)
    assert working.halve(large, 4) == 2
    assert (working.size_for(large), working.size_for(small)) == (2, 16)
    later = BatchSizeFallback(store, sizes)
    assert later.size_for(large) == 4
    later.refresh()
    assert (later.size_for(large), later.size_for(small)) == (2, 16)


def test_a_size_that_is_far_too_large_is_halved_until_it_fits(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, [f"picture {n}" for n in range(6)])
    record = replace(record, batch_size=4_096)
    sampler = FakeSampler(fits=3)
    events = make_shard(store, record, rows, sampler)
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)
    assert sampler.batches == [2, 2, 2]
    assert set(read_commit(store, 0).column("batch_size").to_pylist()) == {2}
    later = BatchSizeFallback(store, record.batch_sizes)
    later.refresh()
    assert later.size_for(SamplingParams(128, 96, 20, 4.5)) == 2


def test_each_image_size_is_sampled_at_its_own_batch_size(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    sides = [64] * 9 + [128] * 5
    path.write_text("".join(json.dumps({"prompt": "p", "width": w}) + "\n" for w in sides))
    spec = job(tmp_path, path, sampling={"height": 64})
    found = BatchSizes.from_measurements(
        [
            MeasuredKind(ImageKind(64, 64, True), BestBatchSize(4, Ending.RATE, ())),
            MeasuredKind(ImageKind(128, 64, True), BestBatchSize(2, Ending.RATE, ())),
        ]
    )
    layout = check(spec, MODEL, found.largest)
    record, sampler = new_record(spec, MODEL, "cpu", found, layout), FakeSampler()
    rows = plan_part(spec, MODEL, layout, 0)
    make_shard(Store(spec.url), record, rows, sampler)
    assert sampler.batches == [4, 4, 1, 2, 2, 1]
    made = read_commit(Store(spec.url), 0)
    sizes = zip(made["width"].to_pylist(), made["batch_size"].to_pylist(), strict=True)
    assert set(sizes) == {(64, 4), (128, 2)}

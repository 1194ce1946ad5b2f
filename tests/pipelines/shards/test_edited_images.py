"""Images that cannot share a batch are made and recorded one at a time."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes.fake_runs import FakeSampler, make_shard, prepare

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines.run_directory.commit import read_commit


@pytest.mark.parametrize(
    ("pipeline", "batches"),
    [("Flux2KleinPipeline", [1, 1, 1, 1]), ("FluxKontextPipeline", [2, 2])],
)
def test_the_batch_size_of_an_edited_image_is_that_in_which_it_is_made(
    tmp_path: Path, pipeline: str, batches: list[int]
) -> None:
    store, record, rows = prepare(tmp_path, ["a", "b", "c", "d"])
    record = replace(record, model=replace(record.model, pipeline=pipeline), batch_size=2)
    edited = pa.array([Conditioning("edit").as_text()] * rows.num_rows, pa.string())
    place = rows.schema.get_field_index("conditioning")
    rows = rows.set_column(place, rows.schema.field("conditioning"), edited)
    sampler = FakeSampler()
    make_shard(store, record, rows, sampler)
    assert sampler.batches == batches
    assert set(read_commit(store, 0).column("batch_size").to_pylist()) == {max(batches)}


def test_the_batch_size_of_a_class_that_shares_no_calls_is_1(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "b", "c", "d"])
    sampler = FakeSampler()
    sampler.shares_batches = False
    make_shard(store, record, rows, sampler)
    assert sampler.batches == [1, 1, 1, 1]
    assert set(read_commit(store, 0).column("batch_size").to_pylist()) == {1}

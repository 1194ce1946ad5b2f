"""The layout preference: of the images of a row, the best and the worst by a score."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import made_runs
from support.exports import begin_with, spec_of, written
from support.made_runs import SHARD_SIZE, colour, commit

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export import shard
from nightpress.pipelines.export.decisions import Decision
from nightpress.pipelines.export.index import Drop, listed_entries
from nightpress.pipelines.export.preferences import with_pairs
from nightpress.pipelines.export.shard import chunks
from nightpress.pipelines.export.verify import ExportCheck, verify_shards
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.storage import Store

SCORES = [0.1, 0.9, 0.5, 0.5, 0.2, 0.2, None, 0.4]
IDS = ["a", "a", "a", "b", "c", "c", "d", "d"]


def scored_run(folder: Path) -> Run:
    """Two shards of four images; rows a, b, c and d have three, one, two and two of them."""
    run = begin_with(folder, "run", len(IDS))
    for number in range(2):
        records = []
        for place in range(number * SHARD_SIZE, (number + 1) * SHARD_SIZE):
            record = made_runs.made(run, place, prompt=f"row {IDS[place]}")
            facts = replace(record.facts, id=IDS[place])
            scores = {} if SCORES[place] is None else {"clip": SCORES[place]}
            records.append(replace(record, facts=facts, scores=scores))
        commit(run, number, records)
    return open_run(run.url)


def pairs_of(url: str) -> list[Mapping[str, Any]]:
    paths = sorted(Path(url).glob("data/*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist() if paths else []


def test_the_best_and_the_worst_image_of_a_row_are_a_pair(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "press")
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="clip")
    summary = written(spec)
    (pair,) = pairs_of(spec.url)
    assert (pair["image_id"], pair["rejected_image_id"]) == ("1_00", "0_00")
    assert (pair["scores.clip"], pair["rejected_scores.clip"]) == (0.9, 0.1)
    assert (pair["caption"], pair["rejected_seed"]) == ("row a", 0)
    assert summary.num_images == {"train": 2}
    dropped = pq.read_table(f"{spec.url}/dropped.parquet").to_pylist()
    assert {row["reason"] for row in dropped} == {"in no pair"}
    assert {row["image_id"]: row["detail"] for row in dropped} == {
        "2_00": "neither the best nor the worst of its row",
        "3_00": "the only image of its row in its shard",
        "4_00": "no image of its row is better",
        "5_00": "no image of its row is better",
        "6_00": "no score clip",
        "7_00": "the only image of its row in its shard",
    }


def test_the_lowest_may_be_the_best(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "press")
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="-clip")
    written(spec)
    (pair,) = pairs_of(spec.url)
    assert (pair["image_id"], pair["rejected_image_id"]) == ("0_00", "1_00")


def test_datasets_reads_both_pictures_and_verify_knows_them(tmp_path: Path) -> None:
    import datasets
    import numpy as np

    run = scored_run(tmp_path / "press")
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="clip", metadata="none")
    written(spec)
    read = datasets.load_dataset(spec.url, cache_dir=str(tmp_path / "cache"))["train"]
    assert read.column_names == ["caption", "chosen", "rejected"]
    for name, number in (("chosen", 1), ("rejected", 0)):
        pixel = np.asarray(read[0][name].convert("RGB"))[0, 0]
        assert tuple(pixel.tolist()) == colour(number)
    store = Store(spec.url)
    check = ExportCheck(store, (run.store,), "preference", with_facts=False)
    shards = list(verify_shards(check, list(listed_entries(store).values())))
    assert [each.findings for each in shards] == [(), ()]
    assert sum(each.num_checked for each in shards) == 2


def test_a_pair_is_never_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "PART_BYTES", 1)
    run = scored_run(tmp_path / "press")
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="clip")
    written(spec)
    assert len(pairs_of(spec.url)) == 1
    assert chunks([1, 9, 1, 1, 1, 1], 3, together=2) == [(0, 2), (2, 4), (4, 6)]


def divided_run(folder: Path, scores: Mapping[str, float]) -> Run:
    """A run with these images in shards of four."""
    run = begin_with(folder, "run", len(scores))
    named = list(scores.items())
    for number, start in enumerate(range(0, len(named), SHARD_SIZE)):
        records = []
        for place, (image_id, score) in enumerate(named[start : start + SHARD_SIZE], start):
            record = made_runs.made(run, place)
            facts = replace(record.facts, image_id=image_id, id=image_id.rpartition("_")[0])
            records.append(replace(record, facts=facts, scores={"clip": score}))
        commit(run, number, records)
    return open_run(run.url)


def test_rows_whose_images_lie_in_several_shards_are_counted(tmp_path: Path) -> None:
    scores = {"a_00": 0.1, "a_01": 0.2, "b_00": 0.3, "c_x_00": 0.4}
    scores |= {"c_x_01": 0.5, "a_02": 0.6, "b_01": 0.1, "d_00": 0.1}
    scores |= {"e_00": 0.1, "b_02": 0.9}
    run = divided_run(tmp_path / "press", scores)
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="clip")
    summary = written(spec)
    assert summary.num_images == {"train": 2}  # a_00 and a_01
    assert summary.num_rows_apart == 2  # b and c_x; a has a pair, d and e have one image each
    said = "2 prompts gave no pair because the images are in several shards"
    assert said in Path(spec.url, "README.md").read_text()


def test_an_export_without_any_pair_leaves_nothing_behind(tmp_path: Path) -> None:
    run = divided_run(tmp_path / "press", {"a_00": 0.1, "b_00": 0.2})
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="clip")
    with pytest.raises(SpecError, match=r"no image of .* is in the export: 2 in no pair"):
        written(spec)
    assert Store(spec.url).list() == {}


def test_a_score_that_no_image_has_is_refused(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "press")
    spec = spec_of(tmp_path, run.url, layout="preference", rank_by="clio")
    with pytest.raises(SpecError, match=r"no image has a score 'clio'; did you mean clip\?"):
        written(spec)
    assert not Path(spec.url).exists()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.none() | st.floats(-1, 1), st.booleans()), max_size=12
    )
)
def test_of_every_row_at_most_one_pair_is_kept_and_it_is_extreme(
    images: list[tuple[str, float | None, bool]],
) -> None:
    scores = [[] if value is None else [("clip", value)] for _, value, _ in images]
    field = METADATA_SCHEMA.field("scores")
    part = pa.table({"id": [id_ for id_, _, _ in images], "scores": pa.array(scores, field.type)})
    before = [Decision("train") if kept else Decision(None, Drop.FAILED) for *_, kept in images]
    after, pairs = with_pairs(part, before, "clip")
    kept = {row for row, each in enumerate(after) if each.split is not None}
    assert kept == {row for pair in pairs for row in pair}
    for best, worst in pairs:
        id_ = images[best][0]
        of_row = [v for i, v, k in images if i == id_ and k and v is not None]
        assert images[best][1] == max(of_row)
        assert images[worst][1] == min(of_row)
        assert images[best][1] != images[worst][1]
        assert images[worst][0] == id_
    assert len({images[best][0] for best, _ in pairs}) == len(pairs)

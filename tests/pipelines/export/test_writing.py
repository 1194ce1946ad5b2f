"""Writing an export: what is in it, what is left out, and what a second start writes again."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import made_runs
from support.exports import (
    SPLIT,
    begin_with,
    files_of,
    finished_run,
    ids_of,
    parts_of,
    rows_of,
    spec_of,
    written,
    written_with_events,
)
from support.fakes.fake_scorers import loaded
from support.growing_runs import DyingStore, Killed, begin, cats, extend, make

from nightpress.pipelines import Run
from nightpress.pipelines.errors import ChangedExport, Damaged, RunNotFound, SpecError
from nightpress.pipelines.export.events import ShardExported
from nightpress.pipelines.export.index import ShardIndex, listed_entries, read_index
from nightpress.pipelines.export.layouts.registry import WRITERS
from nightpress.pipelines.export.record import EXPORT_FILE, read_export
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import WITH_SETTINGS, ExportSpec
from nightpress.pipelines.export.summary import SUMMARY_FILE
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.image_files.stripping import without_facts
from nightpress.pipelines.records import METADATA_SCHEMA, FailureType
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    decode_commit,
    metadata_columns,
    shard_path,
)
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    LateScores,
    create_late,
)
from nightpress.pipelines.run_directory.selections.files import (
    SELECTION_SCHEMA,
    Selection,
    create_selection,
)
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.scoring.scorer import LoadedScorer
from nightpress.pipelines.shards.late_scoring import LateScorer
from nightpress.pipelines.storage import Store

LAYOUTS = sorted(set(WRITERS) - {"preference"})
HOLD_NOTHING_ELSE = sorted(set(LAYOUTS) - set(WITH_SETTINGS))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finished_run(tmp_path / "press")


def test_every_image_that_is_ok_is_in_one_split(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, split=SPLIT)
    summary = written(spec)
    assert summary.num_images == {"train": 6, "validation": 2, "test": 1}
    assert summary.num_dropped == {"failed": 1}
    splits = [ids_of(spec.url, split) for split in spec.splits]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 9
    assert set.union(*splits) == {f"{n}_00" for n in range(10) if n != 5}


def test_each_row_names_its_run_its_commit_and_its_seed(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, caption="{prompt}, {topic}")
    written(spec)
    for row in rows_of(spec.url):
        number = int(row["id"])
        commit = run.store.read(shard_path(number // made_runs.SHARD_SIZE))
        assert row["commit"] == hashlib.sha256(commit).hexdigest()
        assert (row["run"], row["seed"]) == ("run", number)
        assert row["caption"] == f"a cat, topic {number}"
        assert row["topic"] == f"topic {number}"


def test_full_metadata_keeps_every_byte_of_the_images(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, metadata="full")
    written(spec)
    for row in rows_of(spec.url):
        assert row["image"]["bytes"] == run.store.read(f"images/{row['image_id']}.png")
        assert row["prompt"] == "a cat"
        assert row["worker"] == "node-1"


@pytest.mark.parametrize("layout", HOLD_NOTHING_ELSE)
@pytest.mark.parametrize("metadata", ["minimal", "none"])
def test_less_metadata_tells_no_prompt_model_or_worker(
    run: Run, tmp_path: Path, layout: str, metadata: str
) -> None:
    spec = spec_of(tmp_path, run.url, layout=layout, metadata=metadata, caption="{topic}")
    written(spec)
    private = {EXPORT_FILE}  # names its runs, and stays at home
    for path, data in files_of(spec.url).items():
        if path not in private:
            for secret in (b"a cat", b"node-1", b"builtin", b"parameters"):
                assert secret not in data, path


def test_without_metadata_there_are_only_images_and_captions(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, metadata="none")
    written(spec)
    for row in rows_of(spec.url):
        assert set(row) == {"image", "caption"}
        source = run.store.read(f"images/{row['image']['path']}")
        assert row["image"]["bytes"] == without_facts(source)
        assert read_facts(row["image"]["bytes"]) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_start_writes_nothing(run: Run, tmp_path: Path, layout: str) -> None:
    spec = spec_of(tmp_path, run.url, layout=layout)
    first = written(spec)
    before = files_of(spec.url)
    again, events, num_written = written_with_events(spec)
    assert (again.num_images, events, num_written) == (first.num_images, [], 0)
    assert files_of(spec.url) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_shard_that_a_retry_changed_is_written_again(
    run: Run, tmp_path: Path, layout: str
) -> None:
    spec = spec_of(tmp_path, run.url, layout=layout)
    written(spec)
    before, others = parts_of(spec.url), objects_of_others(spec.url)
    remade = made_runs.made(run, 5, attempts=1)
    amend_commit(run.store, 1, {1: remade})
    summary, events, num_written = written_with_events(spec)
    assert num_written == sum(isinstance(each, ShardExported) for each in events) == 1
    assert (summary.num_images, summary.num_dropped) == ({"train": 10}, {})
    after = parts_of(spec.url)
    assert objects_of_others(spec.url) == others
    assert {path: before[path] for path in others} == {path: after[path] for path in others}
    named = {each.path for index in indexes(spec.url) for each in index.objects}
    assert set(after) == named


def indexes(url: str) -> list[ShardIndex]:
    store = Store(url)
    return [read_index(store, path) for path in listed_entries(store).values()]


def objects_of_others(url: str) -> set[str]:
    """The objects of all shards but the second."""
    return {o.path for index in indexes(url) if index.shard != 1 for o in index.objects}


@pytest.mark.parametrize(("layout", "step"), [("hf-parquet", 4), ("imagefolder", 11)])
def test_a_start_that_is_killed_at_any_write_changes_nothing_in_the_end(
    run: Run, tmp_path: Path, layout: str, step: int
) -> None:
    whole = spec_of(tmp_path / "whole", run.url, layout=layout, split=SPLIT)
    counting = DyingStore(whole.url)
    written(whole, counting)
    assert counting.num_writes > 15
    for writes in range(0, counting.num_writes, step):
        spec = spec_of(tmp_path / f"{writes}", run.url, layout=layout, split=SPLIT)
        dying = DyingStore(spec.url)
        dying.writes_left = writes
        with pytest.raises(Killed):
            written(spec, dying)
        assert not Path(spec.url, SUMMARY_FILE).exists()
        summary, _, num_written = written_with_events(spec)
        assert summary.num_images == {"train": 6, "validation": 2, "test": 1}
        assert num_written <= 3
        assert content(spec.url) == content(whole.url)


def content(url: str) -> dict[str, bytes]:
    """Every file but those that have times."""
    changing = {SUMMARY_FILE, EXPORT_FILE, "croissant.json"}
    return {path: data for path, data in files_of(url).items() if path not in changing}


def test_what_a_killed_start_left_under_other_names_is_deleted(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url)
    written(spec)
    before = content(spec.url)
    Path(spec.url, "data/train-0-00001-0123456789abcdef.parquet").write_bytes(b"left over")
    Path(spec.url, "index/0-00001-1-0123456789abcdef-0123456789abcdef.parquet").write_bytes(b"x")
    Path(spec.url, SUMMARY_FILE).unlink()
    written(spec)
    assert content(spec.url) == before


def test_a_run_of_several_editions_adds_to_its_export(tmp_path: Path) -> None:
    job = begin(tmp_path, cats(1, 2, 3, mood="glad"), batch={"size": 2, "shard_size": 2})
    make(job)
    spec = spec_of(tmp_path, job.url, caption="{mood}", split={"by": "id", "test": "40%"})
    written(spec)
    before = {split: ids_of(spec.url, split) for split in spec.splits}
    extend(job, [*cats(1, 2, 3, mood="glad"), *cats(4, 5, 6, mood="sad", year=1990)])
    make(job)
    sources = open_sources(spec)
    record = read_export(Store(spec.url))
    assert record is not None
    (said,) = record.left_out(sources)
    assert said.endswith("columns that are left out: year (it came after the export began)")
    summary, _, num_written = written_with_events(spec)
    assert (summary.total, num_written) == (6, 2)
    assert all(before[split] <= ids_of(spec.url, split) for split in spec.splits)
    moods = {row["id"]: row["caption"] for row in rows_of(spec.url)}
    assert moods == {f"r{n}": "glad" if n < 4 else "sad" for n in range(1, 7)}
    assert all("year" not in row for row in rows_of(spec.url))


def test_a_condition_selects_images(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, select={"where": "seed >= 3 and topic != 'topic 7'"})
    summary = written(spec)
    assert ids_of(spec.url) == {f"{n}_00" for n in (3, 4, 6, 8, 9)}
    assert summary.num_dropped == {"failed": 1, "not selected": 4}


def select(run: Run, name: str, chosen: dict[str, str]) -> None:
    """Write a selection: image_id -> sha256."""
    rank = range(1, len(chosen) + 1)
    images = pa.table([list(chosen), list(chosen.values()), rank], schema=SELECTION_SCHEMA)
    selection = Selection(
        name, run.record.created_at, SelectionRequest(), images, 10, 10, (), {}, {}
    )
    create_selection(run.store, selection)


def hashes(run: Run) -> dict[str, str]:
    rows = run.metadata.to_table(columns=["image_id", "sha256"]).to_pylist()
    return {row["image_id"]: row["sha256"] for row in rows if row["sha256"]}


def test_a_selection_names_images_by_their_bytes(run: Run, tmp_path: Path) -> None:
    known = hashes(run)
    select(run, "best", {"1_00": known["1_00"], "8_00": known["8_00"], "2_00": "0" * 64})
    spec = spec_of(tmp_path, run.url, select="best")
    summary = written(spec)
    assert ids_of(spec.url) == {"1_00", "8_00"}
    assert summary.num_dropped == {
        "failed": 1,
        "not selected": 6,
        "changed since it was selected": 1,
    }


def test_every_drop_is_listed_with_its_reason(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, select={"where": "seed > 1"})
    written(spec)
    dropped = pq.read_table(f"{spec.url}/dropped.parquet").to_pylist()
    assert dropped == [
        {"run": "run", "image_id": "0_00", "reason": "not selected", "detail": None},
        {"run": "run", "image_id": "1_00", "reason": "not selected", "detail": None},
        {"run": "run", "image_id": "5_00", "reason": "failed", "detail": "NonFinite"},
    ]


@pytest.mark.parametrize(
    ("metadata", "detail"),
    [("minimal", "Rejected: sharpness 31 < 40 in 16 of 16 draws"), ("none", "Rejected")],
)
def test_a_drop_says_what_the_gates_did_not_let_pass(
    tmp_path: Path, metadata: str, detail: str
) -> None:
    run = begin_with(tmp_path / "press", "run", 2)
    rejected = replace(
        made_runs.failed(run, 1),
        error_type=FailureType.REJECTED,
        error="sharpness 31 < 40 in 16 of 16 draws",
    )
    made_runs.commit(run, 0, [made_runs.made(run, 0), rejected])
    spec = spec_of(tmp_path, run.url, metadata=metadata)
    written(spec)
    (dropped,) = pq.read_table(f"{spec.url}/dropped.parquet").to_pylist()
    assert (dropped["reason"], dropped["detail"]) == ("failed", detail)


def test_several_runs_make_one_set_and_equal_ids_share_a_split(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / "press", name) for name in ("a", "b")]
    split = SPLIT | {"leaks": "keep"}
    spec = spec_of(tmp_path, [run.url for run in runs], split=split)
    summary = written(spec)
    assert summary.num_images == {"train": 12, "validation": 4, "test": 2}
    for row in rows_of(spec.url, "test"):
        assert row["image_id"] in ids_of(spec.url, "test")
    assert {row["run"] for row in rows_of(spec.url)} == {"a", "b"}


@pytest.mark.parametrize("packing", ["webdataset", "parquet"])
def test_packed_runs_give_the_same_rows(tmp_path: Path, packing: str) -> None:
    from support.fakes.fake_runs import finished_run as packed_run

    prompts = ["a cat", "a dog", "nan", "a tree", "a car"]
    rows: list[list[dict[str, Any]]] = []
    for kind in (packing, "none"):
        store, _ = packed_run(tmp_path / kind, prompts, shard_size=2, packing=kind)
        spec = spec_of(tmp_path / kind, store.url)
        summary = written(spec)
        assert (summary.num_images, summary.num_dropped) == ({"train": 4}, {"failed": 1})
        own = ("commit", "run", "started_at")
        rows.append([{k: v for k, v in row.items() if k not in own} for row in rows_of(spec.url)])
    assert [row["caption"] for row in rows[0]] == [row["caption"] for row in rows[1]]
    assert [row["image"]["bytes"] for row in rows[0]] == [row["image"]["bytes"] for row in rows[1]]


def test_a_grown_run_adds_to_its_export(tmp_path: Path) -> None:
    run = made_runs.begin(str(tmp_path / "press"))
    made_runs.finish(run)
    spec = spec_of(tmp_path, run.url, split=SPLIT)
    written(spec)
    before = {split: ids_of(spec.url, split) for split in spec.splits}
    amend_commit(run.store, 1, {1: made_runs.made(run, 5)})
    written(spec)
    after = {split: ids_of(spec.url, split) for split in spec.splits}
    assert all(before[split] <= after[split] for split in spec.splits)
    assert sum(map(len, after.values())) == 10


def test_another_export_under_the_same_name_is_refused(run: Run, tmp_path: Path) -> None:
    written(spec_of(tmp_path, run.url))
    before = files_of(f"{tmp_path}/sets/set")
    other = spec_of(tmp_path, run.url, caption="{id}", metadata="full")
    with pytest.raises(ChangedExport) as caught:
        written(other)
    assert "caption: '{prompt}' -> '{id}'" in str(caught.value)
    assert "metadata: 'minimal' -> 'full'" in str(caught.value)
    assert files_of(f"{tmp_path}/sets/set") == before


def test_another_run_or_another_selection_is_refused(run: Run, tmp_path: Path) -> None:
    known = hashes(run)
    select(run, "best", {"1_00": known["1_00"]})
    spec = spec_of(tmp_path, run.url, select="best")
    written(spec)
    Path(run.url, "selections/best.parquet").unlink()
    select(run, "best", {"2_00": known["2_00"]})
    with pytest.raises(ChangedExport, match="select: its images in run 1"):
        written(spec)
    other = finished_run(tmp_path / "other", seed=7)
    with pytest.raises(ChangedExport, match="from: run 1"):
        written(spec_of(tmp_path, other.url))


def unfinished(folder: Path) -> str:
    run = made_runs.begin(str(folder / "unfinished"))
    made_runs.commit(run, 0, [made_runs.made(run, n) for n in range(4)])
    return run.url


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"from": "nowhere"}, RunNotFound, "no run here"),
        ({"from": "unfinished"}, RunNotFound, "not finished: 2 shards of 3 not committed yet"),
        ({"caption": "{promt}"}, SpecError, "did you mean prompt or to_prompt or prompt_cut?"),
        ({"split": {"by": "topik", "test": "5%"}}, SpecError, "did you mean topic?"),
        ({"select": {"where": "seed > 900"}}, SpecError, "no image that is ok meets"),
        ({"select": {"where": "sead > 9"}}, SpecError, "did you mean 'seed'?"),
        (
            {"select": "best"},
            SpecError,
            "no selection 'best'; its selections are: none",
        ),
        ({"select": "none"}, SpecError, "this selection is empty"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, keys: dict[str, Any], error: type[Exception], said: str
) -> None:
    select(run, "none", {})
    urls = {"nowhere": str(tmp_path / "nowhere"), "unfinished": unfinished(tmp_path)}
    source = urls.get(keys.get("from", ""), run.url)
    spec = ExportSpec.from_dict(
        {"name": "set", "output": str(tmp_path / "sets"), **keys, "from": source}
    )
    with pytest.raises(error) as caught:
        written(spec)
    assert said in str(caught.value)
    assert not Path(spec.url).exists()


def test_a_run_or_a_training_is_never_written_into(run: Run, tmp_path: Path) -> None:
    spec = ExportSpec.from_dict({"name": "run", "output": f"{tmp_path}/press", "from": run.url})
    with pytest.raises(SpecError, match="is a run; give this export another name"):
        written(spec)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_image_stops_the_export_and_is_named(
    run: Run, tmp_path: Path, damage: str
) -> None:
    image = Path(run.url, "images/6_00.png")
    image.unlink() if damage == "gone" else image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(Damaged, match=r"image 6_00: .*nightpress verify --repair makes it again"):
        written(spec_of(tmp_path, run.url))
    assert not Path(tmp_path, "sets/set", SUMMARY_FILE).exists()


def test_columns_of_two_runs_must_have_the_same_types(tmp_path: Path) -> None:
    urls = []
    for name, values in (("a", pa.array([1] * 10)), ("b", pa.array(["x"] * 10))):
        run = made_runs.begin(str(tmp_path / "press"), name=name)
        for shard, size in enumerate((4, 4, 2)):
            records = [made_runs.made(run, shard * 4 + n) for n in range(size)]
            made_runs.commit(run, shard, records, topic=values.slice(0, size))
        urls.append(run.url)
    with pytest.raises(SpecError, match="'topic' is int64 in run 1 and string in run 2"):
        written(spec_of(tmp_path, urls))
    assert written(spec_of(tmp_path, urls, metadata="none")).total == 20


def test_a_carried_column_never_takes_the_place_of_our_own(tmp_path: Path) -> None:
    run = made_runs.begin(str(tmp_path / "press"))
    for shard, size in enumerate((4, 4, 2)):
        records = [made_runs.made(run, shard * 4 + n) for n in range(size)]
        made_runs.commit(run, shard, records, caption=pa.array([f"own {shard}"] * size))
    spec = spec_of(tmp_path, run.url, caption="{caption}!")
    written(spec)
    for row in rows_of(spec.url):
        assert row["caption"] == f"{row['manifest_caption']}!"


def test_columns_that_no_layout_holds_are_left_out_and_named(tmp_path: Path) -> None:
    run = made_runs.begin(str(tmp_path / "press"))
    for shard, size in enumerate((4, 4, 2)):
        records = [made_runs.made(run, shard * 4 + n) for n in range(size)]
        tags = pa.array([[("a", 1)]] * size, pa.map_(pa.string(), pa.int64()))
        made_runs.commit(run, shard, records, tags=tags, empty=pa.nulls(size))
    spec = spec_of(tmp_path, run.url)
    written(spec)
    record = read_export(Store(spec.url))
    assert record is not None
    (said,) = record.left_out(open_sources(spec))
    assert said.endswith("left out: tags (a map), empty (no values)")
    assert {"tags", "empty"}.isdisjoint(rows_of(spec.url)[0])


def test_scores_are_columns_of_their_own(tmp_path: Path) -> None:
    run = made_runs.begin(str(tmp_path / "press"))
    for shard, size in enumerate((4, 4, 2)):
        records = [
            replace(made_runs.made(run, shard * 4 + n), scores={"clip": 0.5 + n, "nsfw": None})
            for n in range(size)
        ]
        made_runs.commit(run, shard, records)
    spec = spec_of(tmp_path, run.url)
    written(spec)
    for row in rows_of(spec.url):
        assert row["scores.clip"] == 0.5 + int(row["id"]) % 4
        assert row["scores.nsfw"] is None


def test_scores_are_found_behind_shards_without_images(tmp_path: Path) -> None:
    run = made_runs.begin(str(tmp_path / "press"))
    made_runs.commit(run, 0, [made_runs.failed(run, n) for n in range(4)])
    for shard, size in ((1, 4), (2, 2)):
        records = [made_runs.made(run, shard * 4 + n) for n in range(size)]
        made_runs.commit(run, shard, [replace(each, scores={"clip": 0.5}) for each in records])
    spec = spec_of(tmp_path, run.url)
    written(spec)
    assert {row["scores.clip"] for row in rows_of(spec.url)} == {0.5}


@pytest.mark.parametrize(
    ("scorers", "names"),
    [
        ({"red": loaded(lambda image: {"": 0.5})}, {"scores.red", "scores.sharpness"}),
        ({}, {"scores.sharpness"}),
    ],
)
def test_late_scores_are_found_behind_shards_without_images(
    tmp_path: Path, scorers: dict[str, LoadedScorer], names: set[str]
) -> None:
    run = made_runs.begin(str(tmp_path / "press"))
    made_runs.commit(run, 0, [made_runs.failed(run, n) for n in range(4)])
    for shard, size in ((1, 4), (2, 2)):
        made_runs.commit(run, shard, [made_runs.made(run, shard * 4 + n) for n in range(size)])
    for shard in range(3):
        LateScorer(run, scorers).score(shard)
    spec = spec_of(tmp_path, run.url)
    written(spec)
    assert names <= rows_of(spec.url)[0].keys()


def test_late_scores_that_only_some_shards_have_are_found(run: Run, tmp_path: Path) -> None:
    add_late_scores(run, 1, 0, 0.9)
    spec = spec_of(tmp_path, run.url)
    written(spec)
    assert [row["scores.clip"] for row in rows_of(spec.url)].count(0.9) == 3


def add_late_scores(run: Run, shard: int, layer: int, clip: float) -> None:
    """Give every image of a shard the score `clip`, as `nightpress score` does."""
    data = run.store.read(shard_path(shard))
    rows = metadata_columns(decode_commit(run.store, shard, data))
    scores = pa.array([[("clip", clip)]] * len(rows), METADATA_SCHEMA.field("scores").type)
    rows = rows.set_column(rows.schema.get_field_index("scores"), "scores", scores)
    part = LatePart(shard, len(data), layer)
    assert create_late(run.store, part, LateScores(rows, {"clip": "f"}), "c")


def test_late_scores_are_exported_and_newer_ones_rewrite_their_shards_alone(
    run: Run, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, run.url, select={"where": "scores.clip > 0.5"})
    add_late_scores(run, 0, 0, 0.9)
    add_late_scores(run, 1, 0, 0.1)
    written(spec)
    assert {row["image_id"] for row in rows_of(spec.url)} == {f"{n}_00" for n in range(4)}
    assert {row["scores.clip"] for row in rows_of(spec.url)} == {0.9}
    add_late_scores(run, 1, 1, 0.8)
    _, _, num_written = written_with_events(spec)
    assert num_written == 1
    assert {row["scores.clip"] for row in rows_of(spec.url)} == {0.8, 0.9}
    assert written_with_events(spec)[1:] == ([], 0)

"""Choosing images of a run: which are chosen, why others are not, and that it stays so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scored_runs import HASH, Scored, begin, made, part

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.errors import Damaged, SelectionNotFound, SpecError, UnsupportedFormat
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.commit import commit_shard, commit_sizes, shard_path
from nightpress.pipelines.run_directory.committed_parts import committed_parts
from nightpress.pipelines.run_directory.late_scores import LatePart, LateScores, create_late
from nightpress.pipelines.run_directory.selections.changes import all_changes, changes_of
from nightpress.pipelines.run_directory.selections.files import (
    REASONS,
    Selection,
    selection_path,
)
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.run_directory.selections.selecting import select_images


def other_hash(number: int) -> str:
    """A perceptual hash that is near no other number's."""
    rng = np.random.default_rng(number)
    return bytes(rng.integers(0, 256, 32, np.uint8)).hex()


def clip(row: str, variant: int, score: float | None, **changes: object) -> Scored:
    number = hash_number(row, variant)
    image = Scored(row, variant, {"clip": score}, perceptual_hash=other_hash(number))
    return replace(image, **changes)


def hash_number(row: str, variant: int) -> int:
    return sum(map(ord, row)) * 100 + variant


EIGHT = [
    clip("cat", 0, 0.30, category="animal"),
    clip("cat", 1, 0.50, category="animal"),
    clip("cat", 2, 0.40, category="animal"),
    clip("dog", 0, 0.50, category="animal"),
    clip("dog", 1, None, category="animal"),
    clip("car", 0, 0.20, category="thing"),
    clip("car", 1, 0.60, category="thing"),
    clip("bus", 0, 0.90, category="thing", failed=True),
]


def chosen(selection: Selection) -> list[str]:
    return selection.images.column("image_id").to_pylist()


def dropped(selection: Selection) -> dict[str, int]:
    return {drop.reason: drop.num_images for drop in selection.drops}


def select(run: Run, name: str = "best", **request: object) -> Selection:
    return select_images(run, name, SelectionRequest.of(**request))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(str(tmp_path), EIGHT, shard_size=3)


def test_without_a_request_every_ok_image_is_chosen_in_the_order_of_ids(run: Run) -> None:
    selection = select(run)
    assert chosen(selection) == sorted(each.image_id for each in EIGHT if not each.failed)
    assert selection.images.column("rank").to_pylist() == [1, 2, 3, 4, 5, 6, 7]
    assert dropped(selection) == {"failed": 1}
    assert selection.drops[0].examples == ("bus_00",)


def test_images_rank_by_score_and_then_by_id(run: Run) -> None:
    assert chosen(select(run, by="clip")) == [
        *("car_01", "cat_01", "dog_00", "cat_02", "cat_00", "car_00")
    ]
    lowest = select(run, "low", by="-clip")
    assert chosen(lowest) == ["car_00", "cat_00", "cat_02", "cat_01", "dog_00", "car_01"]
    assert dropped(lowest) == {"failed": 1, "no score clip": 1}


def test_the_first_of_each_id_are_kept(run: Run) -> None:
    selection = select(run, by="clip", top=2, per="id")
    assert chosen(selection) == ["car_01", "cat_01", "dog_00", "cat_02", "car_00"]
    assert dropped(selection)["beyond the first 2 of each id"] == 1
    assert chosen(select(run, "few", by="clip", top=2)) == ["car_01", "cat_01"]


def test_a_condition_is_met_before_images_are_ranked(run: Run) -> None:
    selection = select(run, where="scores.clip >= 0.4 and category = 'animal'", by="clip")
    assert chosen(selection) == ["cat_01", "dog_00", "cat_02"]
    assert dropped(selection) == {"failed": 1, "no score clip": 1, "condition not met": 3}


def test_a_missing_score_is_no_reason_where_it_decides_nothing(run: Run) -> None:
    selection = select(run, where="scores.clip >= 0.4 or category = 'animal'")
    assert "dog_01" in chosen(selection)
    assert dropped(selection) == {"failed": 1, "condition not met": 1}


def test_every_value_of_the_balanced_column_has_equally_many(run: Run) -> None:
    selection = select(run, by="clip", balance="category")
    assert chosen(selection) == ["car_01", "cat_01", "dog_00", "car_00"]
    assert dropped(selection)["beyond 2 of each category"] == 2


@pytest.mark.parametrize("column", ["variant", "sampling_s", "started_at", "lora_scale_of_a_row"])
def test_columns_of_any_plain_type_group_images(tmp_path: Path, column: str) -> None:
    run = begin(str(tmp_path), 4)
    carried = pa.nulls(4)
    commit_shard(run.store, 0, part(EIGHT[:4], lora_scale_of_a_row=carried))
    assert select(run, by="clip", top=1, per=column).num_chosen == (3 if column == "variant" else 1)


def test_null_is_a_value_of_its_own(tmp_path: Path) -> None:
    images = [clip("a", n, n / 10, category=[None, None, "x", "x"][n]) for n in range(4)]
    selection = select(made(str(tmp_path), images), by="clip", top=1, per="category")
    assert chosen(selection) == ["a_03", "a_01"]


MEASURED = {"sharpness": 31.0, "exposure": 0.5, "clipping": 0.0, "contrast": 0.2}


def test_exact_duplicates_have_the_same_bytes_or_the_same_pixels(tmp_path: Path) -> None:
    images = [
        Scored("a", 0, MEASURED | {"clip": 0.1}),
        Scored("b", 0, MEASURED | {"clip": 0.2}),
        Scored("c", 0, MEASURED | {"clip": 0.3, "sharpness": 31.5}),
        Scored("d", 0, {"clip": 0.4}, content="same"),
        Scored("e", 0, {"clip": 0.5}, content="same"),
        Scored("f", 0, {"clip": 0.6}, perceptual_hash=None),
    ]
    selection = select(made(str(tmp_path), images), by="clip", dedup="exact")
    assert chosen(selection) == ["f_00", "e_00", "c_00", "b_00"]
    assert dropped(selection) == {"duplicate": 2}


def test_near_duplicates_leave_the_best_of_them(tmp_path: Path) -> None:
    near = f"{int(HASH[:16], 16) ^ 0b111:016x}" + HASH[16:]
    images = [
        clip("a", 0, 0.1, perceptual_hash=HASH),
        clip("b", 0, 0.9, perceptual_hash=near),
        clip("c", 0, 0.5),
        clip("d", 0, 0.7, perceptual_hash=None),
        clip("e", 0, 0.2, content="same", perceptual_hash=HASH),
        clip("f", 0, 0.3, content="same", perceptual_hash=HASH),
    ]
    selection = select(made(str(tmp_path), images), by="clip", dedup="near")
    assert chosen(selection) == ["b_00", "c_00"]
    assert dropped(selection) == {"no perceptual hash": 1, "duplicate": 1, "near-duplicate": 2}


def test_the_next_best_takes_the_place_of_a_duplicate(tmp_path: Path) -> None:
    images = [
        clip("a", 0, 0.9, perceptual_hash=HASH),
        clip("a", 1, 0.8, perceptual_hash=HASH),
        clip("a", 2, 0.7),
    ]
    run = made(str(tmp_path), images)
    assert chosen(select(run, by="clip", dedup="near", top=2, per="id")) == ["a_00", "a_02"]


def test_values_that_are_no_number_have_no_rank(tmp_path: Path) -> None:
    images = [clip("a", 0, float("nan")), clip("a", 1, 0.1), clip("a", 2, float("inf"))]
    selection = select(made(str(tmp_path), images), by="clip")
    assert chosen(selection) == ["a_02", "a_01"]
    assert dropped(selection) == {"no score clip": 1}


SOME = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([0.1, 0.2, 0.3, None]),
        st.sampled_from([HASH, other_hash(1), other_hash(2), None]),
        st.sampled_from(["x", "y", None]),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)

REQUESTS = st.builds(
    SelectionRequest,
    where=st.sampled_from([None, "scores.clip > 0.1", "category = 'x' or scores.clip > 0.2"]),
    by=st.sampled_from(["clip", "-clip"]),
    dedup=st.sampled_from([None, "exact", "near"]),
    top=st.sampled_from([None, 1, 2]),
    balance=st.sampled_from([None, "category"]),
)


@settings(max_examples=30, deadline=None)
@given(SOME, REQUESTS, st.randoms(use_true_random=False))
def test_neither_shards_nor_their_order_change_what_is_chosen(
    tmp_path_factory: pytest.TempPathFactory, some: list, request: SelectionRequest, rng: object
) -> None:
    images = [
        Scored(row, n, {"clip": score}, perceptual_hash, category, failed)
        for n, (row, score, perceptual_hash, category, failed) in enumerate(some)
    ]
    shuffled = list(images)
    rng.shuffle(shuffled)
    found = []
    for some_images, shard_size in ((images, 3), (shuffled, 5)):
        run = made(str(tmp_path_factory.mktemp("run")), some_images, shard_size)
        selection = _chosen_if_any(run, request)
        found.append(selection and (selection.images.to_pylist(), dropped(selection)))
        if selection is not None:
            total = selection.num_chosen + sum(dropped(selection).values())
            assert total == selection.num_committed == len(images)
    assert found[0] == found[1]


def _chosen_if_any(run: Run, request: SelectionRequest) -> Selection | None:
    try:
        return select_images(run, "best", request)
    except SpecError:  # no image is left
        assert run.selections == ()
        return None


def test_a_selection_is_read_back_as_it_was_made(run: Run) -> None:
    made_now = select(run, by="clip", where="category = 'animal'")
    assert run.selections == ("best",)
    read = open_run(run.url).selection("best")
    assert read == made_now
    assert read.request == SelectionRequest(by="clip", where="category = 'animal'")
    assert list(read.commits) == [0, 1, 2]
    assert all(len(sha256) == 64 for sha256 in read.commits.values())


def test_the_stored_file_is_plain_parquet_with_its_reasons_as_json(run: Run) -> None:
    select(run, by="clip", top=1)
    table = pq.read_table(Path(run.url, "selections/best.parquet"))
    assert table.column_names == ["image_id", "sha256", "rank"]
    reasons = json.loads(table.schema.metadata[REASONS])
    assert reasons["request"] == {"by": "clip", "top": 1}
    assert reasons["drops"][-1] == {
        "reason": "beyond the first 1",
        "num_images": 5,
        "examples": ["cat_01", "dog_00", "cat_02"],
    }


def test_making_it_again_changes_nothing(run: Run) -> None:
    first = select(run, by="clip")
    before = Path(run.url, "selections/best.parquet").read_bytes()
    again = select(run, by="clip")
    assert again.created_at == first.created_at
    assert Path(run.url, "selections/best.parquet").read_bytes() == before


def test_a_selection_is_never_overwritten(run: Run) -> None:
    select(run, by="clip")
    before = Path(run.url, "selections/best.parquet").read_bytes()
    with pytest.raises(SpecError, match=r"best.parquet exists and was asked for something else"):
        select(run, by="-clip")
    _remake(run, 0, EIGHT[:3], [replace(EIGHT[0], content="new")])
    with pytest.raises(SpecError, match=r"chose from other commits .* choose another name"):
        select(run, by="clip")
    assert Path(run.url, "selections/best.parquet").read_bytes() == before


def test_images_that_were_made_again_since_are_told(run: Run) -> None:
    selection = select(run, by="clip")
    assert all_changes(run) == ()
    _remake(run, 0, EIGHT[:3], [replace(EIGHT[0], content="new"), replace(EIGHT[2], failed=True)])
    changes = changes_of(run, selection)
    assert (changes.num_remade, changes.num_missing) == (1, 1)
    assert set(changes.examples) == {"cat_00", "cat_02"}
    assert str(changes).startswith(
        "selection best: of 6 images, 1 made again with other bytes and 1 without a file now"
    )
    assert all_changes(run) == (changes,)


def test_images_outside_a_selection_may_be_made_again(run: Run) -> None:
    select(run, where="category = 'thing'")
    _remake(run, 0, EIGHT[:3], [replace(EIGHT[0], content="new")])
    assert all_changes(run) == ()


def test_an_unfinished_run_gives_what_is_committed(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 8)
    with pytest.raises(SpecError, match="no image is committed yet"):
        select(run)
    commit_shard(run.store, 0, part(EIGHT[:4]))
    selection = select(run)
    assert (selection.num_images, selection.num_committed, selection.num_chosen) == (8, 4, 4)


def test_carried_columns_of_one_edition_are_null_in_the_others(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 8)
    commit_shard(run.store, 0, part(EIGHT[:4]))
    commit_shard(run.store, 1, part(EIGHT[4:], surface=pa.array(["oak", "ash", "oak", "ash"])))
    # The plan of such a run has a section for each edition; here the schema is given at once.
    found = [p.rows.column_names for p in committed_parts(run, _with_surface())]
    assert found[0] == found[1]
    assert [len(p.rows) for p in committed_parts(run, _with_surface())] == [4, 4]


def _with_surface() -> pa.Schema:
    carried = [pa.field("category", pa.string()), pa.field("surface", pa.string())]
    return pa.schema([*METADATA_SCHEMA, *carried])


def test_scores_that_were_made_later_count_and_are_named(tmp_path: Path) -> None:
    run = made(str(tmp_path), [replace(each, scores={}) for each in EIGHT], shard_size=4)
    sizes = commit_sizes(run.store)
    late = LatePart(0, sizes[0], 0)
    assert create_late(run.store, late, LateScores(part(EIGHT[:4]), {"clip": "f"}), "0" * 64)
    selection = select(run, by="clip")
    assert chosen(selection) == ["cat_01", "dog_00", "cat_02", "cat_00"]
    assert dropped(selection) == {"failed": 1, "no score clip": 3}
    assert selection.late_scores == {0: late.path}
    assert run.selection("best") == selection
    create_late(run.store, replace(late, layer=1), LateScores(part(EIGHT[:4]), {}), "0" * 64)
    with pytest.raises(SpecError, match="chose from other commits or scores"):
        select(run, by="clip")


def test_late_scores_of_images_that_were_made_again_since_do_not_count(tmp_path: Path) -> None:
    run = made(str(tmp_path), [replace(each, scores={}) for each in EIGHT], shard_size=4)
    before = LatePart(0, commit_sizes(run.store)[0] - 1, 0)
    scored = [EIGHT[0], *(replace(each, content="old") for each in EIGHT[1:4])]
    create_late(run.store, before, LateScores(part(scored), {"clip": "f"}), "0" * 64)
    assert chosen(select(run, by="clip")) == ["cat_00"]


def test_commits_of_older_versions_have_no_scores(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 4)
    commit_shard(run.store, 0, part(EIGHT[:4]).drop_columns(["scores", "perceptual_hash"]))
    assert select(run).num_chosen == 4
    with pytest.raises(SpecError, match=r"has a score 'clip', or any other; nightpress score"):
        select(run, "clip", by="clip")
    with pytest.raises(SpecError, match="4 no perceptual hash; nothing was written"):
        select(run, "near", dedup="near")
    assert run.selections == ("best",)


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"top": 2}, "top: name the score that ranks"),
        ({"per": "id"}, "per: say how many images of each id"),
        ({"by": "clip", "top": 0}, "top: 0 is not a number of images"),
        ({"by": "clip", "top": True}, "top: True is not"),
        ({"by": "-"}, "by: the name of the score is missing"),
        ({"dedup": "all"}, "dedup: 'all' is none of exact, near, embeddings"),
        ({"by": "clop"}, r"has a score 'clop'; did you mean 'clip'\? its scores are: clip"),
        ({"by": "scores.clip"}, r"has a score 'scores.clip'; did you mean 'clip'\?"),
        ({"where": "scores.clop > 3"}, r"has a score 'clop'; did you mean 'clip'\?"),
        ({"where": "scores.clip > 3"}, "none of 8 images .* is left: 1 failed, 1 no score clip, 6"),
        ({"where": "clip > 3"}, "there is no column 'clip'"),
        ({"by": "clip", "top": 1, "per": "categorie"}, "per: .*did you mean 'category'"),
        ({"balance": "loras"}, "balance: the column loras is list"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    run: Run, request_: dict[str, object], complaint: str
) -> None:
    with pytest.raises(SpecError, match=complaint):
        select(run, **request_)
    assert run.selections == ()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 101, "a\n", "ä"])
def test_a_name_that_is_no_file_name_is_refused(run: Run, name: str) -> None:
    with pytest.raises(SpecError, match="cannot be the name of a selection"):
        select(run, name)


def test_a_selection_that_is_not_there_is_told_with_those_that_are(run: Run) -> None:
    with pytest.raises(SelectionNotFound, match="no selection 'best'; it has none"):
        run.selection("best")
    select(run, "some")
    with pytest.raises(SelectionNotFound, match="its selections are: some"):
        run.selection("best")


def test_a_damaged_selection_is_told_as_such(run: Run) -> None:
    data = select(run).to_parquet()
    path = Path(run.url, selection_path("bad"))
    values = json.loads(pq.read_schema(pa.BufferReader(data)).metadata[REASONS])
    for wrong in (b"", data[:-20], data[:40] + b"\xff" * 20 + data[60:]):
        path.write_bytes(wrong)
        with pytest.raises(Damaged, match=r"bad.parquet: not a selection"):
            run.selection("bad")
        (found,) = all_changes(run)
        assert not found.is_unchanged
        assert str(found).startswith("selection bad: ")
    for change in ({"request": {"top": 0}}, {"created_at": "today"}, {"drops": None}, None):
        _write(path, run.selection("best").images, None if change is None else values | change)
        with pytest.raises(Damaged, match=r"bad.parquet: not a selection"):
            run.selection("bad")
    _write(path, run.selection("best").images, values | {"format_version": 3})
    with pytest.raises(UnsupportedFormat, match="Upgrade nightpress"):
        run.selection("bad")


def _write(path: Path, images: pa.Table, values: dict[str, object] | None) -> None:
    metadata = {} if values is None else {REASONS: json.dumps(values).encode()}
    pq.write_table(images.replace_schema_metadata(metadata), path)


def _remake(run: Run, shard: int, images: list[Scored], new: list[Scored]) -> None:
    """Replace a commit with one in which some images are others."""
    changed = {each.image_id: each for each in new}
    table = part([changed.get(each.image_id, each) for each in images])
    Path(run.url, shard_path(shard)).unlink()
    commit_shard(run.store, shard, table)

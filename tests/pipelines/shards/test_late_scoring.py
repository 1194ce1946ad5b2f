"""Late scores: in parts of their own, bound to the bytes that they judge, made once."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.fakes.fake_runs import FakeSampler, finished_run, make_shard, work_on
from support.fakes.fake_scorers import loaded
from support.servers import Folder

from nightpress.pipelines import Run
from nightpress.pipelines.errors import Damaged, SpecError
from nightpress.pipelines.image_files.encoding import encode, read_facts
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.records import ADDED_AFTER_PASSES
from nightpress.pipelines.run_directory.commit import read_commit, shard_path
from nightpress.pipelines.run_directory.late_scores import late_parts, register_scorer
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.scoring.scorer import LoadedScorer, ScoredImage
from nightpress.pipelines.shards.late_scoring import LateScorer
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store


class Asked:
    """A scorer that counts whom it was asked about."""

    def __init__(self, fails_on: str = "") -> None:
        self.prompts: list[object] = []
        self._fails_on = fails_on

    def scorer(self) -> dict[str, LoadedScorer]:
        return {"red": loaded(self._score)}

    def _score(self, image: ScoredImage) -> Mapping[str, float]:
        self.prompts.append(image.columns["prompt"])
        if image.columns["prompt"] == self._fails_on:
            raise RuntimeError("no red")
        return {"": float(image.pixels[0, 0, 0])}


@pytest.fixture(params=["none", "parquet"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """Two shards of four images; one image failed."""
    prompts = ["a", "b", "c", "nan", "e", "f", "g", "h"]
    return Run(*finished_run(tmp_path, prompts, packing=request.param))


def scores(run: Run) -> dict[str, dict[str, float | None] | None]:
    table = run.metadata.to_table(columns=["prompt", "scores"])
    values = table["scores"].to_pylist(maps_as_pydicts="strict")
    return dict(zip(table["prompt"].to_pylist(), values, strict=True))


def red(run: Run) -> dict[str, float | None]:
    return {prompt: each.get("red") for prompt, each in scores(run).items() if each is not None}


def test_late_scores_stand_among_the_others(run: Run) -> None:
    before, files = scores(run), run.store.list()
    asked = Asked()
    done = [LateScorer(run, asked.scorer()).score(shard) for shard in (0, 1)]
    assert [(each.num_images, each.num_scored, each.num_missing) for each in done] == [
        (3, 3, 0),
        (4, 4, 0),
    ]
    after = scores(run)
    assert list(after) == list(before)  # in the order of the run
    for prompt, own in before.items():
        if own is None:
            assert after[prompt] is None
        else:
            assert after[prompt] == own | {"red": after[prompt]["red"]}  # type: ignore[index]
    row = run.row("00000004_00")
    assert row is not None
    assert row["scores"]["red"] == row["seed"] % 256
    assert {path: files[path] for path in files} == {
        path: size for path, size in run.store.list().items() if not path.startswith("scores/")
    }
    assert [shard.findings for shard in verify(run)] == [(), ()]


def test_what_is_scored_is_not_scored_again(run: Run) -> None:
    LateScorer(run, Asked().scorer()).score(0)
    asked = Asked()
    scorer = LateScorer(run, asked.scorer())
    assert [scorer.score(shard).num_scored for shard in (0, 1)] == [0, 4]
    assert sorted(map(str, asked.prompts)) == ["e", "f", "g", "h"]
    assert [(part.shard, part.layer) for part in late_parts(run.store)] == [(0, 0), (1, 0)]


def test_another_scorer_adds_a_part_with_the_scores_of_both(run: Run) -> None:
    LateScorer(run, Asked().scorer()).score(1)
    kind = {"kind": loaded(lambda image: {"cat": 0.25, "dog": 0.75}, "cat", "dog")}
    assert LateScorer(run, kind).score(1).num_scored == 4
    assert [(part.shard, part.layer) for part in late_parts(run.store)] == [(1, 0), (1, 1)]
    for prompt in "efgh":
        found = scores(run)[prompt] or {}
        assert {"red", "kind.cat", "kind.dog", "sharpness"} <= set(found)
    assert LateScorer(run, Asked().scorer() | kind).score(1).num_scored == 0


def test_a_scorer_that_fails_on_an_image_leaves_null_and_is_not_asked_again(run: Run) -> None:
    done = LateScorer(run, Asked(fails_on="f").scorer()).score(1)
    assert done.num_missing == 1
    assert [(note.num_images, note.text) for note in done.notes] == [(1, "no red")]
    asked = Asked()
    again = LateScorer(run, asked.scorer()).score(1)
    assert (again.num_scored, again.num_missing, asked.prompts) == (0, 1, [])
    assert red(run)["f"] is None
    assert red(run)["e"] is not None


def remade(run: Run, number: int) -> None:
    """Make one image of the first shard again, with other bytes."""
    rows = read_shard(run.store, run.record.layout, 0)
    sampler = FakeSampler()
    sample = sampler.sample

    def other(*arguments: object) -> object:
        made = sample(*arguments)  # type: ignore[arg-type]
        made.pixels[..., 0] ^= 0xFF
        return made

    sampler.sample = other  # type: ignore[method-assign, assignment]
    work = work_on(rows, amends=Amendment((number,), replaces=True), look_first=True)
    make_shard(run.store, run.record, rows, sampler, work)


def test_a_score_of_other_bytes_does_not_count(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c", "d"]))
    LateScorer(run, Asked().scorer()).score(0)
    before = red(run)
    remade(run, 1)
    assert red(run) == before | {"b": None}  # until it is scored again
    for name, row in (("a", "00000000_00"), ("b", "00000001_00")):
        assert (run.row(row) or {})["scores"].get("red") == red(run)[name]
    asked = Asked()
    done = LateScorer(run, asked.scorer()).score(0)
    assert (done.num_scored, asked.prompts) == (1, ["b"])
    after = red(run)
    assert {name: after[name] for name in "acd"} == {name: before[name] for name in "acd"}
    assert after["b"] == 255 - (before["b"] or 0)


def test_rows_stay_in_the_order_of_the_run_where_commits_and_parts_alternate(
    tmp_path: Path,
) -> None:
    prompts = [f"prompt {n}" for n in range(12)]
    run = Run(*finished_run(tmp_path, prompts, shard_size=2))
    scorer = LateScorer(run, Asked().scorer())
    for shard in (0, 2, 3):
        scorer.score(shard)
    remade(run, 1)
    table = run.metadata.to_table(columns=["prompt", "scores"])
    assert table["prompt"].to_pylist() == prompts
    with_red = [number for number, each in enumerate(red(run).values()) if each is not None]
    assert with_red == [0, 4, 5, 6, 7]
    ids = [row["image_id"] for row, _ in run.images()]
    assert ids == [f"{number:08d}_00" for number in range(12)]


def test_a_run_of_an_older_version_is_measured(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c"]))
    expected = scores(run)
    part = Path(run.url, shard_path(0))
    pq.write_table(pq.read_table(part).drop_columns([*ADDED_AFTER_PASSES]), part)
    assert scores(run) == {"a": None, "b": None, "c": None}
    assert LateScorer(run, {}).score(0).num_scored == 3
    assert scores(run) == expected
    assert LateScorer(run, {}).score(0).num_scored == 0


def test_nothing_of_a_shard_with_a_damaged_image_is_scored(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c"]))
    damage: list[Callable[[Path], object]] = [
        Path.unlink,
        lambda path: path.write_bytes(b"something else"),
    ]
    image = Path(run.url, "images/00000001_00.png")
    data = image.read_bytes()
    for harm in damage:
        harm(image)
        done = LateScorer(run, Asked().scorer()).score(0)
        assert done.unreadable == ("00000001_00",)
        assert late_parts(run.store) == []
        image.write_bytes(data)
    assert LateScorer(run, Asked().scorer()).score(0).unreadable == ()


def test_an_image_with_another_picture_and_the_same_facts_is_not_scored(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a"]))
    image = Path(run.url, "images/00000000_00.png")
    facts = read_facts(image.read_bytes())
    assert facts is not None
    pixels = np.full((facts.height, facts.width, 3), 9, np.uint8)
    image.write_bytes(encode(pixels, facts, run.spec.images))
    assert LateScorer(run, Asked().scorer()).score(0).unreadable == ("00000000_00",)


def test_a_part_that_another_process_has_written_first_is_built_upon(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"]))
    other = LateScorer(run, {"kind": loaded(lambda image: {"": 0.5})})

    def overtaken(image: ScoredImage) -> dict[str, float]:
        other.score(0)
        return {"": 1.0}

    LateScorer(run, {"slow": loaded(overtaken)}).score(0)
    assert [part.layer for part in late_parts(run.store)] == [0, 1]
    for found in scores(run).values():
        assert found is not None
        assert (found["kind"], found["slow"]) == (0.5, 1.0)


def test_the_scores_that_images_were_made_with_are_filled_up(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"]))
    run = Run(run.store, replace(run.record, scorers={"red": "f" * 64}))
    assert LateScorer(run, Asked().scorer()).score(0).num_scored == 2
    assert None not in red(run).values()


def test_a_name_stands_for_one_scorer(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a"]))
    register_scorer(run.store, "clip", "a" * 64, {"scorer": "clip"})
    register_scorer(run.store, "clip", "a" * 64, {"scorer": "clip"})
    with pytest.raises(SpecError, match=r"scores\.clip: .*give this one another name"):
        register_scorer(run.store, "clip", "b" * 64, {"scorer": "clip"})


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a"]))
    LateScorer(run, Asked().scorer()).score(0)
    (part,) = late_parts(run.store)
    Path(run.url, part.path).write_bytes(b"PAR1")
    with pytest.raises(Damaged, match=r"scores/shard-00000/.*is damaged.*delete it"):
        LateScorer(run, Asked().scorer()).score(0)
    assert read_commit(run.store, 0).num_rows == 1


def test_late_scores_are_made_and_read_on_object_storage(tmp_path: Path, bucket: Folder) -> None:
    local, record = finished_run(tmp_path, ["a", "b", "c", "d", "e"])
    store = Store(f"{bucket.url}/night", bucket.options)
    for path in local.list():
        store.create(path, local.read(path))
    run = Run(store, record)
    LateScorer(run, Asked().scorer()).score(0)
    remade(run, 1)
    found = red(run)
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert [name for name, each in found.items() if each is None] == ["b", "e"]
    assert (run.row("00000000_00") or {})["scores"]["red"] == found["a"]
    assert [LateScorer(run, Asked().scorer()).score(n).num_scored for n in (0, 1)] == [1, 1]
    assert None not in red(run).values()

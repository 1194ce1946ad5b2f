"""Vectors of images: written by the process that makes them, or later, and once for each image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes.fake_runs import FakeSampler, finished_run, prepare, work_on
from support.fakes.fake_scorers import embedder, loaded

from nightpress.pipelines import Run
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.embeddings import (
    embedding_parts,
    read_part,
    read_vectors,
)
from nightpress.pipelines.run_directory.stored_scores import score_names
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.scoring.scorer import LoadedScorer, ScoredImage
from nightpress.pipelines.shards.late_scoring import LateScorer
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import Amendment

MARKS = {"look": "f" * 64}


class Asked:
    """A scorer of vectors that counts whom it was asked about."""

    def __init__(self, fails_on: str = "") -> None:
        self.prompts: list[str] = []
        self._fails_on = fails_on

    def scorer(self) -> dict[str, LoadedScorer]:
        return {"look": embedder(self._embed)}

    def _embed(self, image: ScoredImage) -> Sequence[float]:
        self.prompts.append(str(image.columns["prompt"]))
        if self._fails_on and image.columns["prompt"] == self._fails_on:
            raise RuntimeError("no look")
        return [1.0, *(image.pixels[0, 0] / 255.0)]


def with_vectors(run: Run) -> dict[str, bool]:
    """Prompt -> whether its image has a vector, of images that are ok."""
    table = run.metadata.to_table(columns=["prompt", "sha256"])
    known = [row for row in table.to_pylist() if row["sha256"] is not None]
    hashes = [row["sha256"] for row in known]
    found = read_vectors(run.store, embedding_parts(run.store, "look"), hashes)
    return dict(zip([row["prompt"] for row in known], found.has_one.tolist(), strict=True))


@pytest.mark.parametrize("packing", ["none", "webdataset"])
def test_later_vectors_are_written_beside_the_commits(tmp_path: Path, packing: str) -> None:
    run = Run(*finished_run(tmp_path, ["a", "nan", "c", "d", "e"], packing=packing))
    files, names = run.store.list(), score_names(run)
    done = [LateScorer(run, Asked().scorer()).score(shard) for shard in (0, 1)]
    assert [(d.num_images, d.num_scored, d.num_missing) for d in done] == [(3, 3, 0), (1, 1, 0)]
    assert with_vectors(run) == dict.fromkeys("acde", True)
    new = set(run.store.list()) - set(files)
    assert len(new) == 2
    assert all(path.startswith("embeddings/look/shard-0000") for path in new)
    assert score_names(run) == names  # no condition sees them
    assert [shard.findings for shard in verify(run)] == [(), ()]


def test_an_image_is_embedded_once(tmp_path: Path) -> None:
    run, asked = Run(*finished_run(tmp_path, ["a", "b", "c"])), Asked()
    for _ in range(2):
        done = LateScorer(run, asked.scorer()).score(0)
    assert (done.num_scored, sorted(asked.prompts)) == (0, ["a", "b", "c"])
    assert len(embedding_parts(run.store, "look")) == 1


def test_a_scorer_that_fails_on_an_image_is_not_asked_again(tmp_path: Path) -> None:
    run, asked = Run(*finished_run(tmp_path, ["a", "b", "c"])), Asked("b")
    done = LateScorer(run, asked.scorer()).score(0)
    assert (done.num_missing, [note.text for note in done.notes]) == (1, ["no look"])
    again = LateScorer(run, asked.scorer()).score(0)
    assert (again.num_scored, again.num_missing, len(asked.prompts)) == (0, 1, 3)
    assert with_vectors(run) == {"a": True, "b": False, "c": True}


def test_scores_and_vectors_are_made_together(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c"]))
    red = {"red": loaded(lambda image: {"": float(image.pixels[0, 0, 0])})}
    done = LateScorer(run, Asked("a").scorer() | red).score(0)
    assert (done.num_scored, done.num_missing) == (3, 1)
    assert "red" in score_names(run)
    assert with_vectors(run) == {"a": False, "b": True, "c": True}


def test_a_missing_image_leaves_its_shard_alone(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c"]))
    Path(run.url, "images/00000001_00.png").unlink()
    done = LateScorer(run, Asked().scorer()).score(0)
    assert done.unreadable == ("00000001_00",)
    assert embedding_parts(run.store, "look") == []


def test_the_process_that_makes_images_writes_their_vectors(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "nan", "c"])
    record, asked = replace(record, scorers=MARKS), Asked("c")
    runner = ShardRunner(
        store,
        record,
        FakeSampler(),
        "here:1",
        scorers=asked.scorer(),  # type: ignore[arg-type]
    )
    list(runner.run(work_on(rows), rows))
    runner.close()
    (path,) = embedding_parts(store, "look")
    first, _, last = read_commit(store, 0).to_pylist()
    part = read_part(store, path)
    assert (part.hashes, part.failed) == ([first["sha256"]], [last["sha256"]])
    assert part.fingerprint == MARKS["look"]
    assert "look" not in dict(first["scores"])
    assert LateScorer(Run(store, record), asked.scorer()).score(0).num_scored == 0


def test_an_image_that_is_made_again_gets_another_vector(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "nan", "c"]))
    run = Run(run.store, replace(run.record, scorers=MARKS))
    LateScorer(run, Asked().scorer()).score(0)
    asked, rows = Asked(), read_shard(run.store, run.record.layout, 0)

    class Better(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            made = super().sample(requests, params, batch_size)
            return replace(made, faults=(None,) * len(requests))

    scorers = asked.scorer()
    runner = ShardRunner(
        run.store,
        run.record,
        Better(),
        "here:1",
        scorers=scorers,  # type: ignore[arg-type]
    )
    list(runner.run(work_on(rows, amends=Amendment((1,), replaces=False)), rows))
    runner.close()
    assert asked.prompts == ["nan"]
    assert with_vectors(run) == dict.fromkeys(["a", "nan", "c"], True)
    assert len(embedding_parts(run.store, "look")) == 2

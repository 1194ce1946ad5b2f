"""Leaks: what another split has leaves train, and the other splits never change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.drawn_pictures import COLOURS, apple, as_jpeg, house, resized, with_noise
from support.exports import Pixels, ids_of, pictured_run, spec_of, stored, written
from support.made_runs import commit

from nightpress.pipelines import Run
from nightpress.pipelines.export import leaks
from nightpress.pipelines.export.index import Drop
from nightpress.pipelines.export.leaks import EvaluationImages, find_leaks
from nightpress.pipelines.export.spec import SplitSpec
from nightpress.pipelines.export.splits import SPLITS, splits_of
from nightpress.pipelines.export.survey import SURVEY, Surveyed
from nightpress.pipelines.export.tables import parquet_bytes
from nightpress.pipelines.storage import Store

SPLIT = {"by": "id", "validation": "20%", "test": "30%"}


def ids_in(split: str, number: int) -> list[str]:
    """Ids that fall into a split."""
    ids = [f"id{n}" for n in range(400)]
    places = splits_of(pa.table({"id": ids}), SplitSpec(**SPLIT), 0)
    found = [id_ for id_, place in zip(ids, places, strict=True) if SPLITS[place] == split]
    return found[:number]


def dropped(url: str) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(f"{url}/dropped.parquet").to_pylist()
    return {row["image_id"]: (row["reason"], row["detail"]) for row in rows}


def scene(number: int) -> Pixels:
    """Pictures that do not look alike."""
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Train has a copy, a noisy copy, a larger and a JPEG copy of what other splits have."""
    train, test = ids_in("train", 6), ids_in("test", 2)
    validation = ids_in("validation", 1)
    pictures: dict[str, Pixels] = {
        test[0]: apple("red"),
        test[1]: house("blue"),
        validation[0]: house("yellow"),
        train[0]: with_noise(apple("red"), 4.0),
        train[1]: resized(house("blue"), 320, 320),
        train[2]: as_jpeg(house("yellow"), 80),
        train[3]: apple("green"),
        train[4]: house("red"),
        train[5]: scene(1),
    }
    return pictured_run(tmp_path / "press", pictures)


def test_near_duplicates_leave_train_and_other_colours_stay(run: Run, tmp_path: Path) -> None:
    train, test = ids_in("train", 6), ids_in("test", 2)
    spec = spec_of(tmp_path, run.url, split=SPLIT | {"leaks": "near"})
    summary = written(spec)
    near = "looks like an image of another split"
    assert dropped(spec.url) == {
        f"{train[0]}_00": (near, f"{test[0]}_00"),
        f"{train[1]}_00": (near, f"{test[1]}_00"),
        f"{train[2]}_00": (near, f"{ids_in('validation', 1)[0]}_00"),
    }
    assert summary.num_images == {"train": 3, "validation": 1, "test": 2}


def test_equal_bytes_are_found_without_looking_at_pictures(run: Run, tmp_path: Path) -> None:
    for leak in ("exact", "keep"):
        spec = spec_of(tmp_path / leak, run.url, split=SPLIT | {"leaks": leak})
        assert written(spec).num_images == {"train": 6, "validation": 1, "test": 2}


def two_runs(folder: Path) -> list[str]:
    """The second run has the images of the first, under other ids."""
    train, test = ids_in("train", 1)[0], ids_in("test", 1)[0]
    first = pictured_run(folder, {test: scene(1)}, "a")
    second = pictured_run(folder, {train: scene(1)}, "b")
    return [first.url, second.url]


def test_the_same_bytes_in_two_runs_are_said_to_be_the_same(tmp_path: Path) -> None:
    """Files of other ids differ in their facts, so they look alike; stored bytes are equal."""
    runs = two_runs(tmp_path / "press")
    spec = spec_of(tmp_path, runs, split=SPLIT | {"leaks": "near"})
    written(spec)
    test = ids_in("test", 1)[0]
    assert list(dropped(spec.url).values()) == [
        ("looks like an image of another split", f"{test}_00")
    ]


def test_evaluation_splits_are_the_same_whatever_leaks(run: Run, tmp_path: Path) -> None:
    found: dict[str, Mapping[str, set[str]]] = {}
    for leak in ("keep", "exact", "near"):
        spec = spec_of(tmp_path / leak, run.url, split=SPLIT | {"leaks": leak})
        written(spec)
        found[leak] = {split: ids_of(spec.url, split) for split in ("validation", "test")}
    assert found["keep"] == found["exact"] == found["near"]


def test_stored_hashes_are_used_and_give_the_same(tmp_path: Path) -> None:
    train, test = ids_in("train", 2), ids_in("test", 1)
    pictures = {test[0]: apple("red"), train[0]: apple("red"), train[1]: apple("green")}
    results = []
    for hashed in (True, False):
        run = pictured_run(tmp_path / f"press{hashed}", pictures, hashed=hashed)
        if hashed:  # nobody looks at them
            for path in Path(run.url, "images").iterdir():
                path.rename(path.with_suffix(".away"))
        spec = spec_of(tmp_path / f"sets{hashed}", run.url, split=SPLIT | {"leaks": "near"})
        if hashed:
            with pytest.raises(Exception, match="it is not in the store"):
                written(spec)
            for path in Path(run.url, "images").iterdir():
                path.rename(path.with_suffix(".png"))
        written(spec)
        results.append((dropped(spec.url), ids_of(spec.url)))
    assert results[0] == results[1]
    assert len(results[0][0]) == 1


def test_a_new_image_of_a_run_takes_its_likeness_out_of_train(tmp_path: Path) -> None:
    train, test = ids_in("train", 5), ids_in("test", 1)[0]
    pictures = {id_: scene(n) for n, id_ in enumerate(train)}
    run = pictured_run(tmp_path / "press", pictures)
    spec = spec_of(tmp_path, [run.url], split=SPLIT | {"leaks": "near"})
    assert written(spec).num_images == {"train": 5}
    Path(run.url, "metadata/shard-00001.parquet").unlink()
    records = [stored(run, train[4], scene(4)), stored(run, test, scene(0))]
    commit(run, 1, records)
    summary = written(spec)
    assert summary.num_images == {"train": 4, "test": 1}
    assert list(dropped(spec.url)) == [f"{train[0]}_00"]


def survey(store: Store, number: int, rows: list[dict[str, Any]]) -> Surveyed:
    table = pa.Table.from_pylist([{"perceptual_hash": None} | row for row in rows], schema=SURVEY)
    path = f"survey/{number}.parquet"
    store.create(path, parquet_bytes(table))
    return Surveyed(0, number, path)


def row(number: int, split: str, digest: str) -> dict[str, Any]:
    return {"row": number, "image_id": f"i{number}{split}", "split": split, "sha256": digest}


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_shards_are_compared_in_batches_of_any_size(tmp_path: Path, at_once: int) -> None:
    store = Store(str(tmp_path))
    digests = [f"{n:064x}"[::-1] for n in range(12)]
    surveys = [
        survey(store, 0, [row(0, "train", digests[0]), row(3, "train", digests[1])]),
        survey(store, 1, [row(0, "test", digests[1]), row(1, "train", digests[2])]),
        survey(store, 2, [row(7, "validation", digests[2]), row(8, "train", digests[5])]),
        survey(store, 3, []),
    ]
    found = find_leaks(store, surveys, at_once)
    assert {key: {n: leak.other for n, leak in of.items()} for key, of in found.items()} == {
        (0, 0): {3: "i0test"},
        (0, 1): {1: "i7validation"},
    }
    assert {leak.reason for of in found.values() for leak in of.values()} == {Drop.SAME_BYTES}


def test_without_other_splits_nothing_leaks(tmp_path: Path) -> None:
    empty = EvaluationImages(SURVEY.empty_table())
    train = pa.Table.from_pylist(
        [{**row(0, "train", "ab" * 32), "perceptual_hash": "0" * 64}], schema=SURVEY
    )
    assert empty.leaks(train) == {}
    assert leaks.IMAGES_AT_ONCE >= 100_000
    assert set(COLOURS) >= {"red", "green"}

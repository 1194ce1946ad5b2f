"""Images that leave an export because of others: duplicates in a split, likeness by embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.drawn_pictures import apple, house, resized
from support.exports import Pixels, ids_of, pictured_run, spec_of, written, written_with_events

from nightpress.pipelines import Run
from nightpress.pipelines.errors import ChangedExport, SpecError
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import ExportSpec, SplitSpec
from nightpress.pipelines.export.splits import SPLITS, splits_of
from nightpress.pipelines.run_directory.embeddings import write_embeddings

SPLIT = {"by": "id", "validation": "20%", "test": "30%"}
ALIKE = "embedding like that of an earlier image"
ALIKE_LEAK = "embedding like that of an image of another split"


def ids_in(split: str, number: int) -> list[str]:
    """Ids that fall into a split."""
    ids = [f"id{n}" for n in range(400)]
    places = splits_of(pa.table({"id": ids}), SplitSpec(**SPLIT), 0)
    found = [id_ for id_, place in zip(ids, places, strict=True) if SPLITS[place] == split]
    return found[:number]


def scene(number: int) -> Pixels:
    """Pictures that do not look alike."""
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)


def embed(run: Run, angles: Mapping[str, float | None], mark: str = "f", name: str = "look") -> Run:
    """Give images vectors in these directions; null for None."""
    rows = run.metadata.to_table(columns=["id", "sha256"]).to_pylist()
    vectors: dict[str, bytes | None] = {}
    for row in rows:
        if row["id"] in angles:
            angle = angles[row["id"]]
            radians = 0.0 if angle is None else np.deg2rad(angle)
            vector = np.array([np.cos(radians), np.sin(radians)], "<f2").tobytes()
            vectors[row["sha256"]] = None if angle is None else vector
    write_embeddings(run.store, 0, name, mark * 64, vectors)
    return run


def run_of(folder: Path, ids: Sequence[str], name: str = "run", first: int = 0) -> Run:
    """A run of pictures that do not look alike."""
    return pictured_run(folder, {id_: scene(n) for n, id_ in enumerate(ids, start=first)}, name)


def dropped(spec: ExportSpec) -> dict[str, tuple[str, str | None]]:
    rows = pq.read_table(f"{spec.url}/dropped.parquet").to_pylist()
    return {row["image_id"].removesuffix("_00"): (row["reason"], row["detail"]) for row in rows}


def test_the_earlier_image_stays_and_each_other_says_which_it_is(tmp_path: Path) -> None:
    pictures = {"d": apple("red"), "c": scene(1), "b": resized(apple("red"), 320, 320)}
    run = pictured_run(tmp_path / "press", pictures)
    spec = spec_of(tmp_path, run.url, dedup="near")
    assert written(spec).num_images == {"train": 2}
    assert dropped(spec) == {"b": ("looks like an earlier image", "d_00")}
    kept = spec_of(tmp_path / "exact", run.url, dedup="exact")
    assert written(kept).num_images == {"train": 3}


def test_the_same_bytes_are_found_across_runs(tmp_path: Path) -> None:
    runs = [pictured_run(tmp_path, {"a": scene(1), "b": house("red")}, name) for name in "xy"]
    urls = [run.url for run in runs]
    spec = spec_of(tmp_path, urls, dedup="exact")
    assert written(spec).num_images == {"train": 2}
    assert spec.compares_looks is False
    assert {reason for reason, _ in dropped(spec).values()} == {"same bytes as an earlier image"}


def test_vectors_that_are_alike_leave_one_image(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d", "e"]
    run = embed(run_of(tmp_path, ids), {"a": 0, "b": 5, "c": 10, "d": 90, "e": None})
    spec = spec_of(tmp_path, run.url, dedup="embeddings", similarity=0.99)
    assert written(spec).num_images == {"train": 3}
    cosine = f"{np.cos(np.deg2rad(5)):.3f}"
    reason, detail = dropped(spec)["b"]
    assert (reason, str(detail)[:-3]) == (ALIKE, f"a_00, cosine {cosine}")
    assert dropped(spec)["e"] == ("no embedding to compare it by", None)
    assert ids_of(spec.url) == {"a_00", "c_00", "d_00"}
    readme = Path(spec.url, "README.md").read_text()
    assert "whose embedding is like that of one" in readme
    assert "from a cosine of 0.99" in readme


def test_each_split_is_rid_of_its_own_duplicates(tmp_path: Path) -> None:
    train, test = ids_in("train", 2), ids_in("test", 2)
    run = embed(run_of(tmp_path, [*train, *test]), dict.fromkeys([*train, *test], 0.0))
    spec = spec_of(tmp_path, run.url, dedup="embeddings", split=SPLIT | {"leaks": "keep"})
    assert written(spec).num_images == {"train": 1, "test": 1}
    assert set(dropped(spec)) == {train[1], test[1]}


def test_train_loses_what_is_like_another_split_by_vectors(tmp_path: Path) -> None:
    train, test = ids_in("train", 3), ids_in("test", 1)
    angles = {train[0]: 3.0, train[1]: 50.0, train[2]: 90.0, test[0]: 0.0}
    run = embed(run_of(tmp_path, [*train, *test]), angles)
    spec = spec_of(tmp_path, run.url, split=SPLIT | {"leaks": "embeddings"})
    assert written(spec).num_images == {"train": 2, "test": 1}
    reason, detail = dropped(spec)[train[0]]
    assert (reason, str(detail).partition(",")[0]) == (ALIKE_LEAK, f"{test[0]}_00")


def test_near_pictures_leak_as_before(tmp_path: Path) -> None:
    train, test = ids_in("train", 2), ids_in("test", 1)
    pictures = {test[0]: apple("red"), train[0]: apple("red"), train[1]: scene(1)}
    run = pictured_run(tmp_path, pictures)
    embed(run, {test[0]: 0.0, train[0]: 40.0, train[1]: 90.0})
    spec = spec_of(tmp_path, run.url, split=SPLIT | {"leaks": "embeddings"})
    written(spec)
    assert dropped(spec) == {train[0]: ("looks like an image of another split", f"{test[0]}_00")}


def test_an_image_that_leaks_stands_for_no_other(tmp_path: Path) -> None:
    """The first of two duplicates leaks, so the second one stays."""
    train, test = ids_in("train", 2), ids_in("test", 1)
    run = embed(run_of(tmp_path, [*train, *test]), {train[0]: 14.0, train[1]: 28.0, test[0]: 0.0})
    keys = {"dedup": "embeddings", "similarity": 0.965}  # 15.2 degrees
    spec = spec_of(tmp_path, run.url, split=SPLIT | {"leaks": "embeddings"}, **keys)
    assert written(spec).num_images == {"train": 1, "test": 1}
    assert set(dropped(spec)) == {train[0]}


def test_runs_are_compared_with_each_other(tmp_path: Path) -> None:
    first = embed(run_of(tmp_path, ["a", "b"], "x"), {"a": 0, "b": 90})
    second = embed(run_of(tmp_path, ["c", "d"], "y", first=5), {"c": 2, "d": 45})
    spec = spec_of(tmp_path, [first.url, second.url], dedup="embeddings")
    assert written(spec).num_images == {"train": 3}
    assert dropped(spec)["c"][0] == ALIKE


def test_new_vectors_are_looked_at_and_nothing_is_done_twice(tmp_path: Path) -> None:
    run = embed(run_of(tmp_path, ["a", "b", "c"]), {"a": 0, "b": 45})
    spec = spec_of(tmp_path, run.url, dedup="embeddings")
    assert written(spec).num_images == {"train": 2}
    assert written_with_events(spec)[2] == 0
    embed(run, {"c": 91})
    summary, _, num_written = written_with_events(spec)
    assert (summary.num_images, num_written) == ({"train": 3}, 1)


def test_what_is_compared_is_part_of_the_export(tmp_path: Path) -> None:
    run = embed(run_of(tmp_path, ["a", "b"]), {"a": 0, "b": 45})
    written(spec_of(tmp_path, run.url, dedup="embeddings"))
    with pytest.raises(ChangedExport, match="similarity"):
        written(spec_of(tmp_path, run.url, dedup="embeddings", similarity=0.5))
    plain = spec_of(tmp_path, run.url)
    assert not {"dedup", "embeddings", "similarity"} & set(plain.identity())


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"dedup": "all"}, "dedup"),
        ({"similarity": 0.9}, "similarity: this export compares no vectors"),
        ({"dedup": "near", "embeddings": "look"}, "embeddings: this export compares no vectors"),
        ({"dedup": "embeddings", "similarity": 1.1}, "similarity"),
        ({"dedup": "embeddings", "similarity": 0}, "similarity"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        spec_of("sets", "press/a", **keys)


def test_runs_must_have_vectors_by_one_scorer(tmp_path: Path) -> None:
    bare, other = run_of(tmp_path, ["a"], "x"), embed(run_of(tmp_path, ["b"], "y"), {"b": 0})
    with pytest.raises(SpecError, match=r"has none; nightpress score .* --set scores.look.scorer"):
        open_sources(spec_of(tmp_path, [other.url, bare.url], dedup="embeddings"))
    embed(bare, {"a": 0}, mark="e")
    with pytest.raises(SpecError, match="look is another scorer in"):
        open_sources(spec_of(tmp_path, [other.url, bare.url], dedup="embeddings"))
    third = embed(run_of(tmp_path, ["c"], "z"), {"c": 0}, name="view")
    with pytest.raises(SpecError, match="name a scorer that all runs have"):
        open_sources(spec_of(tmp_path, [other.url, third.url], dedup="embeddings"))
    assert not Path(tmp_path, "sets").exists()

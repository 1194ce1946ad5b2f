"""Duplicates that a selection leaves out: which stays, which is one of which, and by embeddings."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.scored_runs import HASH, Scored, made

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.errors import Damaged, SpecError, UnsupportedFormat
from nightpress.pipelines.run_directory.embeddings import embedding_parts, write_embeddings
from nightpress.pipelines.run_directory.selections.duplicates import read_duplicates
from nightpress.pipelines.run_directory.selections.files import REASONS, Selection
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.run_directory.selections.selecting import select_images

MEASURED = {"sharpness": 31.0, "exposure": 0.5, "clipping": 0.0, "contrast": 0.2}


def other_hash(number: int) -> str:
    """A perceptual hash that is near no other number's."""
    return bytes(np.random.default_rng(number).integers(0, 256, 32, np.uint8)).hex()


def at(degrees: float) -> bytes:
    """A vector of length 1 in a plane."""
    angle = np.deg2rad(degrees)
    return np.array([np.cos(angle), np.sin(angle)], "<f2").tobytes()


ANGLES: Mapping[str, float | None] = {"a": 0, "b": 5, "c": 10, "d": 90, "e": 94, "f": None}
"""Row -> the direction of its vector in degrees."""

IMAGES = [
    Scored(row, 0, {"clip": 1 - n / 10}, perceptual_hash=other_hash(n))
    for n, row in enumerate(ANGLES)
]


def embed(run: Run, angles: Mapping[str, float | None] = ANGLES, name: str = "look") -> Run:
    """Give the images of a run vectors; none to those that are not in `angles`."""
    rows = run.metadata.to_table(columns=["id", "sha256"]).to_pylist()
    for shard, some in enumerate((rows[:4], rows[4:])):
        known = {each["sha256"]: angles.get(each["id"]) for each in some if each["id"] in angles}
        vectors = {sha: None if angle is None else at(angle) for sha, angle in known.items()}
        write_embeddings(run.store, shard, name, "f" * 64, vectors)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return embed(made(str(tmp_path), IMAGES))


def select(run: Run, name: str = "best", **request: object) -> Selection:
    return select_images(run, name, SelectionRequest.of(**request))


def chosen(selection: Selection) -> list[str]:
    return selection.images.column("image_id").to_pylist()


def dropped(selection: Selection) -> dict[str, int]:
    return {drop.reason: drop.num_images for drop in selection.drops}


def duplicates(run: Run, selection: Selection) -> list[tuple[str, str, str, float | None]]:
    found = read_duplicates(run.store, selection.duplicates).to_pylist()
    return [tuple(row.values()) for row in found]


def cosine(a: float, b: float) -> float:
    return pytest.approx(np.cos(np.deg2rad(a - b)), abs=1e-3)


def test_the_first_by_rank_of_those_that_are_alike_stays(run: Run) -> None:
    selection = select(run, by="clip", dedup="embeddings", similarity=0.99)  # 8.1 degrees
    assert chosen(selection) == ["a_00", "c_00", "d_00"]
    reason = "near-duplicate by embeddings"
    assert dropped(selection) == {"no embedding look": 1, reason: 2}
    assert duplicates(run, selection) == [
        ("b_00", "a_00", reason, cosine(0, 5)),
        ("e_00", "d_00", reason, cosine(90, 94)),
    ]
    lowest = select(run, "low", by="-clip", dedup="embeddings", similarity=0.99)
    assert chosen(lowest) == ["e_00", "c_00", "a_00"]


def test_the_scorer_and_the_similarity_are_part_of_what_was_asked(run: Run) -> None:
    select(run, dedup="embeddings")
    request = open_run(run.url).selection("best").request
    assert request == SelectionRequest(dedup="embeddings", embeddings="look", similarity=0.95)
    assert chosen(run.selection("best")) == ["a_00", "d_00"]


def test_what_has_no_vector_stands_for_nothing(tmp_path: Path) -> None:
    images = [replace(each, perceptual_hash=HASH) for each in IMAGES[:2]]
    run = embed(made(str(tmp_path), images), {"b": 0})
    selection = select(run, by="clip", dedup="embeddings")
    assert (chosen(selection), dropped(selection)) == (["b_00"], {"no embedding look": 1})


def test_every_step_says_which_image_stayed(tmp_path: Path) -> None:
    images = [
        Scored("a", 0, {"clip": 0.9}, content="same", perceptual_hash=HASH),
        Scored("b", 0, {"clip": 0.8}, content="same", perceptual_hash=HASH),
        Scored("c", 0, {"clip": 0.7}, perceptual_hash=HASH),
        Scored("d", 0, {"clip": 0.6}, perceptual_hash=other_hash(1)),
    ]
    run = embed(made(str(tmp_path), images), {"a": 0, "b": 0, "c": 40, "d": 1})
    selection = select(run, by="clip", dedup="embeddings")
    assert chosen(selection) == ["a_00"]
    assert duplicates(run, selection) == [
        ("b_00", "a_00", "duplicate", None),
        ("c_00", "a_00", "near-duplicate", None),
        ("d_00", "a_00", "near-duplicate by embeddings", cosine(0, 1)),
    ]
    near = select(run, "near", by="clip", dedup="near")
    assert duplicates(run, near) == duplicates(run, selection)[:2]


def test_the_same_bytes_or_pixels_lead_to_the_one_that_stays(tmp_path: Path) -> None:
    images = [
        Scored("a", 0, MEASURED | {"clip": 0.9}),
        Scored("b", 0, MEASURED | {"clip": 0.8}, content="same"),
        Scored("c", 0, {"clip": 0.7}, content="same"),
        Scored("d", 0, {"clip": 0.6}, perceptual_hash=None),
    ]
    run = made(str(tmp_path), images)
    selection = select(run, by="clip", dedup="exact")
    assert chosen(selection) == ["a_00", "d_00"]
    assert duplicates(run, selection) == [
        ("b_00", "a_00", "duplicate", None),
        ("c_00", "a_00", "duplicate", None),
    ]


def test_neither_shards_nor_their_order_change_what_is_chosen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    angles = {f"r{n}": float(angle) for n, angle in enumerate(rng.uniform(0, 90, 40))}
    images = [
        Scored(row, 0, {"clip": round(float(rng.random()), 1)}, perceptual_hash=other_hash(n))
        for n, row in enumerate(angles)
    ]
    found = []
    for size, some in ((3, images), (40, images[::-1]), (7, rng.permutation(images).tolist())):
        run = embed(made(str(tmp_path / str(size)), some, size), angles)
        selection = select(run, by="clip", dedup="embeddings", similarity=0.995)
        found.append((chosen(selection), duplicates(run, selection)))
    assert found[0] == found[1] == found[2]
    assert 1 < len(found[0][0]) < 40


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"dedup": "near", "similarity": 0.9}, "similarity: only dedup: embeddings compares"),
        ({"embeddings": "look"}, "embeddings: only dedup: embeddings compares vectors"),
        ({"dedup": "embeddings", "similarity": 0}, "similarity: 0 is not a cosine above 0 and up"),
        ({"dedup": "embeddings", "similarity": 1.5}, "similarity: 1.5 is not a cosine"),
        ({"dedup": "embeddings", "similarity": float("nan")}, "similarity: nan is not a cosine"),
        ({"dedup": "embeddings", "similarity": "0.9"}, "similarity: '0.9' is not a cosine"),
        ({"dedup": "embeddings", "embeddings": "lok"}, "has none by a scorer 'lok'; did you mean"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    run: Run, request_: dict[str, object], complaint: str
) -> None:
    before = run.store.list()
    with pytest.raises(SpecError, match=complaint):
        select(run, **request_)
    assert run.store.list() == before


def test_a_run_without_vectors_is_told_how_to_get_them(tmp_path: Path) -> None:
    run = made(str(tmp_path), IMAGES)
    with pytest.raises(SpecError, match=r"nightpress score .* --set scores.look.scorer=embedding"):
        select(run, dedup="embeddings")


def test_of_several_scorers_one_has_to_be_named(run: Run) -> None:
    embed(run, dict.fromkeys("abcde", 0.0), "kind")
    with pytest.raises(SpecError, match="those of several scorers; name one of them: kind, look"):
        select(run, dedup="embeddings")
    assert chosen(select(run, dedup="embeddings", embeddings="kind")) == ["a_00"]


def test_the_same_request_keeps_the_selection_and_its_list(run: Run) -> None:
    first = select(run, dedup="embeddings")
    before = run.store.list()
    assert select(run, dedup="embeddings") == first
    with pytest.raises(SpecError, match="was asked for something else"):
        select(run, dedup="near")
    assert run.store.list() == before


def test_no_list_is_written_without_a_duplicate(run: Run) -> None:
    selection = select(run, dedup="near")
    assert selection.duplicates is None
    assert duplicates(run, selection) == []
    assert selection.num_chosen == len(IMAGES)


def test_damage_is_told(run: Run) -> None:
    selection = select(run, dedup="embeddings")
    for path in (str(selection.duplicates), embedding_parts(run.store, "look")[0]):
        run.store.put(path, run.store.read(path)[:40])
    with pytest.raises(Damaged, match=r"duplicates-.*damaged"):
        read_duplicates(run.store, selection.duplicates)
    with pytest.raises(Damaged, match=r"embeddings/look/shard-00000-.*nightpress score makes it"):
        select(run, "other", dedup="embeddings")


def test_only_what_older_versions_cannot_read_has_a_newer_format(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    select(run, "near", dedup="near")
    select(run, "alike", dedup="embeddings")
    versions = {}
    for name in ("near", "alike"):
        table = pq.read_table(Path(run.url, f"selections/{name}.parquet"))
        versions[name] = json.loads(table.schema.metadata[REASONS])["format_version"]
    assert versions == {"near": 1, "alike": 2}
    monkeypatch.setattr("nightpress.pipelines.run_directory.selections.files.FORMAT_VERSION", 1)
    with pytest.raises(UnsupportedFormat):
        run.selection("alike")

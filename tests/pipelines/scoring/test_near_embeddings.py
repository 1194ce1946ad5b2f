"""Near-duplicates by embeddings: exactly those that comparing each with each would find."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nightpress.pipelines.scoring import near_embeddings
from nightpress.pipelines.scoring.near_embeddings import (
    NearEmbeddings,
    Sketch,
    VectorRows,
    Vectors,
    cosines,
    first_near_embedding,
    first_near_steps,
    near_embedding_groups,
)


def some(number: int, width: int, seed: int = 0) -> Vectors:
    """Vectors of which half are changed copies of others, by more and by less."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((number, width)) + 0.5
    half = number // 2
    changes = rng.standard_normal((number - half, width)) * rng.uniform(0, 1, (number - half, 1))
    vectors[half:] = vectors[: number - half] + changes
    return rng.permutation(vectors).astype(np.float16)


def each_with(one: Vectors, others: Vectors) -> NDArray[np.float64]:
    return cosines(np.repeat(one[None], len(others), 0), others)


def groups_one_by_one(vectors: Vectors, similarity: float) -> tuple[list[int], list[float]]:
    groups, similarities, kept = [], [], list[int]()
    for place, one in enumerate(vectors):
        values = each_with(one, vectors[kept])
        near = np.flatnonzero(values >= similarity)
        groups.append(kept[near[0]] if len(near) else place)
        similarities.append(float(values[near[0]]) if len(near) else 1.0)
        if not len(near):
            kept.append(place)
    return groups, similarities


def as_lists(found: NearEmbeddings) -> tuple[list[int], list[float]]:
    return found.positions.tolist(), found.similarities.tolist()


@pytest.fixture
def in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS_AT_ONCE", 17), ("OTHERS_AT_ONCE", 40), ("PAIRS_AT_ONCE", 5)):
        monkeypatch.setattr(near_embeddings, name, value)


@pytest.mark.parametrize("similarity", [0.5, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("width", [3, 40, 100])
def test_the_first_of_those_that_stay_stands_for_the_others(
    width: int, similarity: float, in_small_batches: None
) -> None:
    vectors = some(200, width)
    found = near_embedding_groups(VectorRows.all_of(vectors), similarity)
    assert as_lists(found) == groups_one_by_one(vectors, similarity)


@pytest.mark.parametrize("similarity", [0.5, 0.9])
def test_the_first_near_one_of_others_is_found(similarity: float, in_small_batches: None) -> None:
    vectors = some(200, 40)
    left, right = vectors[:120], vectors[120:]
    found = first_near_embedding(VectorRows.all_of(left), VectorRows.all_of(right), similarity)
    for one, position, value in zip(left, *as_lists(found), strict=True):
        values = each_with(one, right)
        near = np.flatnonzero(values >= similarity)
        assert position == (near[0] if len(near) else -1)
        assert np.isnan(value) if position < 0 else value == values[position]


def test_batches_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = VectorRows.all_of(some(500, 32))
    whole = as_lists(near_embedding_groups(vectors, 0.8))
    for rows, others in ((7, 50), (64, 64), (300, 1)):
        monkeypatch.setattr(near_embeddings, "ROWS_AT_ONCE", rows)
        monkeypatch.setattr(near_embeddings, "OTHERS_AT_ONCE", others)
        assert as_lists(near_embedding_groups(vectors, 0.8)) == whole


def test_rows_are_compared_in_their_own_order(in_small_batches: None) -> None:
    vectors = some(100, 20)
    order = np.random.default_rng(1).permutation(100)[:70]
    in_place = near_embedding_groups(VectorRows(vectors, order), 0.8)
    assert as_lists(in_place) == groups_one_by_one(vectors[order], 0.8)


def test_of_many_that_are_all_alike_the_first_stays(in_small_batches: None) -> None:
    alike = np.repeat(some(1, 24), 300, axis=0)
    groups, similarities = as_lists(near_embedding_groups(VectorRows.all_of(alike), 0.95))
    assert (set(groups), set(similarities)) == ({0}, {1.0})


def test_a_row_of_small_changes_is_thinned_out_and_not_merged() -> None:
    angles = np.arange(30) * 0.1
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    found = near_embedding_groups(VectorRows.all_of(circle), float(np.cos(0.25)))
    assert found.positions.tolist() == [place - place % 3 for place in range(30)]


@pytest.mark.parametrize("axes", [0, 3, 31, 64])
def test_a_sketch_is_never_below_the_cosine(axes: int) -> None:
    vectors = some(150, 64)
    directions = np.linalg.qr(np.random.default_rng(2).standard_normal((64, 64)))[0]
    sketches = Sketch(directions[:, :axes].astype(np.float32)).of_rows(vectors)
    bounds = sketches @ sketches.T
    for one, bound in zip(vectors, bounds, strict=True):
        assert (bound >= each_with(one, vectors) - near_embeddings.SLACK / 2).all()


def test_nothing_is_near_nothing() -> None:
    none, few = VectorRows.all_of(np.zeros((0, 0), np.float16)), VectorRows.all_of(some(4, 8))
    assert as_lists(near_embedding_groups(none, 0.9)) == ([], [])
    assert as_lists(first_near_embedding(none, few, 0.9)) == ([], [])
    assert first_near_embedding(few, none, 0.9).positions.tolist() == [-1] * 4


def test_it_is_told_how_far_it_is(in_small_batches: None) -> None:
    told = list[int]()
    vectors = VectorRows.all_of(some(40, 8))
    near_embedding_groups(vectors, 0.9, told.append)
    assert told == [17, 34, 40]
    assert list(first_near_steps(vectors, vectors, 0.9)) == told

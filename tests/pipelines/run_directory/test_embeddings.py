"""Vectors of images in a run directory: found by the bytes of each image, whatever the part."""

from pathlib import Path

import numpy as np
import pytest

from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.run_directory.embeddings import (
    embedding_parts,
    embedding_scorers,
    read_part,
    read_vectors,
    write_embeddings,
)
from nightpress.pipelines.storage import Store

MARK = "f" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def vector(*numbers: float) -> bytes:
    return np.array(numbers, "<f2").tobytes()


def test_vectors_are_found_by_the_bytes_of_images(store: Store) -> None:
    write_embeddings(store, 0, "look", MARK, {"a": vector(1, 0), "b": None, "c": vector(0, 1)})
    write_embeddings(store, 1, "look", MARK, {"d": vector(-1, 0)})
    assert embedding_scorers(store) == ("look",)
    found = read_vectors(store, embedding_parts(store, "look"), ["d", "b", "c", "none", "d"])
    assert found.has_one.tolist() == [True, False, True, False, True]
    assert found.vectors.tolist() == [[-1, 0], [0, 0], [0, 1], [0, 0], [-1, 0]]
    assert found.fingerprint == MARK
    assert found.vectors.dtype == np.float16


def test_a_part_tells_which_images_have_failed(store: Store) -> None:
    write_embeddings(store, 3, "look", MARK, {"a": None, "b": vector(1, 0), "c": None})
    write_embeddings(store, 4, "look", MARK, {"d": None})
    parts = [read_part(store, path) for path in embedding_parts(store, "look")]
    assert [(part.hashes, part.failed) for part in parts] == [(["b"], ["a", "c"]), ([], ["d"])]
    assert read_vectors(store, embedding_parts(store, "look", 4), ["d"]).has_one.tolist() == [False]


def test_the_first_part_that_has_a_vector_counts(store: Store) -> None:
    for numbers in ((1, 0), (0, 1)):
        write_embeddings(store, 0, "look", MARK, {"a": vector(*numbers)})
    paths = embedding_parts(store, "look", 0)
    assert len(paths) == 2
    first = read_part(store, paths[0]).vectors.tolist()
    assert read_vectors(store, paths, ["a"]).vectors.tolist() == first


def test_a_part_is_written_once_and_mended_if_damaged(store: Store) -> None:
    write_embeddings(store, 0, "look", MARK, {"a": vector(1, 0)})
    (path,) = embedding_parts(store, "look")
    data = store.read(path)
    store.put(path, data[:50])
    with pytest.raises(Damaged, match=r"is damaged .* delete it, and nightpress score makes it"):
        read_part(store, path)
    write_embeddings(store, 0, "look", MARK, {"a": vector(1, 0)})
    assert store.read(path) == data


def test_nothing_is_written_for_no_image(store: Store) -> None:
    write_embeddings(store, 0, "look", MARK, {})
    assert store.list() == {}
    assert read_vectors(store, embedding_parts(store, "look"), ["a"]).has_one.tolist() == [False]


@pytest.mark.parametrize(("mark", "numbers"), [("e" * 64, (1, 0)), (MARK, (1, 0, 0))])
def test_vectors_of_two_scorers_are_not_mixed(
    store: Store, mark: str, numbers: tuple[float, ...]
) -> None:
    write_embeddings(store, 0, "look", MARK, {"a": vector(1, 0)})
    write_embeddings(store, 1, "look", mark, {"b": vector(*numbers)})
    with pytest.raises(Damaged, match="vectors are those of another scorer"):
        read_vectors(store, embedding_parts(store, "look"), ["a", "b"])


def test_shards_and_scorers_are_told_apart(store: Store) -> None:
    for shard in (1, 10, 100_001):
        write_embeddings(store, shard, "look", MARK, {str(shard): vector(1, 0)})
    write_embeddings(store, 1, "looks", MARK, {"x": vector(1, 0)})
    assert embedding_scorers(store) == ("look", "looks")
    assert len(embedding_parts(store, "look")) == 3
    for shard in (1, 10, 100_001):
        (path,) = embedding_parts(store, "look", shard)
        assert read_part(store, path).hashes == [str(shard)]

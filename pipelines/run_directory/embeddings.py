"""`embeddings/`: the vectors that scorers gave the images of a run, by the bytes of each image.

A part is an object of its own for one scorer and shard, named after its content and never changed.
Its rows name images by their SHA-256, so it is right whatever becomes of the shard's commit: images
that are made again find no vector in it, and get theirs in another part.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.storage import READ_THREADS, Store

EMBEDDINGS_FOLDER = "embeddings"

FINGERPRINT = b"nightpress.scorer"
"""Key in a part's Parquet footer: the fingerprint of the scorer that gave the vectors."""

SHA_DIGITS = 16

HALF_BYTES = 2

_PART = re.compile(r"embeddings/([A-Za-z]\w*)/shard-\d{5,}-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class FoundVectors:
    """The vectors of some images by one scorer."""

    vectors: NDArray[np.float16]
    """(n, d) of length 1; zeros for an image that has none."""
    has_one: NDArray[np.bool_]
    """(n,) whether the image has a vector."""
    fingerprint: str | None
    """Fingerprint of the scorer; None if it has given no image of the run a vector."""


@dataclass(frozen=True)
class EmbeddingPart:
    """The content of a part."""

    hashes: list[str]
    """SHA-256 of the image files that have a vector."""
    vectors: NDArray[np.float16]
    """(n, d) of length 1."""
    failed: list[str]
    """SHA-256 of the images that the scorer failed on."""
    fingerprint: str
    """Fingerprint of the scorer."""


def write_embeddings(
    store: Store, shard: int, name: str, fingerprint: str, vectors: Mapping[str, bytes | None]
) -> None:
    """Write the vectors of a shard's images; nothing if there are none.

    Args:
        store: the run directory.
        shard: their shard.
        name: the scorer's name in the job.
        fingerprint: the scorer's.
        vectors: SHA-256 of an image -> its vector, little-endian float16; None if the scorer
            failed.
    """
    if not vectors:
        return
    data = _encoded(vectors, fingerprint)
    digest = sha256(data).hexdigest()[:SHA_DIGITS]
    path = f"{EMBEDDINGS_FOLDER}/{name}/shard-{shard:05d}-{digest}.parquet"
    if not store.create(path, data) and store.read(path) != data:
        store.put(path, data)  # it is named after its content, so what was there is damaged


def write_records_embeddings(
    store: Store, shard: int, records: Sequence[ImageRecord], fingerprints: Mapping[str, str]
) -> None:
    """Write the vectors that records of images hold.

    Args:
        fingerprints: scorer -> fingerprint, as `RunRecord.scorers`.
    """
    held: dict[str, dict[str, bytes | None]] = {}
    for record in records:
        if record.sha256 is not None:
            for name, vector in (record.embeddings or {}).items():
                held.setdefault(name, {})[record.sha256] = vector
    for name, vectors in held.items():
        write_embeddings(store, shard, name, fingerprints[name], vectors)


def embedding_scorers(store: Store) -> tuple[str, ...]:
    """The scorers that have given images of a run vectors, in alphabetical order; one listing."""
    return tuple(sorted({name for name, _ in _listed(store, EMBEDDINGS_FOLDER)}))


def embedding_parts(store: Store, name: str, shard: int | None = None) -> list[str]:
    """The paths of one scorer's parts, of one shard or of all, in order; one listing."""
    found = _listed(store, f"{EMBEDDINGS_FOLDER}/{name}")
    return [path for _, path in found if shard is None or f"/shard-{shard:05d}-" in path]


def _listed(store: Store, folder: str) -> Iterator[tuple[str, str]]:
    """The scorer and the path of each part, in order."""
    for path in sorted(store.list(folder)):
        if match := _PART.fullmatch(path):
            yield match.group(1), path


def read_part(store: Store, path: str) -> EmbeddingPart:
    """Read a part.

    Raises:
        Damaged: it is not what was written.
        StoreError: it cannot be read.
    """
    try:
        source = pa.BufferReader(store.read(path))
        table = pq.read_table(source, page_checksum_verification=True)
        mark = table.schema.metadata[FINGERPRINT].decode()
        column = table.column("embedding").combine_chunks()
        has_one = pc.is_valid(column)
        hashes = table.column("sha256").combine_chunks()
        numbers = column.drop_null().flatten().to_numpy(zero_copy_only=False)
        vectors = numbers.astype(np.float16).reshape(-1, column.type.list_size)
        failed = hashes.filter(pc.invert(has_one)).to_pylist()
        return EmbeddingPart(hashes.filter(has_one).to_pylist(), vectors, failed, mark)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{store.url}/{path} is damaged ({one_line(error, 200)}); delete it, and nightpress "
            "score makes it again"
        ) from error


def read_vectors(store: Store, paths: Iterable[str], hashes: Sequence[str]) -> FoundVectors:
    """The vectors of some images, from parts that are read a few at a time.

    Memory holds the vectors that are asked for, and no others.

    Args:
        store: the run directory.
        paths: of the parts of one scorer; of an image that is in two, the first one counts.
        hashes: (n,) SHA-256 of the image files.

    Raises:
        Damaged: a part is not what was written, or the parts are not of one scorer.
        StoreError: a part cannot be read.
    """
    rows = {each: row for row, each in reversed([*enumerate(hashes)])}
    found: NDArray[np.float16] | None = None
    has_one, mark = np.zeros(len(hashes), np.bool_), None
    for path, part in _parts(store, paths):
        width = part.vectors.shape[1]
        if found is None:
            found, mark = np.zeros((len(hashes), width), np.float16), part.fingerprint
        if (part.fingerprint, width) != (mark, found.shape[1]):
            raise Damaged(f"{store.url}/{path}: its vectors are those of another scorer")
        wanted = [(rows[each], place) for place, each in enumerate(part.hashes) if each in rows]
        wanted = [pair for pair in wanted if not has_one[pair[0]]]
        if wanted:
            own, places = np.array(wanted).T
            found[own], has_one[own] = part.vectors[places], True
    if found is None:
        found = np.zeros((len(hashes), 0), np.float16)
    firsts = np.array([rows[each] for each in hashes], np.int64)
    again = np.flatnonzero(firsts != np.arange(len(hashes)))
    found[again], has_one[again] = found[firsts[again]], has_one[firsts[again]]
    return FoundVectors(found, has_one, mark)


def _parts(store: Store, paths: Iterable[str]) -> Iterator[tuple[str, EmbeddingPart]]:
    """Parts in which some image has a vector, in order."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = map_ahead(pool, lambda path: (path, read_part(store, path)), paths, READ_THREADS)
        yield from (each for each in read if each[1].hashes)


def _encoded(vectors: Mapping[str, bytes | None], fingerprint: str) -> bytes:
    known = (len(each) // HALF_BYTES for each in vectors.values() if each is not None)
    width = next(known, 1)
    missing = bytes(width * HALF_BYTES)
    whole = b"".join(missing if each is None else each for each in vectors.values())
    numbers = pa.array(np.frombuffer(whole, "<f2"))
    is_missing = pa.array([each is None for each in vectors.values()])
    lists = pa.FixedSizeListArray.from_arrays(numbers, width, mask=is_missing)
    columns = [pa.array(vectors, pa.string()), lists]
    schema = pa.schema(
        [
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), width)),
        ],
        metadata={FINGERPRINT: fingerprint},
    )
    sink = pa.BufferOutputStream()
    table = pa.table(columns, schema=schema)
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data

"""Verify: what lies in a run directory, held against its own metadata and its plan.

Reads; what is to be done about what it finds, others decide.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.pipelines.errors import Damaged, PlanDamaged, StoreMissing
from nightpress.pipelines.image_files.encoding import decoded, opened, read_facts
from nightpress.pipelines.image_files.naming import FOLDER
from nightpress.pipelines.image_files.packing import image_bytes, is_as_named
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.planning.seeds import Hashes, hash64
from nightpress.pipelines.records import (
    LATER_COLUMNS,
    LATER_IN_PLANS,
    METADATA_SCHEMA,
    PLAN_SCHEMA,
    ImageFacts,
)
from nightpress.pipelines.run_directory.commit import as_recorded, read_commit, shard_path
from nightpress.pipelines.run_directory.reader import Run

T = TypeVar("T")

READ_THREADS = 16

SHARDS_AHEAD = 4
"""Shards whose metadata and plan are read while the images of others are."""

PLANNED = tuple(
    name for name in PLAN_SCHEMA.names if name not in {"shard", "file"} | LATER_IN_PLANS
)
"""Columns in which metadata and plan must agree; of LoRAs the metadata has a list."""


class Damage(StrEnum):
    """What can be wrong."""

    MISSING = "missing"
    """Its metadata says that it is stored, and it is not there."""
    CHANGED = "changed"
    """Its bytes are not those that were stored."""
    UNREADABLE = "unreadable"
    """Its bytes are as stored, and no whole picture of the planned size and format."""
    FACTS = "facts"
    """What it says of itself is not what its metadata says."""
    METADATA = "metadata"
    """A metadata part is damaged, or does not hold what the plan holds."""
    PLAN = "plan"
    """A part of the plan is damaged; nothing that it planned can be judged."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    damage: Damage
    shard: int
    path: str
    """Of the object, relative to the run; of a packed image `<pack>/<member>`."""
    text: str
    row: int | None = None
    """In the shard; None where metadata or plan are meant."""

    def __str__(self) -> str:
        """`images/0_00.png: changed: ...`."""
        return f"{self.path}: {self.damage}: {self.text}"


@dataclass(frozen=True)
class ShardVerified:
    """One committed shard was looked at."""

    shard: int
    num_checked: int
    """Images that were read."""
    num_failed: int
    """Rows that the metadata calls failed: there is nothing to read."""
    findings: tuple[Finding, ...]


def verify(run: Run, sample: float = 1.0, seed: int = 0) -> Iterator[ShardVerified]:
    """Look at every committed shard, or at a sample of the images of each.

    Args:
        run: finished or not.
        sample: the share of images that is read; metadata is always held against the plan.
        seed: of the sample.

    Raises:
        StoreError: the store fails.
    """
    with ThreadPoolExecutor(READ_THREADS) as images, ThreadPoolExecutor(SHARDS_AHEAD) as shards:
        look = partial(_verify_shard, run, sample=sample, seed=seed, pool=images)
        yield from _ahead(shards, look, run.committed, SHARDS_AHEAD)


def in_the_same_packs(run: Run, shard: int, rows: Iterable[int]) -> tuple[int, ...]:
    """Some rows of a committed shard, and the others whose images lie in a pack with theirs.

    Raises:
        Damaged: the commit is not what was written.
    """
    wanted = set(rows)
    if run.spec.images.is_packed:
        files = read_commit(run.store, shard, ["file"]).column("file").to_pylist()
        packs = {files[row] for row in wanted} - {None}
        wanted |= {row for row, file in enumerate(files) if file in packs}
    return tuple(sorted(wanted))


def orphan_images(run: Run) -> list[str]:
    """Images, or packs of them, that no commit names, in order.

    Of the images that are named, 64 bits each are held, and of those in the store one page of the
    listing: 32 MB for a million images, by tests/benchmarks/bench_verify.py. A stray whose hash is
    by chance that of a named image is not told; no named image is ever called a stray.

    Raises:
        Damaged: a commit cannot be read, so that nobody knows which images it names.
        StoreError: the store fails.
    """
    named = _named_images(run)
    strays: list[str] = []
    for page in run.store.pages(FOLDER.rstrip("/")):
        paths = list(page)
        hashes = hash64(pa.array(paths, pa.string()), 0)
        places = np.searchsorted(named[:-1], hashes)
        strays += [paths[n] for n in np.flatnonzero(named[places] != hashes)]
    return sorted(strays)


def _named_images(run: Run) -> Hashes:
    """Hashes of the files that commits name, sorted, and the greatest that there is at the end."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        hashes = list(_ahead(pool, partial(_hashed_files, run), run.committed, READ_THREADS))
    named = np.concatenate([*hashes, np.array([2**64 - 1], np.uint64)])
    hashes.clear()
    named.sort()
    return named


def _hashed_files(run: Run, shard: int) -> Hashes:
    files = read_commit(run.store, shard, ["file"]).column("file").drop_null()
    return hash64(files.combine_chunks().cast(pa.string()), 0)


def _ahead(
    pool: ThreadPoolExecutor, look: Callable[[int], T], shards: Iterable[int], number: int
) -> Iterator[T]:
    """What a function finds in each shard, in order, and looked for in so many ahead of time."""
    pending: deque[Future[T]] = deque()
    for shard in shards:
        pending.append(pool.submit(look, shard))
        if len(pending) > number:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _verify_shard(
    run: Run, shard: int, sample: float, seed: int, pool: ThreadPoolExecutor
) -> ShardVerified:
    try:
        planned = read_shard(run.store, run.record.layout, shard)
    except PlanDamaged as error:
        path = run.record.layout.part_of(shard).path
        return ShardVerified(shard, 0, 0, (Finding(Damage.PLAN, shard, path, str(error)),))
    try:
        part = read_commit(run.store, shard)
        wrong = _against_plan(part, planned) or _wrong_loras(part, planned, run.record.model)
    except Damaged:
        wrong = "it cannot be read"
    if wrong is not None:
        damaged = Finding(Damage.METADATA, shard, shard_path(shard), wrong)
        return ShardVerified(shard, 0, 0, (damaged,))
    chosen, num_failed = _chosen(part, sample, seed)
    rows = as_recorded(part).take(pa.array(chosen, pa.int64())).to_pylist()
    if run.spec.images.is_packed and sample >= 1:
        found = _verify_packs(run, shard, dict(zip(chosen, rows, strict=True)), pool)
    else:
        found = list(pool.map(partial(_verify_image, run, shard), chosen, rows))
    findings = tuple(finding for finding in found if finding is not None)
    if run.spec.images.is_packed and findings and sample < 1:
        # A pack is made again as a whole, and what is sound in it must be known.
        return _verify_shard(run, shard, sample=1.0, seed=seed, pool=pool)
    return ShardVerified(shard, len(chosen), num_failed, findings)


def _verify_packs(
    run: Run, shard: int, rows: Mapping[int, dict[str, Any]], pool: Executor
) -> list[Finding | None]:
    """Each pack is read once, whole; what is around its images must be as written, too."""
    found: list[Finding | None] = []
    for path in sorted({row["file"] for row in rows.values()}):
        inside = {number: row for number, row in rows.items() if row["file"] == path}
        data = run.store.read_if_any(path)
        look = partial(_verify_member, run, shard, data)
        findings = list(pool.map(look, inside, inside.values()))
        if data is not None and not any(findings) and not is_as_named(path, data):
            text = "its images are as recorded, and what is around them is not"
            findings = [Finding(Damage.CHANGED, shard, path, text, min(inside))]
        found += findings
    return found


def _verify_member(
    run: Run, shard: int, pack: bytes | None, row: int, values: dict[str, Any]
) -> Finding | None:
    path = f"{values['file']}/{values['member']}"
    if pack is None:
        return Finding(Damage.MISSING, shard, path, "its pack is not there", row)
    start = values["member_offset"]
    data = pack[start : start + values["num_bytes"]]
    damage, text = _damage(data, values, run.spec.images.format)
    return None if damage is None else Finding(damage, shard, path, text, row)


def _chosen(part: pa.Table, sample: float, seed: int) -> tuple[list[int], int]:
    """The rows whose images are read, and how many rows failed."""
    statuses, ids = (part.column(name).to_pylist() for name in ("status", "image_id"))
    stored = [n for n, status in enumerate(statuses) if status == "ok"]
    chosen = [n for n in stored if sample >= 1 or _lot(ids[n], seed) < sample]
    return chosen, len(statuses) - len(stored)


def _against_plan(part: pa.Table, planned: pa.Table) -> str | None:
    """What a metadata part says otherwise than the plan, if anything."""
    missing = set(METADATA_SCHEMA.names) - LATER_COLUMNS - set(part.column_names)
    if missing:
        return f"it has no column {min(missing)}"
    if len(part) != len(planned):
        return f"it has {len(part)} rows, and the plan has {len(planned)}"
    carried = [name for name in planned.column_names if name not in PLAN_SCHEMA.names]
    for name in (*PLANNED, *carried):
        if name not in part.column_names:
            return f"it has no column {name}"
        if part.column(name).equals(planned.column(name)):
            continue
        ours, theirs = part.column(name).to_pylist(), planned.column(name).to_pylist()
        for row, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if our != their and repr(our) != repr(their):  # NaN is NaN here
                return f"row {row}, column {name}: {our!r}, and the plan has {their!r}"
    return None


def _wrong_loras(part: pa.Table, planned: pa.Table, model: ModelInfo) -> str | None:
    """The first row whose LoRAs are not those that the plan gives it, if any."""
    if not model.row_loras:
        return None
    columns = (planned.column("lora"), planned.column("lora_scale"), part.column("loras"))
    known = {None, *(each.name for each in model.row_loras)}
    for row, (lora, scale, found) in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
        if lora not in known:
            return f"row {row}, column lora of the plan: the run has no LoRA {lora!r}"
        if found != [asdict(each) for each in model.loras_of(lora, scale)]:
            return f"row {row}, column loras: {found!r}, and the plan has {lora!r} at {scale!r}"
    return None


def _verify_image(run: Run, shard: int, row: int, values: dict[str, Any]) -> Finding | None:
    path = "/".join(filter(None, (values["file"], values["member"])))
    try:
        data = image_bytes(run.store, values)
    except StoreMissing:
        return Finding(Damage.MISSING, shard, path, "it is not there", row)
    damage, text = _damage(data, values, run.spec.images.format)
    return None if damage is None else Finding(damage, shard, path, text, row)


def _damage(data: bytes, values: dict[str, Any], image_format: str) -> tuple[Damage | None, str]:
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != values["num_bytes"] or digest != values["sha256"]:
        text = f"{len(data):,} bytes with sha256 {digest[:12]}"
        wanted = f"{values['num_bytes']:,} with {values['sha256'][:12]}"
        return Damage.CHANGED, f"{text}, and the metadata has {wanted}"
    wanted_shape = (image_format, values["width"], values["height"])
    try:
        with opened(data) as image:
            shape = (image.format or "").lower(), *image.size
        if shape != wanted_shape:
            text = f"{_shape(shape)}, and the plan has {_shape(wanted_shape)}"
            return Damage.UNREADABLE, text
        decoded(data)
    except ValueError as error:
        return Damage.UNREADABLE, str(error)
    if read_facts(data) != ImageFacts.from_dict(values):
        return Damage.FACTS, "what it says of itself is not what its metadata says"
    return None, ""


def _lot(image_id: str, seed: int) -> float:
    """A number in [0, 1) that every machine draws alike."""
    return int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:8]) / 2**64


def _shape(shape: Sequence[Any]) -> str:
    return f"{shape[0]} {shape[1]} x {shape[2]}"

"""Verify: what lies in a run directory, held against its own metadata and its plan.

Reads; what is to be done about what it finds, others decide.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any

import pyarrow as pa
from PIL import Image

from pipelines.commit import read_commit, shard_path
from pipelines.encoding import read_facts
from pipelines.errors import Damaged, PlanDamaged, StoreMissing
from pipelines.naming import FOLDER
from pipelines.planning import read_shard
from pipelines.records import METADATA_SCHEMA, PLAN_SCHEMA, ImageFacts
from pipelines.runs import Run

READ_THREADS = 16

PLANNED = tuple(name for name in PLAN_SCHEMA.names if name not in ("shard", "file"))
"""Columns in which metadata and plan must agree."""


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
    """Of the object, relative to the run."""
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
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for shard in run.committed:
            yield _verify_shard(run, shard, sample, seed, pool)


def stray_images(run: Run) -> list[str]:
    """Images that no commit names, in order."""
    kept: set[str] = set()
    for shard in run.committed:
        kept.update(filter(None, read_commit(run.store, shard).column("file").to_pylist()))
    return [path for path in run.store.list(FOLDER.rstrip("/")) if path not in kept]


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
        wrong = _against_plan(part, planned)
    except Damaged:
        wrong = "it cannot be read"
    if wrong is not None:
        damaged = Finding(Damage.METADATA, shard, shard_path(shard), wrong)
        return ShardVerified(shard, 0, 0, (damaged,))
    rows = part.select(METADATA_SCHEMA.names).to_pylist()
    stored = [n for n, row in enumerate(rows) if row["status"] == "ok"]
    chosen = [n for n in stored if _lot(rows[n]["image_id"], seed) < sample]
    found = pool.map(lambda n: _verify_image(run, shard, n, rows[n]), chosen)
    findings = tuple(finding for finding in found if finding is not None)
    return ShardVerified(shard, len(chosen), len(rows) - len(stored), findings)


def _against_plan(part: pa.Table, planned: pa.Table) -> str | None:
    """What a metadata part says otherwise than the plan, if anything."""
    missing = set(METADATA_SCHEMA.names) - set(part.column_names)
    if missing:
        return f"it has no column {min(missing)}"
    if len(part) != len(planned):
        return f"it has {len(part)} rows, and the plan has {len(planned)}"
    carried = [name for name in planned.column_names if name not in PLAN_SCHEMA.names]
    for name in (*PLANNED, *carried):
        if name not in part.column_names:
            return f"it has no column {name}"
        ours, theirs = part.column(name).to_pylist(), planned.column(name).to_pylist()
        for row, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if our != their:
                return f"row {row}, column {name}: {our!r}, and the plan has {their!r}"
    return None


def _verify_image(run: Run, shard: int, row: int, values: dict[str, Any]) -> Finding | None:
    try:
        data = run.store.read(values["file"])
    except StoreMissing:
        return Finding(Damage.MISSING, shard, values["file"], "it is not there", row)
    damage, text = _damage(data, values, run.spec.images.format)
    return None if damage is None else Finding(damage, shard, values["file"], text, row)


def _damage(data: bytes, values: dict[str, Any], image_format: str) -> tuple[Damage | None, str]:
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != values["num_bytes"] or digest != values["sha256"]:
        text = f"{len(data):,} bytes with sha256 {digest[:12]}"
        wanted = f"{values['num_bytes']:,} with {values['sha256'][:12]}"
        return Damage.CHANGED, f"{text}, and the metadata has {wanted}"
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            found = (image.format or "").lower(), *image.size
    except (OSError, ValueError, SyntaxError) as error:
        return Damage.UNREADABLE, " ".join(str(error).split())[:200]
    wanted_shape = (image_format, values["width"], values["height"])
    if found != wanted_shape:
        return Damage.UNREADABLE, f"{_shape(found)}, and the plan has {_shape(wanted_shape)}"
    if read_facts(data) != ImageFacts.from_dict(values):
        return Damage.FACTS, "what it says of itself is not what its metadata says"
    return None, ""


def _lot(image_id: str, seed: int) -> float:
    """A number in [0, 1) that every machine draws alike."""
    return int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:8]) / 2**64


def _shape(shape: Sequence[Any]) -> str:
    return f"{shape[0]} {shape[1]} x {shape[2]}"

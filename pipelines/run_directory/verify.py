"""Verify: compare the images of a run with its metadata, and its metadata with its plan.

It only reads. The caller decides what to do about the findings.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import Damaged, PlanDamaged, StoreMissing
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.image_files.clips.mp4 import require_av
from nightpress.pipelines.image_files.content_credentials import require_packages
from nightpress.pipelines.image_files.encoding import decoded, opened
from nightpress.pipelines.image_files.file_format import FileFormat
from nightpress.pipelines.image_files.naming import FOLDER
from nightpress.pipelines.image_files.packing import image_bytes, is_intact_pack
from nightpress.pipelines.manifest.python_values import python_values
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.records import (
    METADATA_SCHEMA,
    NOT_IN_OLDER_COMMITS,
    PLAN_SCHEMA,
    FailureType,
    ImageFacts,
)
from nightpress.pipelines.run_directory.clip_checks import wrong_frames
from nightpress.pipelines.run_directory.commit import metadata_columns, read_commit, shard_path
from nightpress.pipelines.run_directory.comparison import wrong_conditioning, wrong_loras
from nightpress.pipelines.run_directory.draw_checks import with_drawn_seeds, wrong_draws
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.named_hashes import NamedHashes
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS

SHARDS_AHEAD = 4
"""Shards whose metadata and plan are read ahead while images are checked."""

PLANNED = tuple(
    name
    for name in PLAN_SCHEMA.names
    if name
    not in {
        *("shard", "file", "lora", "lora_scale", "conditioning", "inputs", "passes", "parent"),
        "clip",
    }
)
"""Columns that must be equal in metadata and plan; `comparison` compares the others."""


class Damage(StrEnum):
    """Kinds of damage."""

    MISSING = "missing"
    """The metadata names an image that is not in the store."""
    CHANGED = "changed"
    """The bytes of an image are not those that were stored."""
    UNREADABLE = "unreadable"
    """The bytes are as stored, but not a complete image of the planned size and format."""
    FACTS = "facts"
    """The metadata embedded in an image differs from its metadata row."""
    CREDENTIAL = "credential"
    """The credential signed into an image is not valid, or is not the run's."""
    METADATA = "metadata"
    """A metadata part is damaged, or differs from the plan."""
    PLAN = "plan"
    """A part of the plan is damaged, so the images of its shards cannot be checked."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    damage: Damage
    shard: int
    path: str
    """The object, relative to the run; for a packed image `<pack>/<member>`."""
    text: str
    row: int | None = None
    """Row in the shard; None if the metadata part or the plan is damaged."""

    def __str__(self) -> str:
        """`images/0_00.png: changed: ...`."""
        return f"{self.path}: {self.damage}: {self.text}"


@dataclass(frozen=True)
class ShardVerified:
    """The result for one committed shard."""

    shard: int
    num_checked: int
    """Images that were read."""
    num_failed: int
    """Rows with status `failed`, which have no image."""
    findings: tuple[Finding, ...]
    num_rejected: int = 0
    """Failed rows that the job's gates rejected."""


def verify(run: Run, sample: float = 1.0, seed: int = 0) -> Iterator[ShardVerified]:
    """Check every committed shard: all of its images, or a sample of them.

    Args:
        run: a run, finished or not.
        sample: the share of images to read; metadata is always compared with the plan.
        seed: the seed of the sample.

    Raises:
        StoreError: the store fails.
        SpecError: the images are signed, or clips in MP4, and the packages that check credentials
            or decode MP4 are missing.
    """
    yield from _verify(run, run.committed, sample, seed)


def verify_shards(
    run: Run, shards: Sequence[int], sample: float = 1.0, seed: int = 0
) -> list[ShardVerified]:
    """As `verify`, for some of the committed shards; any machine may check any of them."""
    return list(_verify(run, shards, sample, seed))


def _verify(run: Run, shards: Sequence[int], sample: float, seed: int) -> Iterator[ShardVerified]:
    if run.spec.provenance.sign is not None:
        require_packages()
    if run.spec.images.format == "mp4":
        require_av("verifying MP4 files")
    with ThreadPoolExecutor(READ_THREADS) as images, ThreadPoolExecutor(SHARDS_AHEAD) as readers:
        check = partial(_verify_shard, run, sample=sample, seed=seed, pool=images)
        yield from map_ahead(readers, check, shards, SHARDS_AHEAD)


def rows_in_same_packs(run: Run, shard: int, rows: Iterable[int]) -> tuple[int, ...]:
    """Some rows of a committed shard, and all rows whose images are in the same packs.

    Raises:
        Damaged: the commit is not what was written.
    """
    found = set(rows)
    if run.spec.images.is_packed:
        files = read_commit(run.store, shard, ["file"]).column("file").to_pylist()
        packs = {files[row] for row in found} - {None}
        found |= {row for row, file in enumerate(files) if file in packs}
    return tuple(sorted(found))


def orphan_images(run: Run) -> list[str]:
    """Images, or packs of them, that no commit names, in order.

    Memory holds a 64-bit hash of each named file and one page of the listing;
    tests/benchmarks/bench_verify.py measures it. An orphan whose hash equals that of a named file
    by chance is missed; a named file is never taken for an orphan.

    Raises:
        Damaged: a commit cannot be read, so the files that it names are unknown.
        StoreError: the store failed.
    """
    named = NamedHashes.of_commits(run, partial(_file_hashes, run))
    orphans: list[str] = []
    for page in run.store.pages(FOLDER.rstrip("/")):
        paths = list(page)
        is_named = named.include(hash64(pa.array(paths, pa.string()), 0))
        orphans += [paths[n] for n in np.flatnonzero(~is_named)]
    return sorted(orphans)


def _file_hashes(run: Run, shard: int) -> Hashes:
    part = metadata_columns(read_commit(run.store, shard), ("file", "first_frame"))
    frames = pc.struct_field(part.column("first_frame"), "file")
    files = pa.chunked_array([*part.column("file").chunks, *frames.chunks], pa.string())
    files = files.drop_null()
    return hash64(files.combine_chunks().cast(pa.string()), 0)


def _verify_shard(
    run: Run, shard: int, sample: float, seed: int, pool: ThreadPoolExecutor
) -> ShardVerified:
    model = run.record.of_shard(shard).model
    try:
        planned = _as_recorded(read_shard(run.store, run.record.layout, shard), model)
    except PlanDamaged as error:
        path = run.record.layout.part_of(shard).path
        return ShardVerified(shard, 0, 0, (Finding(Damage.PLAN, shard, path, str(error)),))
    try:
        part = read_commit(run.store, shard)
        planned = with_drawn_seeds(planned, part)
        wrong = (
            wrong_draws(part, run.spec.gates)
            or _wrong_values(part, planned)
            or wrong_loras(part, planned, model)
            or wrong_conditioning(part, planned, model, run.spec.inputs.fit)
        )
    except Damaged:
        wrong = "the part cannot be read"
    if wrong is not None:
        damaged = Finding(Damage.METADATA, shard, shard_path(shard), wrong)
        return ShardVerified(shard, 0, 0, (damaged,))
    chosen, num_failed = _sampled_rows(part, sample, seed)
    rows = metadata_columns(part).take(pa.array(chosen, pa.int64())).to_pylist()
    if run.spec.images.is_packed and sample >= 1:
        found = _verify_packs(run, shard, dict(zip(chosen, rows, strict=True)), pool)
    else:
        found = list(pool.map(partial(_verify_image, run, shard), chosen, rows))
    findings = tuple(finding for finding in found if finding is not None)
    if run.spec.images.is_packed and findings and sample < 1:
        # A pack is repaired as a whole, so all of its damaged images must be known.
        return _verify_shard(run, shard, sample=1.0, seed=seed, pool=pool)
    num_rejected = part.column("error_type").to_pylist().count(FailureType.REJECTED)
    return ShardVerified(shard, len(chosen), num_failed, findings, num_rejected)


def _verify_packs(
    run: Run, shard: int, rows: Mapping[int, dict[str, Any]], pool: Executor
) -> list[Finding | None]:
    """Read each pack once; the bytes between its images must be as written, too."""
    found: list[Finding | None] = []
    for path in sorted({row["file"] for row in rows.values()}):
        members = {number: row for number, row in rows.items() if row["file"] == path}
        data = run.store.read_if_any(path)
        check = partial(_verify_member, run, shard, data)
        findings = list(pool.map(check, members, members.values()))
        if data is not None and not any(findings) and not is_intact_pack(path, data):
            text = "its images are as recorded, but the bytes around them have changed"
            findings = [Finding(Damage.CHANGED, shard, path, text, min(members))]
        found += findings
    return found


def _verify_member(
    run: Run, shard: int, pack: bytes | None, row: int, values: dict[str, Any]
) -> Finding | None:
    path = f"{values['file']}/{values['member']}"
    if pack is None:
        return Finding(Damage.MISSING, shard, path, "the pack is not in the store", row)
    start = values["member_offset"]
    data = pack[start : start + values["num_bytes"]]
    damage, text = _damage(data, values, run.record.file_format)
    return None if damage is None else Finding(damage, shard, path, text, row)


def _sampled_rows(part: pa.Table, sample: float, seed: int) -> tuple[list[int], int]:
    """The rows whose images are to be read, and the number of failed rows."""
    statuses, ids = (part.column(name).to_pylist() for name in ("status", "image_id"))
    stored = [n for n, status in enumerate(statuses) if status == "ok"]
    chosen = [n for n in stored if sample >= 1 or _sample_draw(ids[n], seed) < sample]
    return chosen, len(statuses) - len(stored)


def _as_recorded(planned: pa.Table, model: ModelInfo) -> pa.Table:
    """The plan's rows with the samplers as metadata names them."""
    position = planned.schema.get_field_index("scheduler")
    names = planned.column(position)
    named = pc.if_else(pc.equal(names, "default"), model.own_sampler, names)
    return planned.set_column(position, planned.schema.field(position), named)


def _wrong_values(part: pa.Table, planned: pa.Table) -> str | None:
    """The first difference between a metadata part and the plan, if any."""
    carried = [name for name in planned.column_names if name not in PLAN_SCHEMA.names]
    written = set(METADATA_SCHEMA.names).difference(NOT_IN_OLDER_COMMITS)  # by every version
    missing = written.union(carried) - set(part.column_names)
    if missing:
        return f"column {min(missing)} is missing"
    if len(part) != len(planned):
        return f"the part has {len(part)} rows, but the plan has {len(planned)}"
    parent = [name for name in ("parent",) if name in part.column_names]  # older ones lack it
    for name in (*PLANNED, *parent, *carried):
        if part.column(name).equals(planned.column(name)):
            continue
        values, expected = (python_values(table.column(name)) for table in (part, planned))
        for row, (value, plan) in enumerate(zip(values, expected, strict=True)):
            if value != plan and repr(value) != repr(plan):  # NaN equals NaN here
                return f"row {row}, column {name}: {value!r}, but the plan has {plan!r}"
    return None


def _verify_image(run: Run, shard: int, row: int, values: dict[str, Any]) -> Finding | None:
    path = "/".join(filter(None, (values["file"], values["member"])))
    try:
        data = image_bytes(run.store, values)
    except StoreMissing:
        return Finding(Damage.MISSING, shard, path, "the image is not in the store", row)
    damage, text = _damage(data, values, run.record.file_format)
    if damage is not None:
        return Finding(damage, shard, path, text, row)
    return _verify_first_frame(run, shard, row, values)


def _verify_first_frame(run: Run, shard: int, row: int, values: dict[str, Any]) -> Finding | None:
    frame = values["first_frame"]
    if frame is None:
        return None
    data, path = run.store.read_if_any(frame["file"]), frame["file"]
    if data is None:
        return Finding(Damage.MISSING, shard, path, "the first frame is not in the store", row)
    digest = hashlib.sha256(data).hexdigest()
    if digest == frame["sha256"]:
        return None
    text = f"sha256 {digest[:12]}, but the metadata has {frame['sha256'][:12]}"
    return Finding(Damage.CHANGED, shard, path, text, row)


def _damage(data: bytes, values: dict[str, Any], form: FileFormat) -> tuple[Damage | None, str]:
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != values["num_bytes"] or digest != values["sha256"]:
        found = f"{len(data):,} bytes with sha256 {digest[:12]}"
        recorded = f"{values['num_bytes']:,} bytes with sha256 {values['sha256'][:12]}"
        return Damage.CHANGED, f"{found}, but the metadata has {recorded}"
    planned_shape = (form.images.format, values["width"], values["height"])
    try:
        with opened(data) as image:
            shape = (image.format or "").lower(), *image.size
            num_frames = getattr(image, "n_frames", 1)
        if shape != planned_shape:
            return Damage.UNREADABLE, f"{_shape(shape)}, but the plan has {_shape(planned_shape)}"
        if (wrong := wrong_frames(data, num_frames, values, form.images)) is not None:
            return Damage.UNREADABLE, wrong
        if values["num_frames"] is None:
            decoded(data)
    except ValueError as error:
        return Damage.UNREADABLE, str(error)
    facts = ImageFacts.from_dict(values)
    if (wrong := form.wrong_facts(data, facts)) is not None:
        return Damage.FACTS, wrong
    if (wrong := form.wrong_credential(data, facts)) is not None:
        return Damage.CREDENTIAL, wrong
    return None, ""


def _sample_draw(image_id: str, seed: int) -> float:
    """A number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:8]) / 2**64


def _shape(shape: Sequence[Any]) -> str:
    return f"{shape[0]} {shape[1]} x {shape[2]}"

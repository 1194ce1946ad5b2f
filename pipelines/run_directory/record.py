"""`run.json`: what a run directory says of itself, written once when the run begins.

Owns what is compared when a run is resumed. Knows nothing of how the run is carried out.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from nightpress.diffusion_core.models.loading import ModelInfo, resolve_dtype
from nightpress.pipelines.errors import Change, ChangedRunError, RunNotFound
from nightpress.pipelines.job.spec import RunSpec, canonical_json
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.planning.batch_sizes import BatchSizes, MeasuredKind
from nightpress.pipelines.storage import Store

RUN_FILE = "run.json"

PIXEL_PACKAGES = ("diffusers", "numpy", "pillow", "torch", "transformers")
"""Another version of these may change a last bit of a pixel, or of an image file."""

RECORDED_PACKAGES = ("nightpress", "ray", "pyarrow", *PIXEL_PACKAGES)


@dataclass(frozen=True)
class RunRecord:
    """Everything a machine needs to go on with a run that another machine began."""

    spec: RunSpec
    model: ModelInfo
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    threads: int
    """Of the model on a CPU, where their number decides the last bits; 0 on an accelerator."""
    batch_size: int
    """The largest of any kind of image."""
    layout: PlanLayout
    created_at: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    measured: tuple[MeasuredKind, ...] = ()
    """Where the batch size was measured."""

    @property
    def batch_sizes(self) -> BatchSizes:
        """How many images of each kind are sampled at once."""
        return BatchSizes(self.batch_size, self.measured)

    @property
    def fingerprint(self) -> str:
        """sha256 over what decides names and pixels: the same text, the same image set."""
        identity = {
            "job": self.spec.identity(),
            "model": self.model.fingerprint,
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "manifest": [file.sha256 for file in self.layout.files],
        }
        if self.model.row_loras:
            identity["row_loras"] = {each.name: each.sha256 for each in self.model.row_loras}
        if self.measured:
            identity["batch_sizes"] = {
                each.kind.name: each.best.batch_size for each in self.measured
            }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def to_json(self) -> bytes:
        """As written to `run.json`."""
        values = {
            "nightpress": self.versions["nightpress"],
            "created_at": self.created_at,
            "fingerprint": self.fingerprint,
            "spec": self.spec.as_dict(),
            "model": self.model.as_dict(),
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "measured": [each.as_dict() for each in self.measured],
            "plan": self.layout.as_dict(),
            "versions": self.versions,
        }
        return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The inverse of `to_json`.

        Raises:
            RunNotFound: it is not the record of a run that this version can read.
        """
        try:
            return cls._from_values(json.loads(data))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunNotFound(f"{RUN_FILE} is no run of this version ({reason})") from error

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Self:
        return cls(
            spec=RunSpec.from_dict(values["spec"], where=RUN_FILE),
            model=ModelInfo.from_dict(values["model"]),
            device=values["device"],
            dtype=values["dtype"],
            threads=values["threads"],
            batch_size=values["batch_size"],
            layout=PlanLayout.from_dict(values["plan"]),
            created_at=values["created_at"],
            versions=values["versions"],
            measured=tuple(map(MeasuredKind.from_dict, values.get("measured", []))),
        )

    def changes(self, spec: RunSpec, model: ModelInfo, device: str) -> list[Change]:
        """What a job that wants to go on with this run says differently."""
        found = self.spec.changes(spec)
        found += [
            Change(f"model.{kind}: sha256 of {mine.name}", mine.sha256, other.sha256)
            for kind in ("loras", "row_loras")
            for mine, other in zip(getattr(self.model, kind), getattr(model, kind), strict=False)
            if mine.name == other.name and mine.sha256 != other.sha256
        ]
        if model.fingerprint != self.model.fingerprint:
            found.append(Change("model_fingerprint", self.model.fingerprint, model.fingerprint))
        if device != self.device:
            found.append(Change("device", self.device, device))
        elif threads_for(spec, device) != self.threads:
            found.append(
                Change("cluster.cpus_per_actor", self.threads, spec.cluster.cpus_per_actor)
            )
        return found

    def package_differences(self) -> list[str]:
        """How this process differs from the one that began the run, in words."""
        now = package_versions()
        return [
            f"{name} is {now[name]} and was {self.versions[name]} when the run began; "
            "the last bits of a pixel may differ"
            for name in PIXEL_PACKAGES
            if now[name] != self.versions.get(name)
        ]


def new_record(
    spec: RunSpec,
    model: ModelInfo,
    device: str,
    batch_sizes: BatchSizes | int,
    layout: PlanLayout,
) -> RunRecord:
    """The record of a run that begins now."""
    sizes = BatchSizes(batch_sizes) if isinstance(batch_sizes, int) else batch_sizes
    return RunRecord(
        spec=spec,
        model=model,
        device=device,
        dtype=resolve_dtype(spec.model.dtype, device),
        threads=threads_for(spec, device),
        batch_size=sizes.largest,
        layout=layout,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
        measured=sizes.measured,
    )


def threads_for(spec: RunSpec, device: str) -> int:
    """The model's threads on a CPU; 0 on an accelerator, whose pixels do not depend on them."""
    return spec.cluster.cpus_per_actor if device == "cpu" else 0


def read_record(store: Store) -> RunRecord | None:
    """The record of the run in this store; None where no run has begun."""
    data = store.read_if_any(RUN_FILE)
    return None if data is None else RunRecord.from_json(data)


def require_record(store: Store) -> RunRecord:
    """The record of the run in this store.

    Raises:
        RunNotFound: there is none.
    """
    record = read_record(store)
    if record is None:
        raise RunNotFound(f"{store.url}: no run here ({RUN_FILE} is missing)")
    return record


def claim(store: Store, record: RunRecord) -> RunRecord:
    """Write `run.json`; of several that begin at once, all get the first one's record.

    Raises:
        ChangedRunError: the first one's job was another.
    """
    if store.create(RUN_FILE, record.to_json()):
        return record
    winner = require_record(store)
    refuse_changes(store, winner.changes(record.spec, record.model, record.device))
    return winner


def refuse_changes(store: Store, changes: Sequence[Change]) -> None:
    """Raise ChangedRunError when there are any."""
    if changes:
        raise ChangedRunError(store.url, changes)


def package_versions() -> dict[str, str]:
    """The versions that a run is made with, by package name."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the package travelled with the job and is not installed
            found[package] = "source"
    return found

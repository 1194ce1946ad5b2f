"""What a run records about each of several models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.precision import usual_dtype
from nightpress.diffusion_core.models.prompts import PromptLimits
from nightpress.pipelines.errors import Change
from nightpress.pipelines.manifest.job_models import JobModel, ModelInfos
from nightpress.pipelines.planning.batch_sizes import BatchSizes, MeasuredKind

ADAPTERS = ("row_loras", "controlnets", "references", "embeddings")
"""What rows may add to a model; their files are not covered by its fingerprint."""


@dataclass(frozen=True)
class RunModel:
    """One of several models of a run."""

    name: str
    """What rows call it."""
    info: ModelInfo
    dtype: str
    batch_size: int
    """The largest batch size of any kind of its images."""
    measured: tuple[MeasuredKind, ...] = ()
    """The kinds of its images whose batch size was measured."""

    @property
    def batch_sizes(self) -> BatchSizes:
        """The batch size of each kind of its images."""
        return BatchSizes(self.batch_size, self.measured)

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides pixels, as JSON values."""
        values: dict[str, Any] = {
            "model": self.info.fingerprint,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
        }
        values |= adapters_of(self.info)
        return values | sizes_of(self.measured)

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return {
            "name": self.name,
            "model": self.info.as_dict(),
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "measured": [each.as_dict() for each in self.measured],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(
            values["name"],
            ModelInfo.from_dict(values["model"]),
            values["dtype"],
            values["batch_size"],
            tuple(map(MeasuredKind.from_dict, values["measured"])),
        )


def adapters_of(info: ModelInfo) -> dict[str, dict[str, str]]:
    """Name -> SHA-256 of what rows may add to a model, by kind; without kinds that it has not."""
    return {
        kind: {each.name: each.sha256 for each in infos}
        for kind in ADAPTERS
        if (infos := getattr(info, kind))
    }


def sizes_of(measured: tuple[MeasuredKind, ...]) -> dict[str, dict[str, int]]:
    """The batch size of each kind that was measured, if any was."""
    sizes = {each.kind.name: each.best.batch_size for each in measured}
    return {"batch_sizes": sizes} if sizes else {}


AnyBatchSizes = BatchSizes | int | Mapping[str, BatchSizes]
"""The batch sizes of a run; those of several models by their names, if they may differ."""


def sizes_for(name: str | None, sizes: AnyBatchSizes) -> BatchSizes:
    """The batch sizes of one model."""
    if isinstance(sizes, Mapping):
        return sizes[name or ""]
    return BatchSizes(sizes) if isinstance(sizes, int) else sizes


def run_model(model: JobModel, device: str, sizes: BatchSizes) -> RunModel:
    """What is recorded about a model of a run that begins now."""
    info = replace(model.info, prompts=PromptLimits())
    dtype = info.dtype or usual_dtype(model.spec.model.dtype, device)
    return RunModel(model.name or "", info, dtype, sizes.largest, sizes.measured)


def changed_models(before: ModelInfos, now: ModelInfos) -> Iterator[Change]:
    """What has changed in the files of a run's models; keys of the job are compared elsewhere."""
    if isinstance(before, ModelInfo) and isinstance(now, ModelInfo):
        yield from _changed_model("", before, now)
    elif not isinstance(before, ModelInfo) and not isinstance(now, ModelInfo):
        for name in before:
            if name in now:
                yield from _changed_model(f"models.{name}: ", before[name], now[name])


def _changed_model(where: str, before: ModelInfo, now: ModelInfo) -> Iterator[Change]:
    key = "" if where else "model."
    for kind in ("loras", *ADAPTERS):
        for mine, other in zip(getattr(before, kind), getattr(now, kind), strict=False):
            if mine.name == other.name and mine.sha256 != other.sha256:
                name = f"{where}{key}{kind}: sha256 of {mine.name}"
                yield Change(name, mine.sha256, other.sha256)
    if now.fingerprint != before.fingerprint:
        yield Change(f"{where}model_fingerprint", before.fingerprint, now.fingerprint)

"""`run.json`: the record of a run, written once when the run begins; editions add to it.

It holds all that a machine needs to resume the run, and what a job must match to do so.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from nightpress.diffusion_core.acceleration.numerics import switch_differences, switches_of
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import Change, ChangedRunError, RunNotFound, UnsupportedFormat
from nightpress.pipelines.job.spec import RunSpec, canonical_json
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.job_models import ModelInfos, job_models
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.planning.batch_sizes import BatchSizes, MeasuredKind
from nightpress.pipelines.run_directory.auto_speed import (
    AutoSpeed,
    decided_spec,
    resumed_spec,
    undecided_spec,
)
from nightpress.pipelines.run_directory.editions import Edition, read_editions
from nightpress.pipelines.run_directory.json_files import checked_time, json_file, what_is_wrong
from nightpress.pipelines.run_directory.run_models import (
    AnyBatchSizes,
    RunModel,
    adapters_of,
    changed_models,
    run_model,
    sizes_for,
    sizes_of,
)
from nightpress.pipelines.run_directory.versions import version_differences, versions_for
from nightpress.pipelines.storage import Store

if TYPE_CHECKING:  # it imports what encodes and signs images, and few readers of a record do
    from nightpress.pipelines.image_files.file_format import FileFormat

RUN_FILE = "run.json"

FORMAT_VERSION = 2
"""Format of the run directory. It changes when older versions could not read or resume a run.
A run with one model is written in format 1, which they read."""


@dataclass(frozen=True)
class RunRecord:
    """Everything a machine needs to resume a run that another machine began."""

    spec: RunSpec
    """The job, with the ways to sample faster that `model.speed: auto` has come to."""
    model: ModelInfo
    """The only model; if there are several, the first: see `of_model`."""
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    threads: int
    """Threads of the model on a CPU, where their number affects the last bits; else 0."""
    batch_size: int
    """The largest batch size of any kind of image."""
    layout: PlanLayout
    created_at: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    measured: tuple[MeasuredKind, ...] = ()
    """The kinds of images whose batch size was measured."""
    scorers: Mapping[str, str] = field(default_factory=dict)
    """Name in the job's `scores` -> fingerprint of the scorer."""
    editions: tuple[Edition, ...] = ()
    """What was added each time that the manifest grew; the layout has their parts too."""
    models: tuple[RunModel, ...] = ()
    """The models, if there are several."""
    model_name: str | None = None
    """The name of the model, in the record of one of several; see `of_model`."""
    numerics: Mapping[str, bool] = field(default_factory=dict)
    """Switches of torch that decide bits on a GPU; see `acceleration.numerics`. Empty on a CPU."""
    auto_speed: tuple[AutoSpeed, ...] = ()
    """What was decided for each model whose job says `speed: auto`."""

    @property
    def infos(self) -> ModelInfos:
        """What is known about the model, or about each of several."""
        return {each.name: each.info for each in self.models} if self.models else self.model

    def of_model(self, name: str | None) -> Self:
        """The record as if one of its models were its only one, for what samples with that model.

        Raises:
            LookupError: the run has no model of this name.
        """
        if not self.models and name == self.model_name:
            return self
        spec = self.spec.for_model(name)
        chosen = next(each for each in self.models if each.name == name)
        return replace(
            self,
            spec=spec,
            model=chosen.info,
            dtype=chosen.dtype,
            batch_size=chosen.batch_size,
            measured=chosen.measured,
            models=(),
            model_name=name,
        )

    def of_shard(self, shard: int) -> Self:
        """The record as if the model of a shard were the only one."""
        return self.of_model(self.layout.model_of(shard)) if self.models else self

    @property
    def each_model(self) -> tuple[Self, ...]:
        """The record for each of its models; see `of_model`."""
        return tuple(self.of_model(each.name) for each in self.models) or (self,)

    @property
    def manifest(self) -> tuple[ManifestFile, ...]:
        """The files of the manifest that the run was started with, or extended with last."""
        return self.editions[-1].manifest if self.editions else self.layout.sections[0].files

    @property
    def num_gone(self) -> int:
        """Images of the run that its manifest does not plan any more, or plans differently."""
        growths = [edition for edition in self.editions if edition.again is None]
        if not growths:
            return 0
        again = [edition.layout for edition in self.editions if edition.again is not None]
        num_again = sum(layout.num_images for layout in again if layout is not None)
        return self.layout.num_images - num_again - growths[-1].summary.num_planned

    def extended(self, edition: Edition) -> Self:
        """The record of the run with one more edition."""
        layout = self.layout if edition.layout is None else self.layout.extended(edition.layout)
        return replace(self, layout=layout, editions=(*self.editions, edition))

    @property
    def batch_sizes(self) -> BatchSizes:
        """The batch size of each kind of image."""
        return BatchSizes(self.batch_size, self.measured)

    @property
    def file_format(self) -> "FileFormat":
        """How its image files are written."""
        from nightpress.pipelines.image_files.file_format import FileFormat

        return FileFormat(self.spec.images, self.spec.provenance, self.created_at)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides names and pixels: equal fingerprints, equal image sets."""
        fingerprint = self.fingerprint_at_first
        for edition in self.editions:
            chained = f"{fingerprint} {edition.fingerprint}"
            fingerprint = hashlib.sha256(chained.encode()).hexdigest()
        return fingerprint

    @property
    def fingerprint_at_first(self) -> str:
        """The fingerprint of the run without its editions, as it is in `run.json`."""
        identity: dict[str, Any] = {
            "job": self.spec.identity(),
            "device": self.device,
            "threads": self.threads,
            "manifest": [file.identity for file in self.layout.sections[0].files],
        }
        if self.models:
            identity["models"] = {each.name: each.identity for each in self.models}
        else:
            identity |= {
                "model": self.model.fingerprint,
                "dtype": self.dtype,
                "batch_size": self.batch_size,
            }
            identity |= adapters_of(self.model)
            identity |= sizes_of(self.measured)
        if self.scorers:
            identity["scorers"] = dict(self.scorers)
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def to_json(self) -> bytes:
        """As written to `run.json`; `columns` says what each column is read as, for people."""
        from nightpress.pipelines.manifest.columns import column_uses  # only writing needs it

        layout = self.layout.sections[0]
        values = {
            "format_version": FORMAT_VERSION if self.models else 1,
            "nightpress": self.versions["nightpress"],
            "created_at": self.created_at,
            "fingerprint": self.fingerprint_at_first,
            "spec": self.spec.as_dict(),
            "model": self.model.as_dict(),
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "scorers": dict(self.scorers),
            "measured": [each.as_dict() for each in self.measured],
            "columns": [asdict(use) for use in column_uses(self.spec, layout.files)],
            "plan": layout.as_dict(),
            "versions": self.versions,
        }
        if self.auto_speed:
            values["auto_speed"] = [each.as_dict() for each in self.auto_speed]
        if self.models:
            values["models"] = [each.as_dict() for each in self.models]
        if self.numerics:
            values["numerics"] = dict(self.numerics)
        return json_file(values)

    @classmethod
    def from_json(cls, data: bytes, url: str) -> Self:
        """The inverse of `to_json`.

        Args:
            data: the content of `run.json`.
            url: URL of the run, for error messages.

        Raises:
            UnsupportedFormat: the run was written in a newer format.
            RunNotFound: this is not the record of a run.
        """
        try:
            values = json.loads(data)
            _require_supported(values["format_version"], url)
            return cls._from_values(values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wrong = what_is_wrong(error)
            raise RunNotFound(f"{url}/{RUN_FILE}: not the record of a run: {wrong}") from error

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Self:
        return cls(
            spec=RunSpec.from_record(values["spec"], where=RUN_FILE),
            model=ModelInfo.from_dict(values["model"]),
            device=values["device"],
            dtype=values["dtype"],
            threads=values["threads"],
            batch_size=values["batch_size"],
            layout=PlanLayout.from_dict(values["plan"]),
            created_at=checked_time(values["created_at"]),
            versions=values["versions"],
            scorers=dict(values.get("scorers", {})),  # older versions had none
            measured=tuple(map(MeasuredKind.from_dict, values["measured"])),
            models=tuple(map(RunModel.from_dict, values.get("models", ()))),
            numerics=dict(values.get("numerics", {})),
            auto_speed=tuple(map(AutoSpeed.from_dict, values.get("auto_speed", ()))),
        )

    def resumed_by(self, spec: RunSpec) -> RunSpec:
        """A job that is to resume the run, with the run's ways in place of `speed: auto`."""
        return resumed_spec(spec, self.spec, self.auto_speed)

    def changes(
        self,
        spec: RunSpec,
        infos: ModelInfos,
        device: str,
        scorers: Mapping[str, str] | None = None,
    ) -> list[Change]:
        """What differs from the record in a job that is to resume the run.

        Args:
            infos: of the job's model, or of each of several.
            scorers: name -> fingerprint of the job's scorers, if they are known.
        """
        changes = self.spec.changes(self.resumed_by(spec))
        changes += [
            Change(f"scores.{name}: fingerprint", self.scorers[name], fingerprint)
            for name, fingerprint in (scorers or {}).items()
            if self.scorers.get(name, fingerprint) != fingerprint
        ]
        changes += changed_models(self.infos, infos)
        if device != self.device:
            changes.append(Change("device", self.device, device))
        elif threads_for(spec, device) != self.threads:
            changes.append(
                Change("cluster.cpus_per_actor", self.threads, spec.cluster.cpus_per_actor)
            )
        return changes

    def package_differences(self) -> list[str]:
        """Warnings about packages and switches of torch that have changed since the run began."""
        models = [each.model for each in self.each_model]
        return [
            *version_differences(self.versions, versions_for(self.spec, models)),
            *switch_differences(self.device, self.numerics),
        ]


def new_record(
    spec: RunSpec,
    infos: ModelInfos,
    device: str,
    batch_sizes: AnyBatchSizes,
    layout: PlanLayout,
    scorers: Mapping[str, str] | None = None,
    auto_speed: Sequence[AutoSpeed] = (),
) -> RunRecord:
    """Make the record of a run that begins now.

    Args:
        infos: of the job's model, or of each of several.
        scorers: name -> fingerprint of the job's scorers.
        auto_speed: what was decided for the models whose job says `speed: auto`.
    """
    models = [
        run_model(model, device, sizes_for(model.name, batch_sizes))
        for model in job_models(spec, infos)
    ]
    return RunRecord(
        spec=decided_spec(spec, auto_speed),
        model=models[0].info,
        device=device,
        dtype=models[0].dtype,
        threads=threads_for(spec, device),
        batch_size=models[0].batch_size,
        layout=layout,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions_for(spec, [each.info for each in models]),
        measured=models[0].measured,
        scorers=dict(scorers or {}),
        models=tuple(models) if spec.models else (),
        numerics=switches_of(device),
        auto_speed=tuple(auto_speed),
    )


def threads_for(spec: RunSpec, device: str) -> int:
    """The model's threads on a CPU; 0 on an accelerator, whose pixels do not depend on them."""
    return spec.cluster.cpus_per_actor if device == "cpu" else 0


def read_record(store: Store) -> RunRecord | None:
    """Read the record of the run in this store; None if no run has begun.

    Raises:
        UnsupportedFormat: the run was written in a newer format.
        RunNotFound: `run.json` is not the record of a run.
        Damaged: an edition cannot be read.
    """
    data = store.read_if_any(RUN_FILE)
    return None if data is None else decode_record(store, data)


def decode_record(store: Store, data: bytes) -> RunRecord:
    """The record of a run whose `run.json` has been read, with its editions; see `read_record`."""
    record = RunRecord.from_json(data, store.url)
    for edition in read_editions(store):
        record = record.extended(edition)
    return record


def require_record(store: Store) -> RunRecord:
    """Read the record of the run in this store.

    Raises:
        UnsupportedFormat: the run was written in a newer format.
        RunNotFound: there is no run.
    """
    record = read_record(store)
    if record is None:
        raise RunNotFound(f"{store.url}: no run here ({RUN_FILE} is missing)")
    return record


def create_record(store: Store, record: RunRecord) -> RunRecord:
    """Write `run.json`. If several processes begin at once, all get the record of the first.

    Raises:
        ChangedRunError: the first process began another job.
    """
    if store.create(RUN_FILE, record.to_json()):
        return record
    winner = require_record(store)
    spec = undecided_spec(record.spec, record.auto_speed)  # the first process has decided
    refuse_changes(store, winner.changes(spec, record.infos, record.device, record.scorers))
    return winner


def refuse_changes(store: Store, changes: Sequence[Change]) -> None:
    """Raise ChangedRunError if there are changes."""
    if changes:
        raise ChangedRunError(store.url, changes)


def _require_supported(format_version: int, url: str) -> None:
    """Refuse a run in a newer format than this version reads."""
    if format_version > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{url}: this run was written in format {format_version}; this nightpress reads up to "
            f"format {FORMAT_VERSION}. Upgrade nightpress."
        )

"""Tuning: a job's images sampled in every way that may be faster, beside the plain way.

Runs in this process, without Ray: what is measured is one model on one device. Which ways are tried
and which is taken, `diffusion_core.tuning.search` says; this joins it to a job. Writes nothing.
"""

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.compute as pc
import torch

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import (
    DeviceError,
    ModelError,
    OutOfMemory,
    SamplingError,
    SettingsError,
    as_model_error,
)
from nightpress.diffusion_core.models.loading import (
    DType,
    ModelInfo,
    ModelSpec,
    describe,
    load,
    resolve_dtype,
)
from nightpress.diffusion_core.sampling.sampler import Pixels
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.diffusion_core.tuning.benchmark import Candidate, Made, Work, compared, in_turn
from nightpress.diffusion_core.tuning.candidates import TuningConfig, candidates, refusal
from nightpress.diffusion_core.tuning.device_memory import (
    HEAD_ROOM,
    available_bytes,
    resident_bytes,
)
from nightpress.diffusion_core.tuning.search import Trial, fastest, ways_to_try
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.loras import locate_loras
from nightpress.pipelines.planning import check, plan_part
from nightpress.pipelines.run_directory.record import threads_for
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.storage import find

MOST_PAIRS = 4
"""Pictures of a way that are kept to be shown: those that are least alike."""


@dataclass(frozen=True)
class TuneOptions:
    """What a person may decide about it."""

    tolerance_db: float
    """The lowest PSNR that a picture may have; infinite where none may differ."""
    num_images: int
    """At least; batches are filled."""
    reference_dtype: DType
    device: str | None
    """`cpu` or `cuda`; None for what the job would use here."""
    compiles: bool
    """Whether ways that compile are tried."""


@dataclass(frozen=True)
class Subject:
    """What is sampled in every way."""

    spec: RunSpec
    info: ModelInfo
    folder: Path
    lora_files: tuple[Path, ...]
    device: str
    reference: ModelSpec
    """The job's model with nothing chosen for its speed."""
    work: Work

    @property
    def own_way(self) -> TuningConfig:
        """What the job has chosen so far."""
        dtype = cast("DType", resolve_dtype(self.spec.model.dtype, self.device))
        return TuningConfig(None if dtype == self.reference.dtype else dtype, self.spec.model.speed)


@dataclass(frozen=True)
class Begun:
    """The reference is about to be sampled."""

    subject: Subject
    num_ways: int


@dataclass(frozen=True)
class Trying:
    """A way is about to be tried."""

    way: TuningConfig


@dataclass(frozen=True)
class Tried:
    """A way was tried; the first one is the reference."""

    trial: Trial


@dataclass(frozen=True)
class Refused:
    """A way that cannot be had, and why."""

    way: TuningConfig
    reason: str


TuneEvent = Begun | Trying | Tried | Refused


@dataclass(frozen=True)
class Pair:
    """A picture made in some way; the reference has its counterpart at the same place."""

    place: int
    """Among the images."""
    psnr_db: float
    pixels: Pixels
    """(H, W, 3)."""


@dataclass(frozen=True)
class Tuning:
    """What came of it."""

    subject: Subject
    options: TuneOptions
    reference: Trial
    trials: tuple[Trial, ...]
    """Of ways by themselves and then of combinations, as they were tried."""
    refused: tuple[Refused, ...]
    best: Trial | None
    """The one to take; None where nothing within the tolerance is faster than the reference."""
    pictures: Pixels
    """Of the reference, (n, H, W, 3)."""
    pairs: Mapping[TuningConfig, tuple[Pair, ...]]
    """Of each way, the least alike first; none where no pixel differs."""

    def changes(self, model: ModelSpec) -> dict[str, Any]:
        """The values that a job's `model` has to be given; empty where it has the best way."""
        if self.best is None:
            return {}
        way, values = self.best.way, dict[str, Any]()
        dtype = way.dtype or self.subject.reference.dtype
        if resolve_dtype(model.dtype, self.subject.device) != dtype:
            values["dtype"] = way.dtype or self.options.reference_dtype
        if model.speed != way.speed:
            values["speed"] = way.values.get("speed", {})
        return values


def tune(
    spec: RunSpec, options: TuneOptions, on_event: Callable[[TuneEvent], None] = lambda event: None
) -> Tuning:
    """Sample a job's images in every way that may be faster, and find the fastest to take.

    Raises:
        SpecError, ManifestError, StoreError: the job or its manifest cannot be read.
        ModelError, SettingsError: the model cannot be had, or the device.
        SamplingError: the reference cannot be sampled.
    """
    subject = subject_of(spec, options)
    with errors_only():
        return _Tuner(subject, options, on_event).run()


def subject_of(spec: RunSpec, options: TuneOptions) -> Subject:
    """The model and the images that a job is tuned on; nothing is loaded."""
    find(spec.manifests, spec.storage)
    device = options.device or _usual_device(spec)
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: torch finds no such device on this machine")
    dtype = resolve_dtype(options.reference_dtype, device)
    reference = spec.model.model_copy(update={"dtype": dtype, "speed": SpeedSpec()})
    folder, lora_files = locate(reference, spec.storage), locate_loras(reference, spec.storage)
    info = describe(folder, reference, lora_files)
    batch_size = resolve_batch_size(spec, device)
    images = images_alike(spec, info, batch_size, options.num_images)
    work = Work.of([image.request for image in images], images[0].params, batch_size)
    return Subject(spec, info, folder, lora_files, device, reference, work)


def _usual_device(spec: RunSpec) -> str:
    wanted = spec.cluster.gpus_per_actor != 0
    return "cuda" if wanted and torch.cuda.is_available() else "cpu"


def images_alike(
    spec: RunSpec, info: ModelInfo, batch_size: int, num_images: int
) -> list[PlannedImage]:
    """The first images with a job's most frequent settings: whole batches, if it has so many."""
    layout = check(spec, info, batch_size)
    settings = asdict(layout.batches[0].settings)
    wanted = math.ceil(num_images / batch_size) * batch_size
    images: list[PlannedImage] = []
    for index in range(len(layout.parts)):
        part = plan_part(spec, info, layout, index)
        for name, value in settings.items():
            column = part.column(name)
            part = part.filter(column.is_null() if value is None else pc.equal(column, value))
        images += planned_images(part.slice(0, wanted - len(images)))
        if len(images) == wanted:
            break
    return images


class _Rig:
    """The reference, and a place for one other model beside it.

    On a CPU, which others may share, both sample in turn. An accelerator is nobody else's, and its
    memory may not hold two models: there the reference is timed once, and let go. So it is on a CPU
    whose memory would not hold another one.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        threads = threads_for(subject.spec, subject.device)
        if threads:
            torch.set_num_threads(threads)
        plain = self._entrant(subject.reference)
        (self.reference,) = in_turn(subject.work, [plain])
        in_turns = subject.device == "cpu" and has_room_for_another()
        self._beside = plain if in_turns else None

    def made(self, model: ModelSpec) -> tuple[Made, Made]:
        """What is made with a model, and what the reference makes beside it.

        Raises:
            ModelError, SettingsError, SamplingError: the model cannot be loaded, or sampled.
        """
        self._release()
        try:
            entrant = self._entrant(model)
            if self._beside is None:
                return in_turn(self._subject.work, [entrant])[0], self.reference
            reference, made = in_turn(self._subject.work, [self._beside, entrant])
            return made, reference
        finally:
            if model.speed.compile is not None:
                torch.compiler.reset()  # or the graphs of all models would be held

    def _entrant(self, spec: ModelSpec) -> Candidate:
        subject = self._subject
        with as_model_error("it does not load"):
            model = load(subject.folder, spec, subject.device, subject.lora_files)
        return Candidate(model, subject.work)

    def _release(self) -> None:
        """The model before is held by cycles, and its memory by torch."""
        gc.collect()
        if self._subject.device != "cpu":
            torch.cuda.empty_cache()


def has_room_for_another() -> bool:
    """Whether all that this process holds would fit into the memory once more."""
    return resident_bytes() <= (1 - HEAD_ROOM) * available_bytes()


class _Tuner:
    """One tuning, from the reference to the last combination."""

    def __init__(
        self, subject: Subject, options: TuneOptions, on_event: Callable[[TuneEvent], None]
    ) -> None:
        self._subject, self._options, self._on_event = subject, options, on_event
        self._tried: dict[TuningConfig, Trial | None] = {}
        self._refused: list[Refused] = []
        self._pairs: dict[TuningConfig, tuple[Pair, ...]] = {}

    def run(self) -> Tuning:
        """The whole of it."""
        ways = self._ways()
        self._on_event(Begun(self._subject, len(ways)))
        rig = _Rig(self._subject)
        reference = self._compared(TuningConfig(), rig.reference, rig.reference)
        tolerance_db = self._options.tolerance_db
        for way in ways_to_try(ways, self._tried, tolerance_db):
            self._on_event(Trying(way))
            self._tried[way] = self._try(rig, way)
        return Tuning(
            subject=self._subject,
            options=self._options,
            reference=reference,
            trials=tuple(trial for trial in self._tried.values() if trial is not None),
            refused=tuple(self._refused),
            best=fastest(self._tried, tolerance_db),
            pictures=rig.reference.pixels,
            pairs=self._pairs,
        )

    def _ways(self) -> list[TuningConfig]:
        """The job's own way first, unless it has chosen nothing."""
        subject, dtype = self._subject, self._subject.reference.dtype
        own = [subject.own_way] if subject.own_way.fields else []
        others = candidates(subject.device, dtype, subject.work.batch_size, self._options.compiles)
        return list(dict.fromkeys([*own, *others]))

    def _try(self, rig: _Rig, way: TuningConfig) -> Trial | None:
        try:
            return self._compared(way, *rig.made(self._model(way)))
        except DeviceError as error:
            if not isinstance(error, OutOfMemory):
                raise
            self._refuse(way, f"it does not fit into the memory: {error}")
        except (SpecError, ModelError, SettingsError, SamplingError) as error:
            self._refuse(way, str(error))
        return None

    def _refuse(self, way: TuningConfig, error: str) -> None:
        reason = error.splitlines()[0].removeprefix("job: ")
        self._refused.append(Refused(way, reason))
        self._on_event(self._refused[-1])

    def _model(self, way: TuningConfig) -> ModelSpec:
        """The model of the job in this way.

        Raises:
            SpecError: the job's LoRAs or its batches do not go with it.
            ModelError: the model or this machine cannot do it.
        """
        subject = self._subject
        model = way.onto(subject.reference.model_dump(mode="json"))
        spec = RunSpec.from_dict(subject.spec.as_dict() | {"model": model}).model
        reason = refusal(subject.folder, spec, subject.device)
        if reason is not None:
            raise ModelError(reason)
        return spec

    def _compared(self, way: TuningConfig, made: Made, reference: Made) -> Trial:
        """Against what the reference made beside it.

        Raises:
            SamplingError: that is no picture at all.
        """
        if all(reference.faults):
            raise SamplingError(f"no picture of the reference is sound: {reference.faults[0]}")
        trial = compared(self._subject.work, way, made, reference)
        self._pairs[way] = _least_alike(trial, made, reference)
        self._on_event(Tried(trial))
        return trial


def _least_alike(trial: Trial, made: Made, reference: Made) -> tuple[Pair, ...]:
    sound = [place for place, fault in enumerate(reference.faults) if fault is None]
    worst = sorted(zip(trial.psnr_db, sound, strict=True))[:MOST_PAIRS]
    return tuple(
        Pair(place, psnr_db, made.pixels[place].copy())
        for psnr_db, place in worst
        if not math.isinf(psnr_db)
    )

"""Tune a job: sample its images with every speed configuration and compare it with the reference.

Runs in this process, without Ray: it measures one model on one device. `diffusion_core.tuning`
decides which configurations to try and which one to use; this module applies that to a job. Writes
nothing.
"""

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.errors import (
    DeviceError,
    ModelError,
    OutOfMemory,
    SamplingError,
    SettingsError,
    as_model_error,
)
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.spec import DType, ModelSpec
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.diffusion_core.tuning.benchmark import (
    Candidate,
    CandidateResult,
    Workload,
    compare,
    sample_in_turn,
)
from nightpress.diffusion_core.tuning.candidates import (
    TuningConfig,
    candidates,
    unsupported_reason,
)
from nightpress.diffusion_core.tuning.device_memory import (
    HEADROOM,
    available_bytes,
    resident_bytes,
)
from nightpress.diffusion_core.tuning.search import ConfigTrial, configs_to_try, fastest
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.tuning.images import images_to_sample
from nightpress.jobs.tuning.options import DEFAULTS, TuneOptions
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import manifest_sources
from nightpress.pipelines.run_directory.record import threads_for
from nightpress.pipelines.storage import require_answers

MAX_PAIRS = 4
"""Images of each configuration that are kept for display: those that differ most."""


@dataclass(frozen=True)
class TuningSetup:
    """What every configuration is measured on: a job's model, device and images."""

    spec: RunSpec
    info: ModelInfo
    files: ModelFiles
    device: str
    reference: ModelSpec
    """The job's model without any speed settings."""
    workload: Workload

    @property
    def job_config(self) -> TuningConfig:
        """The speed settings that the job has now."""
        dtype = cast("DType", self.files.dtype(self.spec.model, self.device))
        return TuningConfig(None if dtype == self.reference.dtype else dtype, self.spec.model.ways)


@dataclass(frozen=True)
class TuningStarted:
    """The reference is about to be sampled."""

    setup: TuningSetup
    num_configs: int


@dataclass(frozen=True)
class ConfigStarted:
    """A configuration is about to be tried."""

    config: TuningConfig


@dataclass(frozen=True)
class ConfigMeasured:
    """A configuration was measured; the first one is the reference."""

    trial: ConfigTrial


@dataclass(frozen=True)
class ConfigRefused:
    """A configuration that cannot be used, and why."""

    config: TuningConfig
    reason: str


TuneEvent = TuningStarted | ConfigStarted | ConfigMeasured | ConfigRefused


@dataclass(frozen=True)
class ImagePair:
    """An image of one configuration; its counterpart is the reference image at the same index."""

    index: int
    """Position among the images of the workload."""
    psnr_db: float
    pixels: Pixels
    """(H, W, 3)."""


@dataclass(frozen=True)
class Tuning:
    """The result of tuning a job."""

    setup: TuningSetup
    options: TuneOptions
    reference: ConfigTrial
    trials: tuple[ConfigTrial, ...]
    """Single configurations, then combinations, in the order in which they were tried."""
    refused: tuple[ConfigRefused, ...]
    best: ConfigTrial | None
    """The one to use; None if nothing within the tolerance is faster than the reference."""
    reference_pixels: Pixels
    """Images of the reference, (n, H, W, 3)."""
    pairs: Mapping[TuningConfig, tuple[ImagePair, ...]]
    """Images of each configuration, largest difference first; empty if no pixel differs."""

    def changes(self, model: ModelSpec) -> dict[str, Any]:
        """The values to set in a job's `model`; empty if it already uses the best configuration."""
        if self.best is None:
            return {}
        config, values = self.best.config, dict[str, Any]()
        dtype = config.dtype or self.setup.reference.dtype
        if self.setup.files.dtype(model, self.setup.device) != dtype:
            values["dtype"] = config.dtype or self.options.reference_dtype
        if model.ways != config.speed:
            values["speed"] = config.values.get("speed", {})
        return values


def tune(
    spec: RunSpec,
    options: TuneOptions = DEFAULTS,
    on_event: Callable[[TuneEvent], None] = lambda event: None,
) -> Tuning:
    """Find the fastest configuration whose images stay close enough to the reference's.

    Args:
        spec: the job; its first images with its most frequent settings are sampled.
        options: tolerance, number of images, reference precision, device.
        on_event: called before and after each configuration.

    Raises:
        SpecError, ManifestError, StoreError: the job or its manifest cannot be read.
        ModelError, SettingsError: the model or the device is not available.
        SamplingError: the reference cannot be sampled.
    """
    setup = prepare(spec, options)
    with errors_only():
        return _Tuner(setup, options, on_event).run()


def prepare(spec: RunSpec, options: TuneOptions) -> TuningSetup:
    """Find the model and the images to tune a job on; loads no weights.

    Raises:
        SpecError: the job has several models.
    """
    if spec.models:
        names = ", ".join(model.name for model in spec.models)
        raise SpecError(
            f"models: tune measures one model, and this job has {names}; tune each in a job file "
            "with `model`, and copy its dtype and speed"
        )
    require_answers(spec.sources, spec.storage)
    manifest_sources(spec)
    device = options.device or _default_device(spec)
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device 'cuda': torch finds no CUDA device on this machine")
    wanted = {"dtype": options.reference_dtype, "speed": SpeedSpec()}
    plain = spec.model.model_copy(update=wanted)
    files = ModelFiles.locate(plain, spec.storage)
    reference = plain.model_copy(update={"dtype": files.dtype(plain, device)})
    info = files.describe(reference, device=device)
    batch_size = resolve_batch_size(spec, device)
    images = images_to_sample(spec, info, batch_size, options.num_images)
    requests = [image.request() for image in images]
    workload = Workload.of(requests, images[0].params, batch_size)
    return TuningSetup(spec, info, files, device, reference, workload)


def _default_device(spec: RunSpec) -> str:
    wants_gpu = spec.cluster.gpus_per_actor != 0
    return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"


class _Bench:
    """Samples the reference, and one other model at a time beside it.

    On a CPU, which other processes may share, both sample in turn. An accelerator is not shared and
    may not hold two models, so there the reference is timed once and then released. The same holds
    for a CPU whose memory cannot hold a second model.
    """

    def __init__(self, setup: TuningSetup) -> None:
        self._setup = setup
        fix_numerics(threads_for(setup.spec, setup.device))
        reference = self._candidate(setup.reference)
        (self.reference,) = sample_in_turn(setup.workload, [reference])
        keep = setup.device == "cpu" and fits_second_model()
        self._kept_reference = reference if keep else None

    def measure(self, model: ModelSpec) -> tuple[CandidateResult, CandidateResult]:
        """The result of a model, and that of the reference to compare it with.

        Raises:
            ModelError, SettingsError, SamplingError: the model cannot be loaded or sampled.
        """
        self._free_memory()
        try:
            candidate = self._candidate(model)
            if self._kept_reference is None:
                return sample_in_turn(self._setup.workload, [candidate])[0], self.reference
            pair = [self._kept_reference, candidate]
            reference, result = sample_in_turn(self._setup.workload, pair)
            return result, reference
        finally:
            if model.ways.compile is not None:
                torch.compiler.reset()  # otherwise the graphs of all models stay in memory

    def _candidate(self, spec: ModelSpec) -> Candidate:
        setup = self._setup
        with as_model_error("cannot load the model"):
            model = setup.files.load(spec, setup.device)
        return Candidate(model, setup.workload)

    def _free_memory(self) -> None:
        """Free the previous model: reference cycles hold it, and torch caches its memory."""
        gc.collect()
        if self._setup.device != "cpu":
            torch.cuda.empty_cache()


def fits_second_model() -> bool:
    """Whether everything that this process holds would fit into memory a second time."""
    return resident_bytes() <= (1 - HEADROOM) * available_bytes()


class _Tuner:
    """One tuning, from the reference to the last combination."""

    def __init__(
        self, setup: TuningSetup, options: TuneOptions, on_event: Callable[[TuneEvent], None]
    ) -> None:
        self._setup, self._options, self._on_event = setup, options, on_event
        self._trials: dict[TuningConfig, ConfigTrial | None] = {}
        self._refused: list[ConfigRefused] = []
        self._pairs: dict[TuningConfig, tuple[ImagePair, ...]] = {}

    def run(self) -> Tuning:
        """Measure the reference and all configurations, and choose the best."""
        configs = self._configs()
        self._on_event(TuningStarted(self._setup, len(configs)))
        bench = _Bench(self._setup)
        reference = self._compare(TuningConfig(), bench.reference, bench.reference)
        tolerance_db = self._options.tolerance_db
        for config in configs_to_try(configs, self._trials, tolerance_db):
            self._on_event(ConfigStarted(config))
            self._trials[config] = self._try(bench, config)
        return Tuning(
            setup=self._setup,
            options=self._options,
            reference=reference,
            trials=tuple(trial for trial in self._trials.values() if trial is not None),
            refused=tuple(self._refused),
            best=fastest(self._trials, tolerance_db),
            reference_pixels=bench.reference.pixels,
            pairs=self._pairs,
        )

    def _configs(self) -> list[TuningConfig]:
        """The job's own configuration first, unless it is empty; then the candidates."""
        setup, dtype = self._setup, self._setup.reference.dtype
        own = [setup.job_config] if setup.job_config.fields else []
        batch_size, compiles = setup.workload.batch_size, self._options.compiles
        others = candidates(setup.device, dtype, batch_size, compiles)
        return list(dict.fromkeys([*own, *others]))

    def _try(self, bench: _Bench, config: TuningConfig) -> ConfigTrial | None:
        try:
            return self._compare(config, *bench.measure(self._model(config)))
        except DeviceError as error:
            if not isinstance(error, OutOfMemory):
                raise
            self._refuse(config, f"it does not fit into memory: {error}")
        except (SpecError, ModelError, SettingsError, SamplingError) as error:
            self._refuse(config, str(error))
        return None

    def _refuse(self, config: TuningConfig, error: str) -> None:
        reason = error.splitlines()[0].removeprefix("job: ")
        self._refused.append(ConfigRefused(config, reason))
        self._on_event(self._refused[-1])

    def _model(self, config: TuningConfig) -> ModelSpec:
        """The job's model with a configuration.

        Raises:
            SpecError: it conflicts with the job's LoRAs or batches.
            ModelError: the model or this machine does not support it.
        """
        setup = self._setup
        model = config.applied_to(setup.reference.model_dump(mode="json"))
        spec = RunSpec.from_dict(setup.spec.as_dict() | {"model": model}).model
        reason = unsupported_reason(setup.files.folder, spec, setup.device)
        if reason is not None:
            raise ModelError(reason)
        return spec

    def _compare(
        self, config: TuningConfig, result: CandidateResult, reference: CandidateResult
    ) -> ConfigTrial:
        """The trial of a configuration against a reference; keeps the images that differ most.

        Raises:
            SamplingError: every image of the reference is faulty.
        """
        if all(reference.faults):
            raise SamplingError(f"every image of the reference is faulty: {reference.faults[0]}")
        trial = compare(self._setup.workload, config, result, reference)
        self._pairs[config] = _largest_differences(trial, result, reference)
        self._on_event(ConfigMeasured(trial))
        return trial


def _largest_differences(
    trial: ConfigTrial, result: CandidateResult, reference: CandidateResult
) -> tuple[ImagePair, ...]:
    sound = [index for index, fault in enumerate(reference.faults) if fault is None]
    worst = sorted(zip(trial.psnr_db, sound, strict=True))[:MAX_PAIRS]
    return tuple(
        ImagePair(index, psnr_db, result.pixels[index].copy())
        for psnr_db, index in worst
        if not math.isinf(psnr_db)
    )

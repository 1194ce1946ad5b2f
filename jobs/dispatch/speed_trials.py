"""In an actor: compare faster ways to sample with plain sampling, on images of the run."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cached_property
from importlib.metadata import version

import torch
from pydantic import ValidationError

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import (
    DeviceError,
    DiffusionError,
    ModelError,
    OutOfMemory,
    SamplingError,
    SettingsError,
    as_model_error,
    one_line,
)
from nightpress.diffusion_core.models.model_speed import check_speed
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder, text_to_image_class
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.diffusion_core.tuning.batch_size_benchmark import (
    ROUNDS,
    TRIAL_STEPS,
    trial_settings,
)
from nightpress.diffusion_core.tuning.benchmark import (
    WARM_UP_STEPS,
    Candidate,
    Workload,
    clock_for,
    likeness,
    time_in_turn,
    timed,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.device_name import device_name
from nightpress.diffusion_core.tuning.kept_trials import KeptTrial, KeptTrials
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.dispatch.held_models import HeldModel, HeldModels
from nightpress.jobs.dispatch.trial_images import TrialImages, TrialStart
from nightpress.pipelines.inputs.preparing import NO_INPUTS
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.shards.batch_inputs import BatchInputs
from nightpress.pipelines.shards.missing import without

LOG = logging.getLogger(__name__)

PLAIN = SpeedSpec()


class _FaultyReferenceError(SamplingError):
    """Every image that plain sampling makes is faulty, for which no way is to blame."""


class SpeedTrials:
    """The trials of one model in one process.

    Args:
        models: of the process.
        trial: what is sampled.
        device: `cpu` or `cuda`.

    Raises:
        SamplingError: the pictures of all images are unusable.
    """

    def __init__(self, models: HeldModels, trial: TrialImages, device: str) -> None:
        self._models, self._trial, self._device = models, trial, device
        self._spec = models.spec(trial.model)
        params = trial.images[0].params
        self._workload = Workload.of(_requests(trial), params, trial.batch_size)
        self._few = trial_settings(params, TRIAL_STEPS)
        self._plain: Candidate | None = None
        self._alone: tuple[float, ...] = ()
        """Seconds of batches with plain sampling, which is no longer in memory."""
        self._tried: SpeedSpec | None = None
        self._few_s = 0.0

    def start(self) -> TrialStart:
        """Time plain sampling, and look up what earlier runs have found.

        Raises:
            SamplingError, ModelError: the images cannot be sampled at all.
            DeviceError: the device failed, so that this process is of no more use.
        """
        trial = self._trial
        held = self._models.use(trial.model, trial.fingerprint, trial.batch_size, PLAIN)
        self._few_s, batch_s = self._time_batch(held)
        kept = {config: each for config, each in self._kept.read(_today()).items() if each.is_known}
        return TrialStart(batch_s, self._few_s, held.load_s, kept, dict(self._unusable()))

    def _unusable(self) -> Iterator[tuple[TuningConfig, str]]:
        """The ways that are not supported, with the reason."""
        for config in self._trial.ways:
            try:
                with _as_diffusion_error(config):
                    self._require_supported(config)
            except (ModelError, SamplingError) as error:
                if _is_of_device(error):
                    raise
                yield config, one_line(error)

    def _time_batch(self, held: HeldModel) -> tuple[float, float]:
        """Seconds that the batch takes with a few steps, and with all of them as these tell.

        Even fewer steps tell what a batch takes besides them: to be decoded, mostly.
        """
        params, few = self._workload.params, self._few
        fewer = trial_settings(params, WARM_UP_STEPS)
        few_s = self._time(held, few)
        if fewer.cost == few.cost:
            return few_s, few_s * params.cost / few.cost
        per_cost = (few_s - self._time(held, fewer)) / (few.cost - fewer.cost)
        return few_s, few_s + max(0.0, per_cost) * (params.cost - few.cost)

    def _time(self, held: HeldModel, params: SamplingParams) -> float:
        """Seconds that the batch takes with some settings; the fastest of `ROUNDS`."""
        (batch,) = self._workload.batches
        clock, seconds = clock_for(self._device), []
        for _ in range(ROUNDS):
            started_at = clock()
            held.sampler.sample(batch, params, self._trial.batch_size).settled()
            seconds.append(clock() - started_at)
        return min(seconds)

    @cached_property
    def _kept(self) -> KeptTrials:
        """The trials of earlier runs with all on which the speed of a way depends."""
        params, conditioning = self._workload.params, self._workload.params.conditioning
        shapes = (
            *(params.width, params.height, self._trial.batch_size, params.guidance_scale > 1),
            *(conditioning.mode, conditioning.controls, conditioning.num_references),
            *(params.lora is not None, [(each.width, each.height) for each in params.passes]),
        )
        settings = self._spec.model_dump(mode="json", exclude={"source", "speed"})
        versions = {name: version(name) for name in ("torch", "diffusers")}
        return KeptTrials(
            {"model": self._trial.fingerprint, "settings": settings, "versions": versions}
            | {"device": device_name(self._device), "threads": torch.get_num_threads()}
            | {"shapes": shapes}
        )

    def measure(self, config: TuningConfig, known: KeptTrial | None = None) -> ConfigTrial | str:
        """Try one way; returns why it cannot be used, if it cannot, whatever it has raised.

        Args:
            known: an earlier trial of the way. Its images are compared, and it is not timed.

        Raises:
            DeviceError: the device failed, so that this process is of no more use.
        """
        began = time.monotonic()
        found: ConfigTrial | str
        try:
            with _as_diffusion_error(config):
                self._require_supported(config)
                found = self._tried_out(config, known)
        except (ModelError, SettingsError, SamplingError) as error:
            if _is_of_device(error):
                raise
            found = one_line(error)
        LOG.info("tried %s in %.1f s: %s", config.name, time.monotonic() - began, found)
        return found

    def _tried_out(self, config: TuningConfig, known: KeptTrial | None) -> ConfigTrial:
        """Try one way, and keep how that has ended, even if it costs this process."""
        if config.speed.compile:
            _ = self._reference  # nothing is compiled where it cannot be compared
        earlier = known or self._kept.read(_today()).get(config)
        failed = (earlier or KeptTrial.untimed(config, _today())).failed()
        self._keep(failed)
        try:
            with _as_diffusion_error(config):
                trial = self._measure(config, known)
        except _FaultyReferenceError:
            self._keep(earlier or config)
            raise
        except OutOfMemory as error:
            text = f"it does not fit into memory: {one_line(error)}"
            self._keep(replace(failed, failure=text))
            raise OutOfMemory(text) from error
        except (ModelError, SettingsError, SamplingError) as error:
            self._keep(replace(failed, failure=one_line(error)))
            raise
        made = KeptTrial.of(trial, self._few_s, _today())
        self._keep(made if known is None else known.loaded_again(trial, self._few_s))
        return trial

    def _measure(self, config: TuningConfig, known: KeptTrial | None) -> ConfigTrial:
        if self._tried is not None:
            self._models.drop(self._trial.model, self._tried)
        if self._plain is None and not self._alone:
            self._plain = self._candidate(PLAIN)
        if not self._models.has_room_for(self._trial.model):
            self._drop_plain()
        candidate = self._loaded(config.speed)
        if known is None:
            trial = self._timed(config, candidate)
        else:
            trial = replace(known.as_trial(self._few_s), warm_s=candidate.warm_s)
        if not trial.is_faster:
            return trial
        close = likeness(candidate.first, self._reference)
        return trial.compared(close.psnr_db, close.fault)

    def _loaded(self, ways: SpeedSpec) -> Candidate:
        """A way that is warm: beside plain sampling, or alone if there is no memory for both.

        Raises:
            OutOfMemory: not even the way alone fits.
        """
        self._tried = ways
        try:
            return self._candidate(ways)
        except OutOfMemory as error:
            if self._plain is None:
                raise
            LOG.info("no memory for plain sampling beside it: %s", one_line(error))
        self._models.drop(self._trial.model, ways)
        self._drop_plain()
        return self._candidate(ways)

    def _timed(self, config: TuningConfig, candidate: Candidate) -> ConfigTrial:
        if self._plain is None:
            plain_s, (seconds,) = self._alone, self._times([candidate])
        else:
            plain_s, seconds = self._times([self._plain, candidate])
        return timed(self._workload, config, plain_s, seconds, candidate.warm_s)

    def _times(self, candidates: list[Candidate]) -> list[tuple[float, ...]]:
        return time_in_turn(self._workload, candidates, self._few)

    def _keep(self, trial: KeptTrial | TuningConfig) -> None:
        """Keep a trial for later runs, or forget that of a way, if the cache folder is writable."""
        try:
            if isinstance(trial, KeptTrial):
                self._kept.keep(trial)
            else:
                self._kept.forget(trial)
        except OSError as error:
            LOG.warning("what was tried is not kept for later runs: %s", error)

    def _drop_plain(self) -> None:
        """Take plain sampling out of memory, and time and sample with it before that."""
        if self._plain is not None:
            (self._alone,) = self._times([self._plain])
            _ = self._reference
        self._plain = None  # otherwise it would stay in memory although it is dropped
        self._models.drop(self._trial.model, PLAIN)

    def _require_supported(self, config: TuningConfig) -> None:
        """Check a way without loading a weight.

        Raises:
            ModelError: the job, the model or this machine does not support it.
        """
        values = self._spec.model_dump(mode="json") | {"speed": config.speed.chosen()}
        try:
            spec = ModelSpec.model_validate(values)
        except ValidationError as error:
            text = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise ModelError(text) from error
        model = PipelineFolder.read(ModelFiles.locate(spec, self._trial.spec.storage).folder)
        check_speed(model, text_to_image_class(model), spec, device=self._device)

    @cached_property
    def _reference(self) -> SampledBatch:
        """The images of plain sampling, which `_drop_plain` reads before it is too late."""
        if self._plain is None:
            self._plain = self._candidate(PLAIN)
        result = self._plain.first
        if all(result.faults):
            raise _FaultyReferenceError(
                f"every image of the first batch is faulty: {result.faults[0]}"
            )
        return result

    def _candidate(self, ways: SpeedSpec) -> Candidate:
        trial = self._trial
        try:
            with as_model_error("cannot load the model"):
                held = self._models.use(trial.model, trial.fingerprint, trial.batch_size, ways)
        except ModelError as error:
            if isinstance(cause := error.__cause__, torch.OutOfMemoryError):
                raise OutOfMemory(one_line(cause)) from error
            raise
        return Candidate(held.model, self._workload, self._few)


@contextmanager
def _as_diffusion_error(config: TuningConfig) -> Iterator[None]:
    """Turn what nobody expects of a way, such as an OSError of a compiler, into a SamplingError of
    one line; the log has all of it.

    Raises:
        DeviceError: the device failed.
    """
    try:
        yield
    except DiffusionError:
        raise
    except Exception as error:  # torch.compile passes on whatever its parts raise
        LOG.exception("trying %s has failed", config.name)
        kind = DeviceError if isinstance(error, torch.AcceleratorError) else SamplingError
        raise kind(f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")) from error


def _is_of_device(error: DiffusionError) -> bool:
    """Whether the device failed, and no way is to blame."""
    return isinstance(error, DeviceError) and not isinstance(error, OutOfMemory)


def _today() -> date:
    return datetime.now(UTC).date()


def _requests(trial: TrialImages) -> list[ImageRequest]:
    """What each image is made from, without those whose pictures cannot be used."""
    inputs = BatchInputs(trial.spec, trial.url)
    try:
        inputs.prefetch(trial.images)
        pictures = inputs.take(trial.images)
        assert pictures is not None  # noqa: S101 - nobody stops it
        usable = without(trial.images, pictures.failed)
        if not usable:
            raise SamplingError("the pictures of the first images cannot be used")
        prepared = [pictures.prepared.get(each.image_id, NO_INPUTS) for each in usable]
        return [image.request(each.images) for image, each in zip(usable, prepared, strict=True)]
    finally:
        inputs.close()

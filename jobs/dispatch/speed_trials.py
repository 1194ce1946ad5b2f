"""In an actor: compare faster ways to sample with plain sampling, on images of the run."""

import logging
import time
from functools import cached_property

from pydantic import ValidationError

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import (
    DeviceError,
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
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.tuning.batch_size_benchmark import (
    ROUNDS,
    TRIAL_STEPS,
    trial_settings,
)
from nightpress.diffusion_core.tuning.benchmark import (
    Candidate,
    CandidateResult,
    Workload,
    clock_for,
    compare,
    sample_in_turn,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.dispatch.held_models import HeldModels
from nightpress.jobs.dispatch.trial_images import TrialImages
from nightpress.pipelines.inputs.preparing import NO_INPUTS
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.shards.batch_inputs import BatchInputs
from nightpress.pipelines.shards.missing import without

LOG = logging.getLogger(__name__)

PLAIN = SpeedSpec()


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
        self._plain: Candidate | None = None
        self._tried: SpeedSpec | None = None

    def batch_s(self) -> float:
        """Seconds that a whole batch takes with plain sampling, estimated from a few steps.

        Raises:
            SamplingError, ModelError: the images cannot be sampled at all.
        """
        (batch,) = self._workload.batches
        params, few = self._workload.params, trial_settings(self._workload.params, TRIAL_STEPS)
        trial = self._trial
        held = self._models.use(trial.model, trial.fingerprint, trial.batch_size, PLAIN)
        clock, seconds = clock_for(self._device), []
        for _ in range(ROUNDS):
            started_at = clock()
            held.sampler.sample(batch, few, trial.batch_size).settled()
            seconds.append(clock() - started_at)
        return min(seconds) * params.cost / few.cost

    def measure(self, config: TuningConfig) -> ConfigTrial | str:
        """Try one way; returns why it cannot be used, if it cannot.

        Raises:
            DeviceError: the device failed, so that this process is of no more use.
        """
        began = time.monotonic()
        try:
            found: ConfigTrial | str = self._measure(config)
        except DeviceError as error:
            if not isinstance(error, OutOfMemory):
                raise
            found = f"it does not fit into memory: {one_line(error)}"
        except ValidationError as error:
            found = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        except (ModelError, SettingsError, SamplingError) as error:
            found = one_line(error)
        LOG.info("tried %s in %.1f s: %s", config.name, time.monotonic() - began, found)
        return found

    def _measure(self, config: TuningConfig) -> ConfigTrial:
        self._require_supported(config)
        reference = self._reference
        if self._tried is not None:
            self._models.drop(self._trial.model, self._tried)
        if not self._models.has_room_for(self._trial.model):
            self._plain = None  # otherwise it would stay in memory although it is dropped
            self._models.drop(self._trial.model, PLAIN)
        candidate = self._candidate(config.speed)
        self._tried = config.speed
        if self._plain is None:
            (result,) = sample_in_turn(self._workload, [candidate])
        else:
            reference, result = sample_in_turn(self._workload, [self._plain, candidate])
        return compare(self._workload, config, result, reference)

    def _require_supported(self, config: TuningConfig) -> None:
        """Check a way without loading a weight.

        Raises:
            ValidationError, ModelError: the job, the model or this machine does not support it.
        """
        values = self._spec.model_dump(mode="json") | {"speed": config.speed.chosen()}
        spec = ModelSpec.model_validate(values)
        model = PipelineFolder.read(ModelFiles.locate(spec, self._trial.spec.storage).folder)
        check_speed(model, text_to_image_class(model), spec)

    @cached_property
    def _reference(self) -> CandidateResult:
        """The images of plain sampling, timed alone."""
        self._plain = self._candidate(PLAIN)
        (result,) = sample_in_turn(self._workload, [self._plain])
        if all(result.faults):
            raise SamplingError(f"every image of the first batch is faulty: {result.faults[0]}")
        return result

    def _candidate(self, ways: SpeedSpec) -> Candidate:
        trial = self._trial
        with as_model_error("cannot load the model"):
            held = self._models.use(trial.model, trial.fingerprint, trial.batch_size, ways)
        return Candidate(held.model, self._workload)


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

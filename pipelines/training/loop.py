"""The training loop: resume from the last checkpoint, train to the last step, yield events.

Each worker runs this loop, with torch.distributed between them. The result depends neither on the
number of workers nor on restarts, except for the order in which sums are rounded.
"""

import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, distributed

from nightpress.diffusion_core.sampling.copy_to_host import CopyStream
from nightpress.diffusion_core.silence_libraries import no_progress_bars
from nightpress.pipelines.errors import TrainingDiverged
from nightpress.pipelines.run_directory.lease import Lease, held
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training import checkpoints
from nightpress.pipelines.training.curves import loss_curve
from nightpress.pipelines.training.data import PackedImages, pack
from nightpress.pipelines.training.events import (
    CheckpointSaved,
    DataReady,
    Finished,
    Resumed,
    SamplesWritten,
    StepDone,
    Stopped,
    TrainingEvent,
)
from nightpress.pipelines.training.grids import sample_sheet, training_film
from nightpress.pipelines.training.layout import (
    FINISHED_FILE,
    MODEL_FOLDER,
    SAMPLES_FOLDER,
    checkpoint_path,
    checkpoint_steps,
    damaged_checkpoint_path,
    finished_step,
    note_asked_steps,
    sample_sheet_path,
    sample_sheet_steps,
)
from nightpress.pipelines.training.metrics import (
    AverageMeter,
    MetricsLog,
    TensorBoardWriter,
    require_tensorboard,
)
from nightpress.pipelines.training.packing_progress import pack_with_progress
from nightpress.pipelines.training.recipes import Recipe
from nightpress.pipelines.training.record import (
    TrainRecord,
    begin_or_resume,
    new_record,
    refuse_another,
)
from nightpress.pipelines.training.registry import new_recipe
from nightpress.pipelines.training.sample_order import SampleOrder
from nightpress.pipelines.training.spec import TrainSpec
from nightpress.pipelines.training.stepping import Stepper, WorkerRank


def train(
    spec: TrainSpec,
    worker: WorkerRank | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
    store: Store | None = None,
    hold_lease: Callable[[Store], AbstractContextManager[Lease]] = held,
) -> Iterator[TrainingEvent]:
    """Train, or resume an interrupted training run; yield events.

    Args:
        spec: the job.
        worker: the rank and device of this worker; default: the only worker, on the CPU.
        should_stop: called once per step; True makes the loop save a checkpoint and end.
        cache: folder on this machine for packed data.
        store: the run directory, if it needs other settings than those of the job.
        hold_lease: acquires and releases the lease of the run directory.

    Raises:
        DataError, SpecError, DiffusionError: the job cannot run; nothing was written to the store.
        ChangedRunError: likewise; the run directory belongs to another training run.
        RunHeld: another process is training in it.
        LeaseLost: another process has taken it over.
        CheckpointError: all checkpoints are damaged, or one belongs to another network.
        TrainingDiverged: the loss or its gradient is not finite.
        StoreError: the store refuses or fails.
    """
    worker = worker or WorkerRank()
    _require_what_is_asked(spec, worker)
    data = yield from _pack(spec, cache)
    yield DataReady(len(data), data.num_bad, tuple(map(str, data.bad)), data.warnings)
    recipe = new_recipe(spec, data, worker.device)
    store = store or Store(spec.url, spec.storage)
    record = _checked_record(store, new_record(spec, data.fingerprint, len(data), recipe.base))
    with hold_lease(store) if worker.is_main else nullcontext() as lease:
        if lease is not None:
            _begin(store, record)
        worker.barrier()  # no worker looks for checkpoints before the lease is held
        yield from Training(spec, worker, store, data, recipe, lease).run(should_stop)


def _require_what_is_asked(spec: TrainSpec, worker: WorkerRank) -> None:
    spec.require_even_shares(worker.world_size)
    if spec.training.tensorboard is not None and worker.is_main:
        require_tensorboard(spec.training.tensorboard)


def _checked_record(store: Store, record: TrainRecord) -> TrainRecord:
    """The record, if no other training has begun here: looked at before the lease is written."""
    refuse_another(store, record)
    return record


def _begin(store: Store, record: TrainRecord) -> None:
    """Write `train.json`, or check that it is the same training; note the steps of this start."""
    first = begin_or_resume(store, record).spec.training.max_train_steps
    note_asked_steps(store, record.spec.training.max_train_steps, first)


def _pack(spec: TrainSpec, cache: Path | None) -> Generator[TrainingEvent, None, PackedImages]:
    resolution, captions = spec.training.resolution, spec.needs_captions
    return (
        yield from pack_with_progress(
            lambda progress: pack(spec.data, resolution, captions, spec.storage, cache, progress)
        )
    )


class Training:
    """One worker's part in a training run whose `train.json` is already written."""

    def __init__(
        self,
        spec: TrainSpec,
        worker: WorkerRank,
        store: Store,
        data: PackedImages,
        recipe: Recipe,
        lease: Lease | None = None,
    ) -> None:
        self.spec, self.worker, self.store, self.recipe = spec, worker, store, recipe
        self.lease = lease
        self.order = SampleOrder(spec.seed, len(data), spec.training.train_batch_size)
        self.stepper = Stepper(spec, worker, recipe.module)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[TrainingEvent]:
        """Train from the last checkpoint to the end, or until `should_stop`."""
        done, damaged = checkpoints.load_newest(self.store, self.stepper.state)
        if done:
            yield Resumed(done, tuple(map(damaged_checkpoint_path, damaged)))
        yield from self.recipe.prepare(self.store, self.worker.rank, self.worker.world_size)
        self.worker.barrier()  # every worker has looked for checkpoints
        if damaged and self.worker.is_main:
            self._require_lease()
            checkpoints.set_aside(self.store, damaged)
        self.recipe.load_prepared(self.store)
        if done < self.spec.training.max_train_steps:
            done = yield from self._train_steps(done, should_stop)
        if done >= self.spec.training.max_train_steps:
            yield from self._finish(done)
        else:
            yield Stopped(done)

    def _train_steps(
        self, first: int, should_stop: Callable[[], bool]
    ) -> Generator[TrainingEvent, None, int]:
        """Train from step `first` on; return the total number of steps done."""
        options = self.spec.training
        log = MetricsLog(self.store, first) if self.worker.is_main else None
        meter = AverageMeter(options.train_batch_size)
        done, stop = first, False
        with self._batches(first) as batch_of, self._tensorboard(first) as tensorboard:
            while done < options.max_train_steps and not stop:
                result = self.stepper.step(done, batch_of(done))
                done += 1
                if not result.is_finite:
                    # Gradients are the same on all workers, so all of them stop here.
                    raise TrainingDiverged(self._divergence(done, result.terms["loss"]))
                means, stop = self._reduce(result.terms, should_stop)
                meter.add(means)
                is_last = stop or done == options.max_train_steps
                if log is not None and (done % options.logging_steps == 0 or is_last):
                    rate = self.stepper.learning_rate(done - 1)
                    metrics = meter.metrics(done, rate, result.grad_norm)
                    log.add(metrics)
                    if tensorboard is not None:
                        tensorboard.add(metrics)
                    yield StepDone(metrics, options.max_train_steps)
                if log is not None and (done % options.checkpointing_steps == 0 or is_last):
                    yield self._save_checkpoint(done, log)
                if self._is_sample_step(done):
                    yield self._write_samples(done)
        return done

    def _divergence(self, step: int, loss: float) -> str:
        steps = checkpoint_steps(self.store)
        last = (
            f"the last good checkpoint is {self.store.url}/{checkpoint_path(steps[-1])}"
            if steps
            else "there is no checkpoint yet"
        )
        return (
            f"step {step:,}: the loss is {loss} and its gradient is not finite; {last}; try a "
            "lower training.learning_rate, which may be changed when training resumes"
        )

    def _reduce(
        self, terms: Mapping[str, float], should_stop: Callable[[], bool]
    ) -> tuple[dict[str, float], bool]:
        """Average the loss terms over all workers, and share the main worker's `should_stop`."""
        if self.lease is not None:
            self.lease.require()
        stop = self.worker.is_main and should_stop()
        values = [*terms.values(), float(stop)]
        if self.worker.world_size > 1:
            shared = torch.tensor(values, dtype=torch.float64, device=self.worker.device)
            distributed.all_reduce(shared)
            values = shared.tolist()
            values[:-1] = [value / self.worker.world_size for value in values[:-1]]
        return dict(zip(terms, values[:-1], strict=True)), values[-1] > 0

    def _save_checkpoint(self, step: int, log: MetricsLog) -> CheckpointSaved:
        self._require_lease()
        options = self.spec.training
        # Metrics come first: a resume drops rows after the checkpoint, but cannot restore rows.
        log.flush()
        num_bytes = checkpoints.save(
            self.store, step, self.stepper.state, {"recipe": self._recipe_name}
        )
        checkpoints.prune(self.store, options.checkpoints_total_limit)
        self.store.put("loss.png", loss_curve(log.table(), self.spec.name))
        return CheckpointSaved(step, checkpoint_path(step), num_bytes)

    def _tensorboard(self, first: int) -> AbstractContextManager[TensorBoardWriter | None]:
        folder = self.spec.training.tensorboard
        if folder is None or not self.worker.is_main:
            return nullcontext()
        return TensorBoardWriter(str(Path(folder, self.spec.name)), first)

    def _is_sample_step(self, step: int) -> bool:
        """Whether to write a sample sheet now; `_finish` writes the last one in any case."""
        every = self.spec.samples.every_steps
        return self.worker.is_main and every > 0 and step % every == 0

    def _write_samples(self, step: int) -> SamplesWritten:
        self._require_lease()
        with self.stepper.averaged_weights():
            images, captions = self.recipe.sample()
        path = sample_sheet_path(step)
        title = f"{self.spec.name}, step {step:,}"
        self.store.put(path, sample_sheet(images, captions, title))
        return SamplesWritten(step, path)

    def _finish(self, step: int) -> Iterator[TrainingEvent]:
        """Write the samples and the model of this step, unless they exist."""
        if self.worker.is_main:
            if step not in sample_sheet_steps(self.store):
                yield self._write_samples(step)
            if finished_step(self.store) != step:
                self._write_model(step)
            yield Finished(step, MODEL_FOLDER)
        self.worker.barrier()

    def _write_model(self, step: int) -> None:
        self._require_lease()
        with (
            self.stepper.averaged_weights(),
            no_progress_bars(),
            tempfile.TemporaryDirectory() as scratch,
        ):
            self.recipe.save(Path(scratch))
            for path in sorted(Path(scratch).rglob("*")):
                if path.is_file():
                    name = path.relative_to(scratch).as_posix()
                    self.store.put(f"{MODEL_FOLDER}/{name}", path.read_bytes())
        self.store.put(f"{SAMPLES_FOLDER}/film.gif", training_film(self.store))
        self.store.put(FINISHED_FILE, json.dumps({"step": step}).encode())

    @contextmanager
    def _batches(self, first: int) -> Iterator[Callable[[int], dict[str, Tensor]]]:
        """A function that returns the batch of a step, while a thread prepares the next one.

        The thread has a stream of its own on a GPU: on the stream of the training step, what it
        encodes would wait for the step, and the step for it.
        """
        if not self.recipe.can_prefetch:
            yield self._batch
            return
        stream = CopyStream(self.worker.device)  # which waits for the weights to be loaded

        def prepared(step: int) -> dict[str, Tensor]:
            with stream.as_current():
                return self._batch(step)

        with ThreadPoolExecutor(max_workers=1) as thread:
            pending: dict[int, Future[dict[str, Tensor]]] = {first: thread.submit(prepared, first)}

            def batch_of(step: int) -> dict[str, Tensor]:
                pending[step + 1] = thread.submit(prepared, step + 1)
                return pending.pop(step).result()

            yield batch_of

    def _batch(self, step: int) -> dict[str, Tensor]:
        items = self.order.batch_items(step, self.worker.rank, self.worker.world_size)
        return self.recipe.batch(list(items))

    def _require_lease(self) -> None:
        """Refuse to write once another process has taken the training run over."""
        if self.lease is not None:
            self.lease.fence.require(self.store)

    @property
    def _recipe_name(self) -> str:
        return str(self.spec.as_dict()["recipe"])

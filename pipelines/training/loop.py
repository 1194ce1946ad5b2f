"""The training loop: from the last checkpoint to the last step, as a generator of events.

Owns the order of things in one worker. Several workers each run it, with torch.distributed between
them; what they compute together depends on neither their number nor on restarts, but for the order
in which sums are rounded.
"""

import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, distributed

from nightpress.diffusion_core.silence_libraries import no_progress_bars
from nightpress.pipelines.errors import TrainingDiverged
from nightpress.pipelines.run_directory.lease import Lease, held
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training import checkpoints, reading
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
from nightpress.pipelines.training.grids import film_strip, sample_sheet
from nightpress.pipelines.training.layout import (
    FINISHED_FILE,
    MODEL_FOLDER,
    SAMPLES_FOLDER,
    finished_step,
    path_of,
    sheet_path,
    sheets_of,
    steps_of,
)
from nightpress.pipelines.training.metrics import (
    Meter,
    MetricsLog,
    TensorBoard,
    require_tensorboard,
)
from nightpress.pipelines.training.order import Order, Pick
from nightpress.pipelines.training.recipes import Recipe
from nightpress.pipelines.training.record import claim, new_record
from nightpress.pipelines.training.registry import new_recipe
from nightpress.pipelines.training.spec import TrainSpec
from nightpress.pipelines.training.stepping import Place, Stepper


def train(
    spec: TrainSpec,
    place: Place | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
    store: Store | None = None,
    hold: Callable[[Store], AbstractContextManager[Lease]] = held,
) -> Iterator[TrainingEvent]:
    """Train, or go on with what was interrupted; yields what happens.

    Args:
        spec: the job.
        place: this worker's; alone on the CPU unless given.
        should_stop: asked once a step; when it says so, a checkpoint is written and it ends.
        cache: folder of this machine for packed data.
        store: the run directory, if more is known of it than the job says.
        hold: how the lease of the run directory is held.

    Raises:
        DataError, SpecError, DiffusionError: nothing was written to the store.
        ChangedRunError: the run directory belongs to another training.
        RunHeld: another start works on it.
        LeaseLost: another start has taken it over.
        CheckpointError: the last checkpoint is damaged or of another network.
        TrainingDiverged: the loss is no number any more.
        StoreError: the store refused.
    """
    place = place or Place()
    spec.require_even_shares(place.world_size)
    if spec.training.tensorboard is not None and place.leads:
        require_tensorboard(spec.training.tensorboard)
    data = yield from _packed(spec, cache)
    yield DataReady(len(data), data.num_bad, tuple(map(str, data.bad)), data.warnings)
    recipe = new_recipe(spec, data, place.device)
    store = store or Store(spec.url, spec.storage)
    with hold(store) if place.leads else nullcontext() as lease:
        if lease is not None:
            claim(store, new_record(spec, data.fingerprint, len(data), recipe.base))
        place.barrier()  # nobody looks for checkpoints while another start may write them
        yield from Training(spec, place, store, data, recipe, lease).run(should_stop)


def _packed(spec: TrainSpec, cache: Path | None) -> Generator[TrainingEvent, None, PackedImages]:
    resolution, captions = spec.training.resolution, spec.needs_captions
    return (
        yield from reading.told(
            lambda num_read: pack(spec.data, resolution, captions, spec.storage, cache, num_read)
        )
    )


class Training:
    """One worker's part of a training whose record is written."""

    def __init__(
        self,
        spec: TrainSpec,
        place: Place,
        store: Store,
        data: PackedImages,
        recipe: Recipe,
        lease: Lease | None = None,
    ) -> None:
        self.spec, self.place, self.store, self.recipe = spec, place, store, recipe
        self.lease = lease
        self.order = Order(spec.seed, len(data), spec.training.train_batch_size)
        self.stepper = Stepper(spec, place, recipe.module)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[TrainingEvent]:
        """From the last checkpoint to the end."""
        last = self._resume()
        if last:
            yield Resumed(last)
        yield from self.recipe.prepare(self.store, self.place.rank, self.place.world_size)
        self.place.barrier()
        self.recipe.ready(self.store)
        if last < self.spec.training.max_train_steps:
            last = yield from self._steps(last, should_stop)
        if last >= self.spec.training.max_train_steps:
            yield from self._finish(last)
        else:
            yield Stopped(last)

    def _resume(self) -> int:
        """The step of the newest checkpoint, loaded; 0 without any."""
        steps = steps_of(self.store)
        if not steps:
            return 0
        checkpoints.load(self.store, steps[-1], self.stepper.state)
        return steps[-1]

    def _steps(
        self, first: int, should_stop: Callable[[], bool]
    ) -> Generator[TrainingEvent, None, int]:
        """Steps from `first` on; returns how many are done in all."""
        options = self.spec.training
        log = MetricsLog(self.store, first) if self.place.leads else None
        meter = Meter(options.train_batch_size)
        done, stop = first, False
        with self._batches(first) as batch_of, self._board(first) as board:
            while done < options.max_train_steps and not stop:
                result = self.stepper.step(done, batch_of(done))
                done += 1
                if not result.is_finite:
                    # Gradients are the same in all workers, so all of them stop here.
                    raise TrainingDiverged(self._diverged(done, result.terms["loss"]))
                means, stop = self._agree(result.terms, should_stop)
                meter.add(means)
                last = stop or done == options.max_train_steps
                if log is not None and (done % options.logging_steps == 0 or last):
                    metrics = meter.metrics(done, self.stepper.rate(done - 1), result.grad_norm)
                    log.add(metrics)
                    if board is not None:
                        board.add(metrics)
                    yield StepDone(metrics, options.max_train_steps)
                if log is not None and (done % options.checkpointing_steps == 0 or last):
                    yield self._checkpoint(done, log)
                if self._is_sample_step(done):
                    yield from self._samples(done)
        return done

    def _diverged(self, step: int, loss: float) -> str:
        steps = steps_of(self.store)
        kept = (
            f"the last good checkpoint is {self.store.url}/{path_of(steps[-1])}"
            if steps
            else "there is no checkpoint yet"
        )
        return (
            f"step {step:,}: the loss is {loss} and its gradient is not finite; {kept}. "
            "A lower training.learning_rate may help; it may change when a training goes on."
        )

    def _agree(
        self, terms: Mapping[str, float], should_stop: Callable[[], bool]
    ) -> tuple[dict[str, float], bool]:
        """Mean loss terms over all workers, and whether to stop, which the first worker says."""
        if self.lease is not None:
            self.lease.require()
        stop = self.place.leads and should_stop()
        values = [*terms.values(), float(stop)]
        if self.place.world_size > 1:
            shared = torch.tensor(values, dtype=torch.float64, device=self.place.device)
            distributed.all_reduce(shared)
            values = shared.tolist()
            values[:-1] = [value / self.place.world_size for value in values[:-1]]
        return dict(zip(terms, values[:-1], strict=True)), values[-1] > 0

    def _checkpoint(self, step: int, log: MetricsLog) -> TrainingEvent:
        self._require_lease()
        options = self.spec.training
        log.flush()  # before the checkpoint: rows beyond it are dropped, lost ones stay lost
        num_bytes = checkpoints.save(
            self.store, step, self.stepper.state, {"recipe": self._recipe_name}
        )
        checkpoints.prune(self.store, options.checkpoints_total_limit)
        self.store.put("loss.png", loss_curve(log.table(), self.spec.name))
        return CheckpointSaved(step, path_of(step), num_bytes)

    def _board(self, first: int) -> AbstractContextManager[TensorBoard | None]:
        folder = self.spec.training.tensorboard
        if folder is None or not self.place.leads:
            return nullcontext()
        return TensorBoard(str(Path(folder, self.spec.name)), first)

    def _is_sample_step(self, step: int) -> bool:
        """Whether a sheet is drawn now; the last one is drawn with the model."""
        every = self.spec.samples.every_steps
        return self.place.leads and every > 0 and step % every == 0

    def _samples(self, step: int) -> Iterator[TrainingEvent]:
        self._require_lease()
        with self.stepper.averaged():
            pictures, captions = self.recipe.sample()
        path = sheet_path(step)
        title = f"{self.spec.name}, step {step:,}"
        self.store.put(path, sample_sheet(pictures, captions, title))
        yield SamplesWritten(step, path)

    def _finish(self, step: int) -> Iterator[TrainingEvent]:
        """Write the model, unless this very step's is there."""
        if self.place.leads:
            if step not in sheets_of(self.store):
                yield from self._samples(step)
            if finished_step(self.store) != step:
                self._write_model(step)
            yield Finished(step, MODEL_FOLDER)
        self.place.barrier()

    def _write_model(self, step: int) -> None:
        self._require_lease()
        with self.stepper.averaged(), no_progress_bars(), tempfile.TemporaryDirectory() as scratch:
            self.recipe.save(Path(scratch))
            for path in sorted(Path(scratch).rglob("*")):
                if path.is_file():
                    name = path.relative_to(scratch).as_posix()
                    self.store.put(f"{MODEL_FOLDER}/{name}", path.read_bytes())
        self.store.put(f"{SAMPLES_FOLDER}/film.gif", film_strip(self.store))
        self.store.put(FINISHED_FILE, json.dumps({"step": step}).encode())

    @contextmanager
    def _batches(self, first: int) -> Iterator[Callable[[int], dict[str, Tensor]]]:
        """A function that gives the batch of a step, while a thread makes the next one."""
        if not self.recipe.looks_ahead:
            yield self._batch
            return
        with ThreadPoolExecutor(max_workers=1) as thread:
            ahead: dict[int, Future[dict[str, Tensor]]] = {first: thread.submit(self._batch, first)}

            def batch_of(step: int) -> dict[str, Tensor]:
                ahead[step + 1] = thread.submit(self._batch, step + 1)
                return ahead.pop(step).result()

            yield batch_of

    def _batch(self, step: int) -> dict[str, Tensor]:
        picks: list[Pick] = list(self.order.picks(step, self.place.rank, self.place.world_size))
        return self.recipe.batch(picks)

    def _require_lease(self) -> None:
        """Write only while no other start has taken the training over."""
        if self.lease is not None:
            self.lease.fence.require(self.store)

    @property
    def _recipe_name(self) -> str:
        return str(self.spec.as_dict()["recipe"])

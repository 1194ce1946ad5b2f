"""The training loop: from the last checkpoint to the last step, as a generator of events.

Owns the order of things in one worker. Several workers each run it, with torch.distributed between
them; what they compute together depends on neither their number nor on restarts, but for the order
in which sums are rounded.
"""

import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from diffusion_core.quiet import quiet
from diffusion_core.training import Ema
from diffusion_core.training.optimizers import Optimization, learning_rate, new_optimizer
from pipelines.errors import SpecError, TrainingDiverged
from pipelines.storage import Store
from pipelines.training import checkpoints, reading
from pipelines.training.checkpoints import TrainingState
from pipelines.training.curves import loss_curve
from pipelines.training.data import PackedImages, pack
from pipelines.training.events import (
    CheckpointSaved,
    DataReady,
    Finished,
    Resumed,
    SamplesWritten,
    StepDone,
    Stopped,
    TrainingEvent,
)
from pipelines.training.grids import film_strip, sample_sheet
from pipelines.training.layout import (
    MODEL_FOLDER,
    SAMPLES_FOLDER,
    path_of,
    sheet_path,
    sheets_of,
    steps_of,
)
from pipelines.training.metrics import (
    MetricsLog,
    StepMetrics,
    TensorBoard,
    read_metrics,
    require_tensorboard,
)
from pipelines.training.order import Order, Pick
from pipelines.training.recipes import Recipe
from pipelines.training.record import claim, new_record
from pipelines.training.registry import new_recipe
from pipelines.training.spec import TrainSpec


@dataclass(frozen=True)
class Place:
    """Which worker this is, of how many, and what it computes on."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this worker writes to the store and tells what happens."""
        return self.rank == 0


def train(
    spec: TrainSpec,
    place: Place | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
) -> Iterator[TrainingEvent]:
    """Train, or go on with what was interrupted; yields what happens.

    Args:
        spec: the job.
        place: this worker's; alone on the CPU unless given.
        should_stop: asked once a step; when it says so, a checkpoint is written and it ends.
        cache: folder of this machine for packed data.

    Raises:
        DataError, SpecError, DiffusionError: nothing was written to the store.
        ChangedRunError: the run directory belongs to another training.
        CheckpointError: the last checkpoint is damaged or of another network.
        TrainingDiverged: the loss is no number any more.
        StoreError: the store refused.
    """
    place = place or Place()
    _require_shares(spec, place)
    if spec.training.tensorboard is not None and place.leads:
        require_tensorboard(spec.training.tensorboard)
    data = yield from _packed(spec, cache)
    yield DataReady(len(data), data.num_bad, tuple(map(str, data.bad)), data.warnings)
    recipe = new_recipe(spec, data, place.device)
    store = Store(spec.url, spec.storage)
    if place.leads:
        claim(store, new_record(spec, data.fingerprint, len(data), recipe.base))
    yield from Training(spec, place, store, data, recipe).run(should_stop)


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
        self, spec: TrainSpec, place: Place, store: Store, data: PackedImages, recipe: Recipe
    ) -> None:
        self.spec, self.place, self.store, self.recipe = spec, place, store, recipe
        options = spec.training
        self.order = Order(spec.seed, len(data), options.train_batch_size)
        trained = {n: p for n, p in recipe.module.named_parameters() if p.requires_grad}
        self.parameters = trained
        self.optimizer = new_optimizer(optimization_of(spec), trained)
        averaged = place.leads and options.ema_decay > 0
        self.ema = Ema(trained.values(), options.ema_decay) if averaged else None
        self.state = TrainingState(trained, self.optimizer, self.ema)
        self.module = _distributed(recipe.module, place)
        self.began = time.monotonic()

    def run(self, should_stop: Callable[[], bool]) -> Iterator[TrainingEvent]:
        """From the last checkpoint to the end."""
        last = self._resume()
        if last:
            yield Resumed(last)
        yield from self.recipe.prepare(self.store, self.place.rank, self.place.world_size)
        self._barrier()
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
        checkpoints.load(self.store, steps[-1], self.state)
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
                terms, norm = self._step(done, batch_of(done))
                done += 1
                means, stop = self._agree(terms, should_stop)
                meter.add(means)
                last = stop or done == options.max_train_steps
                if log is not None and (done % options.logging_steps == 0 or last):
                    metrics = meter.metrics(done, self._rate(done - 1), norm)
                    log.add(metrics)
                    if board is not None:
                        board.add(metrics)
                    yield StepDone(metrics, options.max_train_steps)
                if log is not None and (done % options.checkpointing_steps == 0 or last):
                    yield self._checkpoint(done, log)
                if self._is_sample_step(done):
                    yield from self._samples(done)
        return done

    def _step(self, step: int, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """One update; the loss terms of this worker's share and the gradient's norm."""
        self.recipe.module.train()
        moved = {name: value.to(self.place.device) for name, value in batch.items()}
        torch.manual_seed((self.spec.seed * 1_000_003 + step) * 1_000 + self.place.rank)
        with autocast(self.spec.training.mixed_precision, self.place.device):
            terms: dict[str, Tensor] = self.module(**moved)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        trained = list(self.parameters.values())
        norm = float(nn.utils.clip_grad_norm_(trained, self.spec.training.max_grad_norm))
        if norm != norm or norm == float("inf"):
            # Gradients are the same in all workers, so all of them stop here.
            raise TrainingDiverged(self._diverged(step, float(terms["loss"].detach())))
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("lr_scale", 1.0) * self._rate(step)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(trained)
        return {name: term.detach() for name, term in terms.items()}, norm

    def _diverged(self, step: int, loss: float) -> str:
        steps = steps_of(self.store)
        kept = (
            f"the last good checkpoint is {self.store.url}/{path_of(steps[-1])}"
            if steps
            else "there is no checkpoint yet"
        )
        return (
            f"step {step + 1:,}: the loss is {loss} and its gradient is not finite; {kept}. "
            "A lower training.learning_rate may help; it may change when a training goes on."
        )

    def _agree(
        self, terms: dict[str, Tensor], should_stop: Callable[[], bool]
    ) -> tuple[dict[str, float], bool]:
        """Mean loss terms over all workers, and whether to stop, which the first worker says."""
        stop = self.place.leads and should_stop()
        values = [*(float(term) for term in terms.values()), float(stop)]
        if self.place.world_size > 1:
            shared = torch.tensor(values, dtype=torch.float64, device=self.place.device)
            distributed.all_reduce(shared)
            values = shared.tolist()
            values[:-1] = [value / self.place.world_size for value in values[:-1]]
        return dict(zip(terms, values[:-1], strict=True)), values[-1] > 0

    def _checkpoint(self, step: int, log: MetricsLog) -> TrainingEvent:
        options = self.spec.training
        num_bytes = checkpoints.save(self.store, step, self.state, {"recipe": self._recipe_name})
        checkpoints.prune(self.store, options.checkpoints_total_limit)
        log.flush()
        self.store.put("loss.png", loss_curve(read_metrics(self.store), self.spec.name))
        return CheckpointSaved(step, path_of(step), num_bytes)

    def _board(self, first: int) -> AbstractContextManager[TensorBoard | None]:
        folder = self.spec.training.tensorboard
        if folder is None or not self.place.leads:
            return nullcontext()
        return TensorBoard(str(Path(folder, self.spec.name)), first)

    def _is_sample_step(self, step: int) -> bool:
        every = self.spec.samples.every_steps
        ends = step == self.spec.training.max_train_steps
        return self.place.leads and (ends or (every > 0 and step % every == 0))

    def _samples(self, step: int) -> Iterator[TrainingEvent]:
        with self._averaged():
            pictures, captions = self.recipe.sample()
        path = sheet_path(step)
        title = f"{self.spec.name}, step {step:,}"
        self.store.put(path, sample_sheet(pictures, captions, title))
        yield SamplesWritten(step, path)

    def _finish(self, step: int) -> Iterator[TrainingEvent]:
        """Write the model, unless this very step's is there."""
        if self.place.leads:
            with self._averaged(), quiet(), tempfile.TemporaryDirectory() as scratch:
                self.recipe.save(Path(scratch))
                for path in sorted(Path(scratch).rglob("*")):
                    if path.is_file():
                        name = path.relative_to(scratch).as_posix()
                        self.store.put(f"{MODEL_FOLDER}/{name}", path.read_bytes())
            if sheets_of(self.store):
                self.store.put(f"{SAMPLES_FOLDER}/film.gif", film_strip(self.store))
            yield Finished(step, MODEL_FOLDER)
        self._barrier()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it, the networks have their averaged weights and are in evaluation mode."""
        self.recipe.module.eval()
        own = [parameter.detach().clone() for parameter in self.parameters.values()]
        if self.ema is not None:
            self.ema.copy_to(self.parameters.values())
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters.values(), own, strict=True):
                    parameter.copy_(value)
            self.recipe.module.train()

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

    def _rate(self, step: int) -> float:
        return learning_rate(optimization_of(self.spec), step)

    def _barrier(self) -> None:
        if self.place.world_size > 1:
            distributed.barrier()

    @property
    def _recipe_name(self) -> str:
        return str(self.spec.as_dict()["recipe"])


class Meter:
    """Means over the steps since the last row of metrics."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.began = self.since = time.monotonic()
        self.sums: dict[str, float] = {}
        self.num = 0

    def add(self, terms: Mapping[str, float]) -> None:
        """The terms of one step."""
        self.num += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def metrics(self, step: int, rate: float, norm: float) -> StepMetrics:
        """The row of this step; the sums start anew."""
        now = time.monotonic()
        means = {name: total / self.num for name, total in self.sums.items()}
        loss = means.pop("loss")
        row = StepMetrics(
            step=step,
            num_images=step * self.batch_size,
            loss=loss,
            terms=means,
            learning_rate=rate,
            grad_norm=norm,
            images_per_s=self.num * self.batch_size / max(now - self.since, 1e-9),
            elapsed_s=now - self.began,
            at=datetime.now(UTC),
        )
        self.sums, self.num, self.since = {}, 0, now
        return row


def optimization_of(spec: TrainSpec) -> Optimization:
    """The job's `training` section, as far as the optimizer needs it."""
    options = spec.training
    return Optimization(
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        lr_scheduler=options.lr_scheduler,
        lr_warmup_steps=options.lr_warmup_steps,
        lr_decay_steps=options.lr_decay_steps,
        max_train_steps=options.max_train_steps,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
    )


def autocast(mixed_precision: str, device: str) -> AbstractContextManager[object]:
    """Products in bfloat16, weights in float32; nothing for `no`."""
    if mixed_precision == "no":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def _distributed(module: nn.Module, place: Place) -> nn.Module:
    if place.world_size == 1:
        return module
    # Buffers are either constant or the same by construction; sending them costs a round trip.
    return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


def _require_shares(spec: TrainSpec, place: Place) -> None:
    size = spec.training.train_batch_size
    if size % place.world_size:
        raise SpecError(
            f"training.train_batch_size {size} cannot be shared evenly by {place.world_size} "
            "workers; change it or cluster.workers"
        )

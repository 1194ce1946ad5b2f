"""One training step: forward, backward, gradient clipping, optimizer and moving average."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nightpress.diffusion_core.training import Ema
from nightpress.diffusion_core.training.optimizers import (
    Optimization,
    learning_rate,
    new_optimizer,
    set_learning_rate,
)
from nightpress.diffusion_core.training.randomness import place_seed
from nightpress.pipelines.training.checkpoints import TrainingState
from nightpress.pipelines.training.spec import TrainSpec

DROPOUT_INDEX = 2**31
"""Random stream of dropout: an index larger than that of any item of a batch."""


@dataclass(frozen=True)
class WorkerRank:
    """The rank of this worker, the number of workers, and this worker's device."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this worker writes to the store and reports events."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every worker has reached this point."""
        if self.world_size > 1:
            distributed.barrier()


@dataclass(frozen=True)
class StepResult:
    """Loss and gradient norm of a step."""

    terms: Mapping[str, float]
    """Loss terms averaged over this worker's share; `loss` is the one that is minimized."""
    grad_norm: float
    """Before clipping, over all workers."""

    @property
    def is_finite(self) -> bool:
        """Whether the weights were updated: a gradient that is not finite is discarded."""
        return isfinite(self.grad_norm)


class Stepper:
    """Updates the trained parameters of a module, on one worker.

    Raises:
        SpecError: the workers cannot split the batch evenly.
    """

    def __init__(self, spec: TrainSpec, worker: WorkerRank, module: nn.Module) -> None:
        spec.require_even_shares(worker.world_size)
        options = spec.training
        self.spec, self.worker, self.module = spec, worker, module
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimization = optimization_of(spec)
        self.optimizer = new_optimizer(self.optimization, self.parameters)
        keeps_average = worker.is_main and options.ema_decay > 0
        self.ema = Ema(self.parameters.values(), options.ema_decay) if keeps_average else None
        self.state = TrainingState(self.parameters, self.optimizer, self.ema)
        self.parallel_module = _data_parallel(module, worker)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate(self.optimization, step)

    def step(self, step: int, batch: Mapping[str, Tensor]) -> StepResult:
        """Update the parameters with this worker's share of a batch."""
        self.module.train()
        # Dropout depends on the step and the rank alone, so that a resumed run repeats it.
        torch.manual_seed(place_seed(self.spec.seed, step, DROPOUT_INDEX - self.worker.rank))
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._accumulate_gradients(batch)
        trained = list(self.parameters.values())
        norm = float(nn.utils.clip_grad_norm_(trained, self.spec.training.max_grad_norm))
        result = StepResult(terms, norm)
        if result.is_finite:
            set_learning_rate(self.optimizer, self.optimization, step)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(trained)
        return result

    def _accumulate_gradients(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Run forward and backward part by part; return the mean loss terms."""
        num_parts = self.spec.training.gradient_accumulation_steps
        means: dict[str, float] = {}
        for number, part in enumerate(_parts(batch, num_parts), start=1):
            inputs = {name: value.to(self.worker.device) for name, value in part.items()}
            with self._gradient_sync(is_last=number == num_parts):
                with autocast(self.spec.training.mixed_precision, self.worker.device):
                    terms: dict[str, Tensor] = self.parallel_module(**inputs)
                (terms["loss"] / num_parts).backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                means[name] = means.get(name, 0.0) + float(term.detach()) / num_parts
        return means

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[None]:
        """Let the workers exchange gradients once per step, after the last part."""
        if is_last or not isinstance(self.parallel_module, DistributedDataParallel):
            return nullcontext()
        no_sync: AbstractContextManager[None] = self.parallel_module.no_sync()
        return no_sync

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Switch to evaluation mode and, if there is one, to the moving average of the weights."""
        self.module.eval()
        current = [parameter.detach().clone() for parameter in self.parameters.values()]
        if self.ema is not None:
            self.ema.copy_to(self.parameters.values())
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters.values(), current, strict=True):
                    parameter.copy_(value)
            self.module.train()


def optimization_of(spec: TrainSpec) -> Optimization:
    """Extract the optimizer's settings from the job's `training` section."""
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
    """Compute in bfloat16 with float32 weights; `no` changes nothing."""
    if mixed_precision == "no":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def _parts(batch: Mapping[str, Tensor], num: int) -> Iterator[dict[str, Tensor]]:
    size = len(next(iter(batch.values()))) // num
    for start in range(0, size * num, size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def _data_parallel(module: nn.Module, worker: WorkerRank) -> nn.Module:
    if worker.world_size == 1:
        return module
    # Buffers are the same on all workers, so broadcasting them would waste a round trip.
    return DistributedDataParallel(module, broadcast_buffers=False)

"""One step of a training: forward, backward, clip, update, average.

Owns the trained parameters, their optimizer and their moving average, in one worker. Knows nothing
of stores, data sets or the order of things.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nightpress.diffusion_core.training import Ema
from nightpress.diffusion_core.training.optimizers import Optimization, learning_rate, new_optimizer
from nightpress.diffusion_core.training.randomness import place_seed
from nightpress.pipelines.training.checkpoints import TrainingState
from nightpress.pipelines.training.spec import TrainSpec

DROPOUT_PLACE = 2**31
"""Beyond the samples of any batch."""


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

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.world_size > 1:
            distributed.barrier()


@dataclass(frozen=True)
class StepResult:
    """What came of a step."""

    terms: Mapping[str, float]
    """Means over this worker's share; `loss` is what was minimised."""
    grad_norm: float
    """Before clipping, over all workers."""

    @property
    def is_finite(self) -> bool:
        """Whether the weights were changed: gradients that are no numbers change nothing."""
        return isfinite(self.grad_norm)


class Stepper:
    """The trained parameters of a module and what moves them.

    Raises:
        SpecError: the batch cannot be shared evenly.
    """

    def __init__(self, spec: TrainSpec, place: Place, module: nn.Module) -> None:
        spec.require_even_shares(place.world_size)
        options = spec.training
        self.spec, self.place, self.own = spec, place, module
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimization = optimization_of(spec)
        self.optimizer = new_optimizer(self.optimization, self.parameters)
        averaged = place.leads and options.ema_decay > 0
        self.ema = Ema(self.parameters.values(), options.ema_decay) if averaged else None
        self.state = TrainingState(self.parameters, self.optimizer, self.ema)
        self.module = _distributed(module, place)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate(self.optimization, step)

    def step(self, step: int, batch: Mapping[str, Tensor]) -> StepResult:
        """One update from this worker's share of a batch."""
        self.own.train()
        # Dropout, where there is any, is the step's own too.
        torch.manual_seed(place_seed(self.spec.seed, step, DROPOUT_PLACE - self.place.rank))
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._gradients(batch)
        trained = list(self.parameters.values())
        norm = float(nn.utils.clip_grad_norm_(trained, self.spec.training.max_grad_norm))
        result = StepResult(terms, norm)
        if result.is_finite:
            for group in self.optimizer.param_groups:
                group["lr"] = group.get("lr_scale", 1.0) * self.rate(step)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(trained)
        return result

    def _gradients(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Forward and backward, part by part; returns the mean loss terms."""
        num_parts = self.spec.training.gradient_accumulation_steps
        means: dict[str, float] = {}
        for number, part in enumerate(_parts(batch, num_parts), start=1):
            moved = {name: value.to(self.place.device) for name, value in part.items()}
            with self._synchronised(number == num_parts):
                with autocast(self.spec.training.mixed_precision, self.place.device):
                    terms: dict[str, Tensor] = self.module(**moved)
                (terms["loss"] / num_parts).backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                means[name] = means.get(name, 0.0) + float(term.detach()) / num_parts
        return means

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Workers exchange gradients once a step, after its last part."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        waiting: AbstractContextManager[None] = self.module.no_sync()
        return waiting

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the networks have their averaged weights and are in evaluation mode."""
        self.own.eval()
        own = [parameter.detach().clone() for parameter in self.parameters.values()]
        if self.ema is not None:
            self.ema.copy_to(self.parameters.values())
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters.values(), own, strict=True):
                    parameter.copy_(value)
            self.own.train()


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


def _parts(batch: Mapping[str, Tensor], num: int) -> Iterator[dict[str, Tensor]]:
    size = len(next(iter(batch.values()))) // num
    for start in range(0, size * num, size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def _distributed(module: nn.Module, place: Place) -> nn.Module:
    if place.world_size == 1:
        return module
    # Buffers are either constant or the same by construction; sending them costs a round trip.
    return DistributedDataParallel(module, broadcast_buffers=False)

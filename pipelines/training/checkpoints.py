"""Checkpoints of a training run: one safetensors object each, create-only, found by listing.

Owns how weights, averages and optimizer state become one flat set of tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nightpress.diffusion_core.training import Ema
from nightpress.pipelines.errors import CheckpointError
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.layout import path_of, steps_of


@dataclass
class TrainingState:
    """What a checkpoint holds: trained weights by name, their average, the optimizer's tensors."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: Ema | None

    def tensors(self) -> dict[str, Tensor]:
        """Everything as a flat mapping of tensors on the CPU."""
        names = list(self.parameters)
        found: dict[str, Tensor] = {f"model.{n}": p for n, p in self.parameters.items()}
        if self.ema is not None:
            averages = zip(names, self.ema.shadow, strict=True)
            found |= {f"ema.{name}": average for name, average in averages}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        return {key: value.detach().cpu().contiguous() for key, value in found.items()}

    def load(self, tensors: Mapping[str, Tensor], step: int, path: str) -> None:
        """Put back what `tensors()` gave.

        Raises:
            CheckpointError: it is of another network or optimizer; nothing was changed.
        """
        self._require_fit(tensors, path)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
        if self.ema is not None:
            self.ema.shadow = [
                _as_laid_out(tensors[f"ema.{name}"], parameter)
                for name, parameter in self.parameters.items()
            ]
            self.ema.num_updates = step
        self._load_optimizer(tensors)

    def _require_fit(self, tensors: Mapping[str, Tensor], path: str) -> None:
        kinds = ["model"] if self.ema is None else ["model", "ema"]
        for name, parameter in self.parameters.items():
            for kind in kinds:
                found = tensors.get(f"{kind}.{name}")
                if found is None:
                    raise CheckpointError(f"{path}: of another model: no {kind}.{name} in it")
                if found.shape != parameter.shape:
                    raise CheckpointError(
                        f"{path}: of another model: {kind}.{name} is {tuple(found.shape)} and "
                        f"should be {tuple(parameter.shape)}"
                    )
        known = {f"model.{name}" for name in self.parameters}
        unknown = [key for key in tensors if key.startswith("model.") and key not in known]
        if unknown:
            raise CheckpointError(f"{path}: of another model: it holds {unknown[0]}, unknown here")

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        by_name: dict[str, dict[str, Tensor]] = {name: {} for name in self.parameters}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, kind, name = key.split(".", 2)
                by_name[name][kind] = value
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True)
                if key == "step"
                else _as_laid_out(value, parameter)
                for key, value in by_name[name].items()
            }


def _as_laid_out(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy in the parameter's memory format, which fused optimizers take for granted."""
    return torch.empty_like(parameter).copy_(value).detach()


def save(store: Store, step: int, state: TrainingState, metadata: Mapping[str, str]) -> int:
    """Write the checkpoint of a step, whole or not at all; returns its bytes."""
    data = safetensors.torch.save(state.tensors(), {**metadata, "step": str(step)})
    if not store.create(path_of(step), data):
        raise CheckpointError(
            f"{store.url}/{path_of(step)}: written meanwhile by another process; "
            "a training must not be started twice at a time"
        )
    return len(data)


def load(store: Store, step: int, state: TrainingState) -> None:
    """Go back to the checkpoint of a step.

    Raises:
        CheckpointError: it is damaged, or of another network.
    """
    path = f"{store.url}/{path_of(step)}"
    try:
        tensors = safetensors.torch.load(store.read(path_of(step)))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    state.load(tensors, step, path)


def prune(store: Store, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`."""
    for step in steps_of(store)[:-keep]:
        store.delete(path_of(step))

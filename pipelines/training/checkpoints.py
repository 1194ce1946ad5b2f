"""Checkpoints of a training run: weights, averages and optimizer state in one safetensors file.

Checkpoints are created once and never overwritten; they are found by listing their folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nightpress.diffusion_core.training import Ema
from nightpress.diffusion_core.training.muon import Muon
from nightpress.pipelines.errors import CheckpointError, DamagedCheckpoint
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.layout import (
    checkpoint_path,
    checkpoint_steps,
    damaged_checkpoint_path,
)


@dataclass
class TrainingState:
    """The contents of a checkpoint: trained weights by name, their average and the optimizer."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: Ema | None

    def tensors(self) -> dict[str, Tensor]:
        """The state as a flat mapping of tensors on the CPU."""
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
        """Restore the state from the result of `tensors()`.

        Raises:
            CheckpointError: the checkpoint belongs to another network; nothing was changed.
        """
        self._require_same_network(tensors, path)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
        if self.ema is not None:
            self.ema.shadow = [
                _in_layout_of(tensors[f"ema.{name}"], parameter)
                for name, parameter in self.parameters.items()
            ]
            self.ema.num_updates = step
        self._load_optimizer(tensors)

    def _require_same_network(self, tensors: Mapping[str, Tensor], path: str) -> None:
        kinds = ["model"] if self.ema is None else ["model", "ema"]
        for name, parameter in self.parameters.items():
            for kind in kinds:
                found = tensors.get(f"{kind}.{name}")
                if found is None:
                    raise CheckpointError(
                        f"{path}: checkpoint of another model: it has no {kind}.{name}"
                    )
                if found.shape != parameter.shape:
                    raise CheckpointError(
                        f"{path}: checkpoint of another model: {kind}.{name} has shape "
                        f"{tuple(found.shape)} instead of {tuple(parameter.shape)}"
                    )
        known = {f"model.{name}" for name in self.parameters}
        unknown = [key for key in tensors if key.startswith("model.") and key not in known]
        if unknown:
            raise CheckpointError(
                f"{path}: checkpoint of another model: this model has no {unknown[0]}"
            )

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
                else _in_layout_of(value, parameter)
                for key, value in by_name[name].items()
            }
        if isinstance(self.optimizer, Muon):
            self.optimizer.follow_state()


def _in_layout_of(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Copy into the parameter's memory format, which fused optimizers require."""
    return torch.empty_like(parameter).copy_(value).detach()


def save(store: Store, step: int, state: TrainingState, metadata: Mapping[str, str]) -> int:
    """Write the checkpoint of a step atomically; return its size in bytes.

    Raises:
        CheckpointError: another process has written a checkpoint of this step.
    """
    data = safetensors.torch.save(state.tensors(), {**metadata, "step": str(step)})
    if not store.create(checkpoint_path(step), data):
        raise CheckpointError(
            f"{store.url}/{checkpoint_path(step)}: already written by another process; "
            "do not start the same training run twice"
        )
    return len(data)


def load(store: Store, step: int, state: TrainingState) -> None:
    """Restore the state from the checkpoint of a step.

    Raises:
        DamagedCheckpoint: the file is not whole.
        CheckpointError: the checkpoint belongs to another network.
    """
    path = f"{store.url}/{checkpoint_path(step)}"
    try:
        tensors = safetensors.torch.load(store.read(checkpoint_path(step)))
    except safetensors.SafetensorError as error:
        raise DamagedCheckpoint(f"{path}: damaged: {error}") from error
    state.load(tensors, step, path)


def load_newest(store: Store, state: TrainingState) -> tuple[int, tuple[int, ...]]:
    """Restore the state from the newest checkpoint that is whole.

    Returns:
        Its step, 0 if there is no checkpoint; and the steps of newer ones that are damaged.

    Raises:
        CheckpointError: all of them are damaged, or one belongs to another network.
    """
    faults: dict[int, DamagedCheckpoint] = {}
    for step in reversed(checkpoint_steps(store)):
        try:
            load(store, step, state)
        except DamagedCheckpoint as error:
            faults[step] = error
        else:
            return step, tuple(faults)
    if faults:
        newest = next(iter(faults.values()))
        raise CheckpointError(f"{newest}; no other checkpoint is whole") from newest
    return 0, ()


def set_aside(store: Store, steps: Sequence[int]) -> None:
    """Move damaged checkpoints to names from which no training resumes."""
    for step in steps:
        store.put(damaged_checkpoint_path(step), store.read(checkpoint_path(step)))
        store.delete(checkpoint_path(step))


def prune(store: Store, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for step in checkpoint_steps(store)[:-keep]:
        store.delete(checkpoint_path(step))

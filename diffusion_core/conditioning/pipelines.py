"""The pipelines that sample the modes of a loaded model, all over the same components."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from nightpress.diffusion_core.acceleration.apply import unsupported_by
from nightpress.diffusion_core.conditioning import controls
from nightpress.diffusion_core.conditioning.network_configs import add_missing_values
from nightpress.diffusion_core.errors import SettingsError, as_model_error
from nightpress.diffusion_core.models import modes
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.pipeline_folder import fixed_arguments
from nightpress.diffusion_core.models.placement import remember_device


class ModePipelines:
    """Makes the pipeline of each mode when it is first asked for; they share their networks."""

    def __init__(self, model: LoadedModel) -> None:
        self._base = model.pipeline
        self._speed = model.speed
        self._controlnets, self._memory = model.controlnets, model.memory
        remember_device(self._base, self._memory)
        self._made: dict[tuple[str, ...], Any] = {(type(model.pipeline).__name__,): model.pipeline}

    def pipeline_for(self, mode: str, control_names: Sequence[str] = ()) -> Any:
        """The pipeline that samples a mode with some of the model's ControlNets.

        Raises:
            SettingsError: the model does not have the mode, or not with its `model.speed`.
        """
        base = type(self._base).__name__
        key = self._key(mode, control_names)
        name = key[0]
        if key not in self._made:
            used = controls.used_by(self._controlnets, control_names)
            added = {"controlnet": controls.component(base, used)} if used else {}
            self._made[key] = self._make(name, added)
        pipeline = self._made[key]
        choice = None if name == base else unsupported_by(type(pipeline), self._speed)
        if choice is not None:
            raise SettingsError(
                f"mode {mode!r}: {name} does not support {choice} of model.speed in diffusers"
            )
        return pipeline

    def if_made(self, mode: str, control_names: Sequence[str]) -> Any | None:
        """The pipeline of a mode and ControlNets if it was made already; for any thread.

        Raises:
            SettingsError: the model does not have the mode.
        """
        return self._made.get(self._key(mode, control_names))

    def _key(self, mode: str, control_names: Sequence[str]) -> tuple[str, ...]:
        """The name of the class that makes images so, and those of the ControlNets."""
        base = type(self._base).__name__
        try:
            name = modes.class_for(base, mode)
        except KeyError:
            allowed = ", ".join(modes.modes_of(base))
            raise SettingsError(f"mode {mode!r}: {base} has the modes {allowed}") from None
        used = controls.used_by(self._controlnets, control_names)
        return controls.class_name(name, used), *control_names

    def _make(self, name: str, added: Mapping[str, Any]) -> Any:
        """A pipeline over the base pipeline's own components, which keep their type and device.

        `DiffusionPipeline.from_pipe` would convert shared weights to float32.
        """
        import diffusers

        pipeline_class = getattr(diffusers, name)
        accepted = inspect.signature(pipeline_class.__init__).parameters
        values = {
            **self._base.config,
            **self._base.components,
            **fixed_arguments(pipeline_class),
            **added,
        }
        if hasattr(self._base, "pag_applied_layers"):
            values["pag_applied_layers"] = self._base.pag_applied_layers
        with as_model_error(f"cannot make {name}"):
            made = pipeline_class(**{k: v for k, v in values.items() if k in accepted})
        add_missing_values(made)
        made.set_progress_bar_config(disable=True)
        remember_device(made, self._memory, like=self._base)
        return made

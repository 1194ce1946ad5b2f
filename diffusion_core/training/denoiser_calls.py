"""Record the arguments that a pipeline passes to its denoiser.

Each family conditions its denoiser differently: pooled embeddings, sizes, positions, masks,
guidance. Training needs the same arguments, so the pipeline itself is run up to its denoiser and
the arguments are recorded there. Several recorded calls show which arguments depend on the prompt,
how the timestep is scaled, and which sign the output has.

Read against diffusers 0.42.1 and torch 2.13.0. Relies on `nn.Module` to call `self.forward`, and on
the pipeline to use `self.scheduler`, to call its `set_timesteps`, `scale_model_input` (if any) and
`step`, to pass the denoiser the latents as the first argument and a `timestep` or `timesteps`, and
to pass the denoiser's output, or its negative, to `step`. A pipeline that does otherwise raises
`UnsupportedModel`.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models import family_rules, pipeline_folder
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.patching import shadowed
from nightpress.diffusion_core.sampling import schedulers

PROBE_PROMPTS = ("a", "b c")
PROBE_FRACTIONS = (0.25, 0.75)
"""Fractions of the process at which calls are recorded."""

Arguments = dict[str, Any]
"""Arguments of the denoiser's `forward`; entries of a mapping are named `outer/inner`."""


@dataclass(frozen=True)
class CallTemplate:
    """How a pipeline calls its denoiser, for any prompt."""

    sample: str
    """Name of the argument with the noisy latents."""
    time: str
    """Name of the argument with the timestep."""
    time_scale: float
    time_shift: float
    """The denoiser's timestep input is `time_scale * timestep + time_shift`."""
    time_dtype: torch.dtype
    sign: int
    """The scheduler's input divided by the denoiser's output: 1 or -1."""
    sample_shape: tuple[int, ...]
    """Shape of one image's latents in the denoiser's layout."""
    shared: Arguments
    """Arguments that are the same for every prompt and batch size."""
    per_prompt: tuple[str, ...]
    """Names of the arguments with one row per prompt."""

    def times(self, timesteps: Tensor) -> Tensor:
        """The denoiser's timestep input (B,) at the scheduler's `timesteps` (B,)."""
        return (timesteps.double() * self.time_scale + self.time_shift).to(self.time_dtype)

    def arguments(self, x_t: Tensor, timesteps: Tensor, prompts: Mapping[str, Tensor]) -> Arguments:
        """The denoiser's arguments for noisy latents (B, ...) and the recorded prompts."""
        flat = {**self.shared, **prompts, self.sample: x_t, self.time: self.times(timesteps)}
        return _nested(flat)


class CallRecorder:
    """Records the denoiser calls of one pipeline at one image size.

    Args:
        model: its pipeline is run; the pipeline's scheduler is restored afterwards.
        part: the pipeline's name for its denoiser.
        height, width: of the images, in pixels.
        guidance_scale: input of denoisers that take one; at 1 the others are called once, without
            guidance.
    """

    def __init__(
        self, model: LoadedModel, part: str, height: int, width: int, guidance_scale: float = 1.0
    ) -> None:
        self._model = model
        self._pipeline = model.pipeline
        self._denoiser: nn.Module = getattr(model.pipeline, part)
        self._size = {"height": height, "width": width}
        self._guidance_scale = guidance_scale
        self._num_steps = int(model.scheduler_config.get("num_train_timesteps", 1000))

    def prompt(self, prompt: str, names: Sequence[str]) -> dict[str, Tensor]:
        """The arguments `names` for one prompt, (1, ...), in CPU memory."""
        flat = _flat(self._arguments([prompt], self._num_steps // 2))
        return {name: flat[name].detach().cpu().clone() for name in names}

    def template(self) -> CallTemplate:
        """How the pipeline calls its denoiser.

        Raises:
            UnsupportedModel: in a way that training cannot reproduce.
        """
        early, late = (int(self._num_steps * fraction) for fraction in PROBE_FRACTIONS)
        first = _flat(self._arguments([PROBE_PROMPTS[0]], early))
        later = _flat(self._arguments([PROBE_PROMPTS[0]], late))
        both = _flat(self._arguments(list(PROBE_PROMPTS), early))
        sample, time = self._sample_and_time_names(first)
        others = [name for name in first if name not in (sample, time)]
        if changing := [n for n in others if not _equal(first[n], later[n])]:
            raise self._unsupported(f"passes another {changing[0]} at another timestep")
        per_prompt = tuple(n for n in others if _rows(both[n]) == 2 and _rows(first[n]) == 1)
        scale, shift = self._time_map((early, first[time]), (late, later[time]))
        return CallTemplate(
            sample=sample,
            time=time,
            time_scale=scale,
            time_shift=shift,
            time_dtype=first[time].dtype,
            sign=self._sign(early),
            sample_shape=tuple(first[sample].shape[1:]),
            shared={name: first[name] for name in others if name not in per_prompt},
            per_prompt=per_prompt,
        )

    def _sample_and_time_names(self, arguments: Arguments) -> tuple[str, str]:
        """The names of the arguments with the latents and the timestep."""
        names = list(inspect.signature(self._denoiser.forward).parameters)
        sample, time = names[0], next((n for n in names if n in ("timestep", "timesteps")), "")
        if not all(isinstance(arguments.get(name), Tensor) for name in (sample, time)):
            raise self._unsupported("does not pass the latents and the timestep as tensors")
        return sample, time

    def _time_map(self, early: tuple[int, Tensor], late: tuple[int, Tensor]) -> tuple[float, float]:
        """Scale and shift of the line through two points; rounded, as half precision is inexact."""
        inputs = [float(value.reshape(-1)[0]) for _, value in (early, late)]
        scale = (inputs[1] - inputs[0]) / (late[0] - early[0])
        whole = round(scale * self._num_steps)
        shift = round(inputs[0] - whole / self._num_steps * early[0])
        if abs(scale * self._num_steps - whole) > 0.02 * max(1, abs(whole)) or not whole:
            raise self._unsupported("does not pass the timestep scaled by a constant factor")
        return whole / self._num_steps, float(shift)

    def _sign(self, timestep: int) -> int:
        """1 if the scheduler gets the denoiser's output, -1 if it gets its negative."""
        outputs: list[Tensor] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            outputs.append(output[0])
            return output

        forward = self._denoiser.forward
        with shadowed(self._denoiser, "forward", watched):
            step = self._run_until("step", [PROBE_PROMPTS[0]], timestep)
        passed = (*step.args, *step.kwargs.values())[0]
        output = (
            outputs[0][:, : passed.shape[1]] if outputs[0].shape != passed.shape else outputs[0]
        )
        for sign in (1, -1):
            if passed.shape == output.shape and torch.equal(passed.float(), sign * output.float()):
                return sign
        raise self._unsupported("passes the scheduler something else than the denoiser's output")

    def _arguments(self, prompts: list[str], timestep: int) -> Arguments:
        """The denoiser's arguments at a timestep of the scheduler."""
        call = self._run_until("forward", prompts, timestep)
        bound = inspect.signature(self._denoiser.forward).bind(*call.args, **call.kwargs)
        return dict(bound.arguments)

    def _run_until(self, method: str, prompts: list[str], timestep: int) -> "_MethodCalled":
        """Run the pipeline until it calls the denoiser's `forward` or the scheduler's `step`."""
        scheduler = schedulers.make("default", self._model.scheduler_config)
        owner = self._denoiser if method == "forward" else scheduler

        def stop(*args: Any, **kwargs: Any) -> Any:
            raise _MethodCalled(args, kwargs)

        before = self._pipeline.scheduler
        self._pipeline.scheduler = scheduler
        try:
            with _fixed_time(scheduler, timestep), shadowed(owner, method, stop):
                self._pipeline(**self._settings(prompts))
        except _MethodCalled as call:
            return call
        finally:
            self._pipeline.scheduler = before
        raise self._unsupported(f"never calls {method} of its {type(owner).__name__}")

    def _settings(self, prompts: list[str]) -> dict[str, Any]:
        settings = {
            **self._size,
            "prompt": prompts,
            "num_inference_steps": 1,
            # Some classes guide above 0: there 1 would call the denoiser with twice the images.
            "guidance_scale": self._guidance_scale if self._model.guidance.off_at else 0.0,
            "generator": [torch.Generator("cpu").manual_seed(0) for _ in prompts],
            "output_type": "latent",
            **family_rules.FIXED_ARGUMENTS,
        }
        takes = pipeline_folder.call_parameters(type(self._pipeline))
        return {name: value for name, value in settings.items() if name in takes}

    def _unsupported(self, what: str) -> UnsupportedModel:
        pipeline, denoiser = type(self._pipeline).__name__, type(self._denoiser).__name__
        return UnsupportedModel(f"{pipeline} with {denoiser} cannot be trained: it {what}")


class _MethodCalled(Exception):
    """Stops a pipeline at the watched method, and carries the arguments of the call."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__("the watched method was called")
        self.args, self.kwargs = args, kwargs


@contextlib.contextmanager
def _fixed_time(scheduler: Any, timestep: int) -> Iterator[None]:
    """Make a scheduler place all steps at one timestep and leave latents unscaled."""
    set_timesteps = scheduler.set_timesteps

    def at_one_time(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.timesteps = torch.full_like(scheduler.timesteps, timestep)

    # Pipelines inspect the signature to learn which arguments the scheduler takes.
    at_one_time.__signature__ = inspect.signature(set_timesteps)  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        stack.enter_context(shadowed(scheduler, "set_timesteps", at_one_time))
        if hasattr(scheduler, "scale_model_input"):
            stack.enter_context(
                shadowed(scheduler, "scale_model_input", lambda sample, *_, **__: sample)
            )
        yield


def _flat(arguments: Arguments) -> Arguments:
    flat: Arguments = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}/{inner}": element for inner, element in value.items()}
        else:
            flat[name] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> Arguments:
    arguments: Arguments = {}
    for name, value in flat.items():
        outer, _, inner = name.partition("/")
        if inner:
            arguments.setdefault(outer, {})[inner] = value
        else:
            arguments[outer] = value
    return arguments


def _rows(value: Any) -> int | None:
    return int(value.shape[0]) if isinstance(value, Tensor) and value.ndim else None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return type(one) is type(other) and (isinstance(one, Tensor) or one == other)

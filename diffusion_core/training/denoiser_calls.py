"""What a pipeline hands to its denoiser, seen by watching the pipeline itself.

Every family conditions its denoiser in another way: pooled embeddings, sizes, positions, masks,
guidance. Training needs the same arguments, so the pipeline's own call is driven up to its denoiser
and what arrives there is kept. Owns that watching, and what follows from it: which arguments
belong to a prompt and which to the size, how times are told, and the answer's sign. Knows nothing
of losses, latents or adapters.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.patching import shadowed
from nightpress.diffusion_core.sampling import schedulers

PROBES = ("a", "b c")
TIMES = (0.25, 0.75)
"""Fractions of the process at which a pipeline is watched."""

Arguments = dict[str, Any]
"""Of the denoiser's `forward`; what is inside a mapping is called `outer/inner`."""


@dataclass(frozen=True)
class Calling:
    """How the pipeline calls its denoiser, whatever the prompt."""

    sample: str
    """The argument that carries the noisy latents."""
    time: str
    """The argument that carries the time."""
    time_scale: float
    time_shift: float
    """The denoiser is told `time_scale * timestep + time_shift`."""
    time_dtype: torch.dtype
    sign: int
    """What the scheduler gets, divided by what the denoiser answers: 1 or -1."""
    shape: tuple[int, ...]
    """Of one sample's latents as the denoiser takes them."""
    latents: tuple[int, ...]
    """Of one sample's latents as the pipeline was given them."""
    shared: Arguments
    """Arguments that are the same for every prompt and any batch."""
    per_prompt: tuple[str, ...]
    """Names of those with one row for each prompt."""

    def times(self, timesteps: Tensor) -> Tensor:
        """(B,) what the denoiser is told at the scheduler's `timesteps` (B,)."""
        return (timesteps.double() * self.time_scale + self.time_shift).to(self.time_dtype)

    def arguments(self, x_t: Tensor, timesteps: Tensor, prompts: Mapping[str, Tensor]) -> Arguments:
        """The denoiser's arguments for noisy latents (B, ...) of these prompts."""
        flat = {**self.shared, **prompts, self.sample: x_t, self.time: self.times(timesteps)}
        return _nested(flat)


class Recorder:
    """Watches the calls of one pipeline at one size.

    Args:
        model: whose pipeline is watched; its scheduler is put back afterwards.
        part: what the pipeline calls its denoiser.
        height, width: of the pictures, in pixels.
        guidance_scale: told to denoisers that take one; at 1 the others are called once, unguided.
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

    def calling(self) -> Calling:
        """How the pipeline calls its denoiser.

        Raises:
            UnsupportedModel: in a way that training cannot repeat.
        """
        early, late = (int(self._num_steps * fraction) for fraction in TIMES)
        names = list(inspect.signature(self._denoiser.forward).parameters)
        one = _flat(self._arguments([PROBES[0]], early))
        later = _flat(self._arguments([PROBES[0]], late))
        two = _flat(self._arguments(list(PROBES), early))
        sample, time = names[0], next((n for n in names if n in ("timestep", "timesteps")), "")
        if not isinstance(one.get(sample), Tensor) or not isinstance(one.get(time), Tensor):
            raise self._unsupported("does not hand tensors of latents and times to it")
        conditions = [name for name in one if name not in (sample, time)]
        if changing := [n for n in conditions if not _equal(one[n], later[n])]:
            raise self._unsupported(f"hands it another {changing[0]} at another time")
        per_prompt = tuple(n for n in conditions if _rows(two[n]) == 2 and _rows(one[n]) == 1)
        scale, shift = self._time_map((early, one[time]), (late, later[time]))
        return Calling(
            sample=sample,
            time=time,
            time_scale=scale,
            time_shift=shift,
            time_dtype=one[time].dtype,
            sign=self._sign(early),
            shape=tuple(one[sample].shape[1:]),
            latents=self._latents_shape(early),
            shared={name: one[name] for name in conditions if name not in per_prompt},
            per_prompt=per_prompt,
        )

    def _time_map(self, early: tuple[int, Tensor], late: tuple[int, Tensor]) -> tuple[float, float]:
        """The straight line through two points; rounded, because half precision is not exact."""
        told = [float(value.reshape(-1)[0]) for _, value in (early, late)]
        scale = (told[1] - told[0]) / (late[0] - early[0])
        whole = round(scale * self._num_steps)
        shift = round(told[0] - whole / self._num_steps * early[0])
        if abs(scale * self._num_steps - whole) > 0.02 * max(1, abs(whole)) or not whole:
            raise self._unsupported("tells it the time in a way that is no multiple of it")
        return whole / self._num_steps, float(shift)

    def _sign(self, timestep: int) -> int:
        """Whether the scheduler gets the denoiser's answer as it is, or its negative."""
        answers: list[Tensor] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            answers.append(output[0])
            return output

        forward = self._denoiser.forward
        with shadowed(self._denoiser, "forward", watched):
            stepped = self._until("step", [PROBES[0]], timestep)
        given = (*stepped.args, *stepped.kwargs.values())[0]
        answer = answers[0][:, : given.shape[1]] if answers[0].shape != given.shape else answers[0]
        for sign in (1, -1):
            if given.shape == answer.shape and torch.equal(given.float(), sign * answer.float()):
                return sign
        raise self._unsupported("hands something else than its answer to the scheduler")

    def _latents_shape(self, timestep: int) -> tuple[int, ...]:
        found: list[Tensor] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            latents = prepare(*args, **kwargs)
            found.append(latents[0] if isinstance(latents, tuple) else latents)
            return latents

        prepare = self._pipeline.prepare_latents
        with shadowed(self._pipeline, "prepare_latents", watched):
            self._arguments([PROBES[0]], timestep)
        return tuple(found[0].shape[1:])

    def _arguments(self, prompts: list[str], timestep: int) -> Arguments:
        """What the denoiser is called with at a timestep of the scheduler."""
        call = self._until("forward", prompts, timestep)
        bound = inspect.signature(self._denoiser.forward).bind(*call.args, **call.kwargs)
        return dict(bound.arguments)

    def _until(self, method: str, prompts: list[str], timestep: int) -> "_Reached":
        """Drive the pipeline to its denoiser's `forward` or its scheduler's `step`, and stop."""
        scheduler = schedulers.make("default", self._model.scheduler_config)
        owner = self._denoiser if method == "forward" else scheduler

        def reached(*args: Any, **kwargs: Any) -> Any:
            raise _Reached(args, kwargs)

        kept = self._pipeline.scheduler
        self._pipeline.scheduler = scheduler
        try:
            with _fixed_time(scheduler, timestep), shadowed(owner, method, reached):
                self._pipeline(**self._settings(prompts))
        except _Reached as call:
            return call
        finally:
            self._pipeline.scheduler = kept
        raise self._unsupported("never calls it")

    def _settings(self, prompts: list[str]) -> dict[str, Any]:
        settings = {
            **self._size,
            "prompt": prompts,
            "num_inference_steps": 1,
            "guidance_scale": self._guidance_scale,
            "generator": [torch.Generator("cpu").manual_seed(0) for _ in prompts],
            "output_type": "latent",
            "use_resolution_binning": False,
            "clean_caption": False,
        }
        takes = pipeline_folder.call_parameters(type(self._pipeline))
        return {name: value for name, value in settings.items() if name in takes}

    def _unsupported(self, what: str) -> UnsupportedModel:
        pipeline, denoiser = type(self._pipeline).__name__, type(self._denoiser).__name__
        return UnsupportedModel(f"{pipeline} cannot be trained: {what} ({denoiser})")


class _Reached(Exception):
    """The pipeline has come to the method that is watched, and need not go on."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__("the watched method was called")
        self.args, self.kwargs = args, kwargs


@contextlib.contextmanager
def _fixed_time(scheduler: Any, timestep: int) -> Iterator[None]:
    """A scheduler whose steps all lie at one timestep, and which leaves latents as they are."""
    set_timesteps = scheduler.set_timesteps

    def at_one_time(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.timesteps = torch.full_like(scheduler.timesteps, timestep)

    # Pipelines look at the signature to learn what the scheduler takes.
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
            flat |= {f"{name}/{inner}": held for inner, held in value.items()}
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

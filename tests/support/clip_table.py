"""Measures each class of diffusers that makes clips with a tiny model, for the README's table.

python tests/support/clip_table.py            prints the table
python tests/support/clip_table.py --write    replaces the one in diffusion_core/README.md
"""

import inspect
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support import tiny_families
from support.tiny_clips import CLIP_MAKERS

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.errors import DiffusionError
from nightpress.diffusion_core.models import family_rules
from nightpress.diffusion_core.models.clip_rules import REFUSED_CLIPS
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.modes import class_for
from nightpress.diffusion_core.models.pipeline_folder import call_parameters
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.clips import samples_alone
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

README = Path(__file__).parents[2] / "diffusion_core" / "README.md"
START, END = "<!-- clips -->", "<!-- /clips -->"
HEAD = (
    "| class | frames | guidance acts | negative prompt acts | bits independent of companions "
    "| shares calls | modes |\n|---|---|---|---|---|---|---|"
)
VIDEO_WORDS = ("video", "frame", "fps")
"""Parts of the names of arguments that only classes for clips have."""


@dataclass(frozen=True)
class Trial:
    """A tiny model of a class, and what its clips are made with."""

    info: ModelInfo
    model: LoadedModel
    sampler: Sampler
    params: SamplingParams

    @classmethod
    def of(cls, folder: Path, dtype: str = "float32") -> "Trial":
        """Two steps, at sides that are odd multiples, and the fewest frames."""
        spec = ModelSpec(source=str(folder), dtype=dtype)
        info, model = describe(folder, spec), load(folder, spec, "cpu")
        number = -(-32 // info.size_multiple) | 1
        width, height = info.size_multiple * number, info.size_multiple * (number + 2)
        rules = info.clips
        if rules is None:
            raise DiffusionError(f"{info.pipeline} makes no clips")
        params = SamplingParams(
            width,
            height,
            num_inference_steps=2,
            guidance_scale=5.0,
            num_frames=rules.min_frames,
            conditioning=Conditioning(rules.modes[0]),
        )
        return cls(info, model, Sampler(model, batch_size=2), params)

    def row(self, seed: int = 1, **changes: Any) -> ImageRequest:
        """A row with the pictures that the mode needs."""
        mode = self.params.conditioning.mode
        first, last = (picture(self.params, number) for number in (seed, seed + 10))
        images = ConditionImages(
            init_image=None if mode == "text" else first,
            last_image=last if mode == "first-last" else None,
        )
        takes_prompt = self.info.clips is not None and self.info.clips.takes_prompt
        row = ImageRequest("a red cat" if takes_prompt else "", "", seed, images=images)
        return replace(row, **changes)

    def sample(self, rows: Sequence[ImageRequest], **changes: Any) -> Any:
        """The pixels of rows, (n, F, H, W, 3)."""
        batch = self.sampler.sample(rows, replace(self.params, **changes))
        if any(batch.faults):
            raise DiffusionError(f"faults {batch.faults}")
        return batch.pixels

    def with_mode(self, mode: str) -> "Trial":
        return replace(self, params=replace(self.params, conditioning=Conditioning(mode)))

    def plain(self, row: ImageRequest, **arguments: Any) -> Any:
        """The clip that the class itself makes of a row, (F, H, W, 3)."""
        mode, params = self.params.conditioning.mode, self.params
        kind = getattr(diffusers, class_for(self.info.pipeline, mode))
        pipeline = self.model.pipeline
        if type(pipeline) is not kind:
            pipeline = kind(**pipeline.components)
            pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = schedulers.make("default", self.model.scheduler_config)
        prompt = {"prompt": row.prompt} if "prompt" in call_parameters(kind) else {}
        for name, value in (
            ("image", row.images.init_image),
            ("last_image", row.images.last_image),
        ):
            prompt |= {} if value is None else {name: Image.fromarray(value)}
        scale = family_rules.guidance_arguments(self.model.guidance, params.guidance_scale)
        with torch.inference_mode():
            output = pipeline(
                width=params.width,
                height=params.height,
                num_frames=params.num_frames,
                num_inference_steps=params.num_inference_steps,
                generator=torch.Generator().manual_seed(row.seed),
                output_type="np",
                **prompt,
                **scale,
                **arguments,
            )
        return (output.frames[0] * 255).round().astype("uint8")


def picture(params: SamplingParams, number: int) -> Any:
    """A colourful picture of the clip's size, (H, W, 3)."""
    draw = np.random.default_rng(number)
    small = draw.integers(0, 256, (4, 3, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((params.width, params.height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def save(class_name: str, folder: Path) -> Path:
    """Make the tiny model of a class from seed 0 and save it as a diffusers folder."""
    return tiny_families.save(class_name, folder, CLIP_MAKERS)


def measure(folder: Path) -> str:
    """The cells of a class's row.

    Raises:
        DiffusionError: it does not run, or claims something that it does not do.
    """
    trial = Trial.of(folder)
    info, row = trial.info, trial.row()
    assert info.clips is not None
    clip = trial.sample([row])[0]
    for mode in info.modes:
        in_mode = trial.with_mode(mode)
        theirs = in_mode.plain(in_mode.row()).astype(int)
        if np.abs(in_mode.sample([in_mode.row()])[0].astype(int) - theirs).max() > 2:
            raise DiffusionError(f"its pipeline makes another clip in the mode {mode}")
    guided = _differ(clip, trial.sample([row], guidance_scale=9.0)[0])
    negative = info.takes_negative_prompt and _differ(
        clip, trial.sample([replace(row, negative_prompt="ugly, bad")])[0]
    )
    if (info.takes_guidance, info.takes_negative_prompt) != (guided, negative):
        raise DiffusionError(f"{info.pipeline} claims what it does not do")
    shares = trial.sampler.shares_batches and not samples_alone(
        info.pipeline, trial.params.conditioning
    )
    facts = (guided, negative, _is_independent(trial, row), shares)
    words = " | ".join("yes" if fact else "no" for fact in facts)
    rules = info.clips
    most = "" if rules.max_frames > 1000 else f", at most {rules.max_frames}"
    offset = f"{rules.frame_multiple}k + {rules.frame_offset}"
    frames = (offset if rules.frame_multiple > 1 else "any") + most
    return f"{frames} | {words} | {', '.join(info.modes)}"


def _is_independent(trial: Trial, row: ImageRequest) -> bool:
    """Whether a row has one clip, with any companion, at any place and any state of torch."""
    other = trial.row(2)
    if row.prompt:
        other = replace(other, prompt="a very long prompt, with many words" + ", and more" * 4)
    first, second = trial.sample([row])[0], trial.sample([other])[0]
    torch.manual_seed(7)
    np.random.seed(7)
    after, before = trial.sample([row, other]), trial.sample([other, row])
    pairs = ((after[0], first), (after[1], second), (before[0], second), (before[1], first))
    return not any(_differ(*pair) for pair in pairs)


def _differ(first: Any, second: Any) -> bool:
    return not np.array_equal(first, second)


def clip_classes() -> dict[str, str | None]:
    """Every pipeline class of diffusers that makes clips -> why it is refused."""
    found: dict[str, str | None] = {}
    for name in sorted(name for name in dir(diffusers) if name.endswith("Pipeline")):
        kind = getattr(diffusers, name, None)
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)):
            continue
        if any(word in each for each in call_parameters(kind) for word in VIDEO_WORDS):
            found[name] = REFUSED_CLIPS.get(name)
    return found


def written_rows() -> dict[str, str]:
    """Class -> its row in the README."""
    text = README.read_text(encoding="utf-8")
    lines = text.partition(START)[2].partition(END)[0].splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def lacks_package(name: str) -> bool:
    """Whether a class is refused only because a package is not installed."""
    return name in CLIP_MAKERS and name in family_rules.refusals()


def measured_row(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        package = family_rules.NEEDED_PACKAGES.get(name)
        label = f"`{name}` (with {package})" if package else f"`{name}`"
        return f"| {label} | {measure(save(name, Path(folder)))} |"


def table() -> str:
    """The table in Markdown."""
    rows = [HEAD]
    for name, why_refused in clip_classes().items():
        if lacks_package(name) and name in written_rows():
            rows.append(written_rows()[name])
        elif why_refused is not None:
            rows.append(f"| `{name}` | refused: it {why_refused} | | | | | |")
        elif name in CLIP_MAKERS:
            rows.append(measured_row(name))
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(rows)


def main() -> None:
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    made = table()
    if "--write" in sys.argv:
        text = README.read_text(encoding="utf-8")
        head, _, rest = text.partition(START)
        tail = rest.partition(END)[2]
        README.write_text(f"{head}{START}\n{made}\n{END}{tail}", encoding="utf-8")
    else:
        print(made)


if __name__ == "__main__":
    main()

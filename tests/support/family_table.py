"""Measures every text-to-image class of diffusers with a tiny model, for the table in the README.

python tests/support/family_table.py            prints the table
python tests/support/family_table.py --write    replaces the one in diffusion_core/README.md
"""

import inspect
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.tiny_families import makers, save

from nightpress.diffusion_core.errors import DiffusionError
from nightpress.diffusion_core.models import family_rules, pipeline_folder
from nightpress.diffusion_core.models.clip_rules import CLIP_CLASSES, REFUSED_CLIPS
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

README = Path(__file__).parents[2] / "diffusion_core" / "README.md"
START, END = "<!-- families -->", "<!-- /families -->"
HEAD = (
    "| class | runs | guidance acts | negative prompt acts | bits independent of companions "
    "| shares calls | modes |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Facts:
    """What a tiny model of a class does."""

    guidance: bool
    negative_prompt: bool
    independent: bool
    shares_calls: bool
    modes: tuple[str, ...]

    def row(self, name: str) -> str:
        cells = (self.guidance, self.negative_prompt, self.independent, self.shares_calls)
        words = " | ".join("yes" if cell else "no" for cell in cells)
        package = family_rules.NEEDED_PACKAGES.get(name)
        runs = f"yes, with {package}" if package else "yes"
        return f"| `{name}` | {runs} | {words} | {', '.join(self.modes)} |"


def measure(folder: Path) -> Facts:
    """Sample a saved model with other scales, other negative prompts and other companions.

    Raises:
        DiffusionError: it does not run, or claims something that it does not do.
    """
    spec = ModelSpec(source=str(folder))
    info = describe(folder, spec)
    model = load(folder, spec, "cpu")
    sampler = Sampler(model, batch_size=2)
    sample = _sampling(sampler, info.size_multiple)
    row = ImageRequest("a red cat", "", seed=1)
    alone = sample([row], 5.0)[0]
    _require_same(alone, _called_directly(model, row, 5.0, alone.shape))
    negative = ImageRequest(row.prompt, "ugly, bad", row.seed)
    facts = Facts(
        guidance=_differ(alone, sample([row], 9.0)[0]),
        negative_prompt=info.takes_negative_prompt and _differ(alone, sample([negative], 5.0)[0]),
        independent=_is_independent(sample, row, info.takes_negative_prompt),
        shares_calls=sampler.shares_batches,
        modes=modes_of(info.pipeline),
    )
    claims = (info.takes_guidance, info.takes_negative_prompt)
    if claims != (facts.guidance, facts.negative_prompt):
        raise DiffusionError(f"{info.pipeline} claims {claims}, and does {facts}")
    return facts


def _called_directly(
    model: LoadedModel, row: ImageRequest, scale: float, shape: tuple[int, ...]
) -> Any:
    """The picture that the pipeline itself makes of a row; transparent ones on white.

    Its arguments have the names and the defaults that `family_rules` gives them.
    """
    pipeline, height, width = model.pipeline, *shape[:2]
    pipeline.scheduler = schedulers.make("default", model.scheduler_config)
    family_rules.make_ready(pipeline, model.guidance, scale, (width, height))
    values = {"max_area": width * height, **family_rules.FIXED_ARGUMENTS}
    accepted = pipeline_folder.call_parameters(type(pipeline))
    values = {name: value for name, value in values.items() if name in accepted}
    if model.guidance.empty_negative_prompt:
        values["negative_prompt"] = model.guidance.empty_negative_prompt
    with torch.inference_mode():
        output = pipeline(
            prompt=row.prompt,
            width=width,
            height=height,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(row.seed),
            **family_rules.guidance_arguments(model.guidance, scale),
            **values,
        )
    picture = (output.images if hasattr(output, "images") else output.image)[0].convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def _require_same(ours: Any, theirs: Any) -> None:
    """Refuse more than rounding: batches of two and of one may differ in a last bit."""
    if np.abs(ours.astype(int) - theirs.astype(int)).max() > 2:
        raise DiffusionError("its pipeline makes another picture when it is called directly")


def _sampling(sampler: Sampler, multiple: int) -> Callable[..., Any]:
    """Samples two steps at sides that are odd multiples, so that a wrong multiple shows."""
    number = -(-64 // multiple) | 1
    width, height = multiple * number, multiple * (number + 2)

    def sample(requests: list[ImageRequest], scale: float) -> Any:
        batch = sampler.sample(requests, SamplingParams(width, height, 2, scale))
        if any(batch.faults):
            raise DiffusionError(f"faults {batch.faults}")
        return batch.pixels

    return sample


def _is_independent(sample: Callable[..., Any], row: ImageRequest, negative: bool) -> bool:
    """Whether a row has one result, with any companion, at any place and any state of torch."""
    text = 'a very long prompt about a blue dog, with many words and a "sign"' + ", and more" * 8
    other = ImageRequest(text, "ugly" if negative else "", seed=2)
    first, second = sample([row], 5.0)[0], sample([other], 5.0)[0]
    torch.manual_seed(7)
    np.random.seed(7)
    after, before = sample([row, other], 5.0), sample([other, row], 5.0)
    pairs = ((after[0], first), (after[1], second), (before[0], second), (before[1], first))
    return not any(_differ(*pair) for pair in pairs)


def _differ(first: Any, second: Any) -> bool:
    return not np.array_equal(first, second)


def text_to_image_classes() -> dict[str, str | None]:
    """Every pipeline class of diffusers that makes images from a prompt -> why it is refused."""
    clips = {*CLIP_CLASSES, *REFUSED_CLIPS}
    refused = {n: reason for n, reason in family_rules.refusals().items() if n not in clips}
    found: dict[str, str | None] = {}
    for name in sorted(name for name in dir(diffusers) if name.endswith("Pipeline")):
        kind = getattr(diffusers, name, None)
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)):
            continue
        if name in refused or pipeline_folder.why_not_text_to_image(kind) is None:
            found[name] = refused.get(name)
    return found


def lacks_package(name: str) -> bool:
    """Whether a class is refused only because a package is not installed."""
    return name not in family_rules.REFUSED and name in family_rules.refusals()


def written_rows() -> dict[str, str]:
    """Class -> its row in the README."""
    text = README.read_text(encoding="utf-8")
    lines = text.partition(START)[2].partition(END)[0].splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def table() -> str:
    """The table in Markdown; classes whose package is not installed keep their rows."""
    rows, written = [HEAD], written_rows()
    for name, why_refused in text_to_image_classes().items():
        if lacks_package(name) and name in written:
            rows.append(written[name])
        elif why_refused is not None:
            rows.append(f"| `{name}` | refused: it {why_refused} | | | | | |")
        elif name not in makers():
            rows.append(f"| `{name}` | not tried | | | | | {', '.join(modes_of(name))} |")
        else:
            rows.append(measured_row(name))
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(rows)


def measured_row(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return measure(save(name, Path(folder))).row(name)
        except DiffusionError as error:
            reason = str(error).replace(folder, "its folder")
            return f"| `{name}` | no: {reason} | | | | | {', '.join(modes_of(name))} |"


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

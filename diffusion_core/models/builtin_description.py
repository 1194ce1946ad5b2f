"""What is known about the built-in model, written down so that it is known without diffusers.

To describe a model from its folder takes the classes of diffusers and transformers, whose import
takes seconds. The file beside the model holds what they say with the versions that it names, for
the weights and configurations that it names; with any others, nothing is known here.

    python -m nightpress.diffusion_core.models.builtin_description     writes the file again
"""

import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import check_weights, describe, fingerprint_of
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.prompt_chunks import ClipTokens
from nightpress.diffusion_core.models.prompts import (
    PromptLimits,
    PromptTokenizer,
    packed_tokenizer,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_size import WeightSizes, weight_sizes

FILE = Path(builtin.__file__).with_name("description.json")

LIBRARIES = ("diffusers", "tokenizers", "transformers")
"""Whose versions decide what is said about a model."""

SOURCE = "builtin"


@dataclass(frozen=True)
class Description:
    """A model, and how large its weights are."""

    info: ModelInfo
    weights: dict[str, WeightSizes]
    """By the type that they are loaded in."""


def builtin_description(spec: ModelSpec) -> Description | None:
    """The built-in model as a job asks for it; None if it is another model, or not known here.

    Raises:
        ModelError: a file of the model cannot be read.
    """
    if spec != ModelSpec(source=SOURCE, dtype=spec.dtype) or not FILE.is_file():
        return None
    known = json.loads(FILE.read_text(encoding="utf-8"))
    folder = builtin.folder()
    if known["libraries"] != _libraries():
        return None
    if known["info"]["fingerprint"] != fingerprint_of(PipelineFolder.read(folder), spec, ()):
        return None
    tokenizers = tuple(_tokenizer(folder, values) for values in known["tokenizers"])
    limits = PromptLimits(tokenizers, known["takes_chunks"])
    weights = {dtype: WeightSizes(**sizes) for dtype, sizes in known["weights"].items()}
    return Description(replace(ModelInfo.from_dict(known["info"]), prompts=limits), weights)


def described_from_folder() -> Description:
    """The built-in model, as diffusers and transformers say.

    Raises:
        ModelError: the files are not those of a model.
    """
    folder, spec = builtin.folder(), ModelSpec(source=SOURCE)
    info = describe(folder, spec, elsewhere=True)
    check_weights(folder, spec)
    return Description(info, weight_sizes(folder, spec))


def write() -> None:
    """Write the file for the libraries that are installed."""
    made = described_from_folder()
    values = {
        "libraries": _libraries(),
        "info": made.info.as_dict(),
        "tokenizers": [_values(each) for each in made.info.prompts.tokenizers],
        "takes_chunks": made.info.prompts.takes_chunks,
        "weights": {dtype: asdict(sizes) for dtype, sizes in made.weights.items()},
    }
    FILE.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _values(tokenizer: PromptTokenizer) -> dict[str, Any]:
    """What a tokenizer has beside its own file."""
    values = asdict(tokenizer)
    for name in ("packed", "slow", "vectors", "embeddings"):
        del values[name]
    return values


def _tokenizer(folder: Path, values: dict[str, Any]) -> PromptTokenizer:
    text = Path(folder, values["name"], "tokenizer.json").read_text(encoding="utf-8")
    clip = None if values["clip"] is None else ClipTokens(**values["clip"])
    return PromptTokenizer(**{**values, "packed": packed_tokenizer(text), "clip": clip})


if __name__ == "__main__":
    write()

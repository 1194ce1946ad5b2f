"""The samplers that rows name, as indices into `SAMPLER_NAMES`."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.sampler_spellings import read_sampler
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.pipelines.manifest.codes import dictionary_indices
from nightpress.pipelines.manifest.numbers import Ints


def sampler_codes(column: pa.Array, default: int, samplers: Sequence[str]) -> Ints:
    """The sampler of each row, (n,): an index, or -1 if the model has none of this name.

    Args:
        column: names, ours or those of A1111 and ComfyUI; blank and null for the default.
        default: index of the default.
        samplers: the names that work with the model.
    """
    encoded = pc.utf8_trim_whitespace(column).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    indices = [default if name == "" else _index(name, samplers) for name in names]
    codes: Ints = np.array([*indices, default])[dictionary_indices(encoded)]
    return codes


def sampler_problem(text: str, samplers: Sequence[str]) -> str:
    """What is wrong with a name whose code is -1."""
    try:
        name = read_sampler(text, samplers).name
    except SettingsError as error:
        return str(error)
    named = f"{text!r}" if name == text else f"{text!r}, which is {name},"
    allowed = ", ".join(samplers)
    return f"sampler {named} does not work with this model; choose one of: {allowed}"


def _index(text: str, samplers: Sequence[str]) -> int:
    try:
        name = read_sampler(text).name
    except SettingsError:
        return -1
    return SAMPLER_NAMES.index(name) if name in samplers else -1

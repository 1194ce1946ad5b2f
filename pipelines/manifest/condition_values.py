"""The value that each row has for a setting that conditions images, taken back from typed rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines.job.settings import base_setting
from nightpress.pipelines.manifest.conditions import CONDITION_SETTINGS
from nightpress.pipelines.manifest.pictures import PICTURE_SETTINGS
from nightpress.pipelines.manifest.rows import Rows

FIELDS = {
    "strength": "strength",
    "canvas": "canvas",
    "control_scale": "control_scales",
    "reference_scale": "reference_scales",
}
"""Setting -> the field of `Conditioning` that shows it."""


def is_condition(name: str) -> bool:
    """Whether a setting conditions images; so does `conditioning`, which stands for them all."""
    return name == "conditioning" or base_setting(name) in CONDITION_SETTINGS


def condition_values(rows: Rows, name: str) -> pa.Array:
    """A text that tells the values of a setting apart, (n,); null where a row has none.

    If there are several pictures, the first one counts. The size in bytes distinguishes pictures
    that the manifest holds.
    """
    if base_setting(name) in PICTURE_SETTINGS:
        return _first_pictures(rows, name)
    if name == "conditioning":
        return rows.conditioning
    encoded = rows.conditioning.dictionary_encode()
    values = [
        _text(getattr(Conditioning.from_text(text), FIELDS[base_setting(name)]))
        for text in encoded.dictionary.to_pylist()
    ]
    return pc.take(pa.array(values, pa.string()), encoded.indices)


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _first_pictures(rows: Rows, role: str) -> pa.Array:
    of_rows = np.array(pc.list_parent_indices(rows.inputs)).astype(np.int64)
    inputs = pc.list_flatten(rows.inputs)
    wanted = np.array(pc.equal(pc.struct_field(inputs, "role"), role), np.bool_)
    sizes = pc.cast(pc.binary_length(pc.struct_field(inputs, "data")), pa.string())
    texts = pc.coalesce(pc.struct_field(inputs, "url"), sizes)
    found = np.full(len(rows), -1, np.int64)
    found[of_rows[wanted][::-1]] = np.flatnonzero(wanted)[::-1]
    return pc.take(texts, pa.array(found, mask=found < 0))

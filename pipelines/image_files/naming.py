"""Names of image files: a template over the columns, rendered for whole columns at once.

This module defines the template language, and how a value is made safe for a name.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.portability import (
    EDGES,
    FORBIDDEN,
    RESERVED,
    name_bytes,
)

FOLDER = "images/"
"""The folder of all images, relative to the run directory."""

MAX_VALUE_CHARS = 80
"""Values are cut to this length, except ids, which tell images apart."""

MAX_COMPONENT_BYTES = 240
"""File systems allow 255; the rest is for long variant numbers and temporary names."""

MAX_KEY_BYTES = 900
"""S3 allows 1,024 for the whole key; the rest is for the URL of the run."""

PLAIN_BYTES = np.array(
    [0x20 <= byte < 0x7F and chr(byte) not in '/\\<>:"|?*' for byte in range(256)]
)
"""Bytes that any name may contain."""

SAFE_EDGES = np.array([0x20 < byte < 0x7F and byte != ord(".") for byte in range(256)])
"""Bytes that a value may begin or end with."""

MAX_LITERAL_BYTES = 200
"""The most bytes of a template outside its fields."""

UNCUT = frozenset({"image_id", "id"})

SPREAD = "spread"
"""A field that is computed from the row number instead of a column; see `spread`."""

SPREAD_ROWS = 1_000
"""Consecutive rows that share a folder: as many names as S3 lists in one page."""

SPREAD_FOLDERS = tuple(f"{int(f'{number:08b}'[::-1], 2):02x}" for number in range(256))
"""Folders in the order in which blocks of rows use them: 00, 80, 40, c0, 20, ..."""


@dataclass(frozen=True)
class Field:
    """`{name}` or `{name:spec}` in a template."""

    name: str
    spec: str


@dataclass(frozen=True)
class Template:
    """A parsed file-name template; see `parse`."""

    text: str
    parts: tuple[str | Field, ...]

    @classmethod
    def parse(cls, text: str, types: Mapping[str, pa.DataType]) -> "Template":
        """Parse a template such as `{category}/{image_id}.png`.

        Args:
            text: `images.file_name` of the job file.
            types: the columns that the template may use, and their Arrow types.

        Raises:
            SpecError: not a template, an unknown column, or a path outside the run.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise _refusal(text, f"not a template: {error}") from error
        parts: list[str | Field] = []
        for literal, name, spec, conversion in parsed:
            parts += [literal] if literal else []
            if name is not None:
                parts.append(_field(text, name, spec or "", conversion, types))
        _refuse_bad_paths(text, parts)
        return cls(text, tuple(parts))

    @cached_property
    def fields(self) -> frozenset[str]:
        """The columns that the template uses."""
        return frozenset(part.name for part in self.parts if isinstance(part, Field))

    @property
    def tells_images_apart(self) -> bool:
        """Whether different image ids give different names, up to case and replaced characters.

        True if a path component holds `{image_id}` and no other field.
        """
        return any(
            [part for part in component if isinstance(part, Field)] == [Field("image_id", "")]
            for component in _components(self.parts)
        )

    def render(self, columns: Mapping[str, pa.Array]) -> pa.Array:
        """Render file names, relative to the run directory; (n,) string.

        Args:
            columns: an array of n values for each of `fields`, of which there is at least one.
        """
        texts = [
            part if isinstance(part, str) else safe_text(part, columns[part.name])
            for part in self.parts
        ]
        return self.join(texts, len(next(iter(columns.values()))))

    def join(self, texts: Sequence[str | pa.Array], num_names: int) -> pa.Array:
        """Join one text or column of texts for each of `parts` to file names; (n,) string.

        Args:
            texts: `num_names` texts in each column.
            num_names: n; without columns all names are the same.
        """
        names = pc.binary_join_element_wise(FOLDER, *texts, "")
        return names if self.fields else pa.repeat(names, num_names)


def overlong(names: pa.Array) -> NDArray[np.bool_]:
    """Which names are too long for a file system or for S3; (n,) bool."""
    lengths = pc.binary_length(names).to_numpy(zero_copy_only=False)
    found = np.zeros(len(names), np.bool_)
    for index in np.flatnonzero(lengths > MAX_COMPONENT_BYTES):
        components = names[int(index)].as_py().encode().split(b"/")
        found[index] = lengths[index] > MAX_KEY_BYTES or any(
            len(component) > MAX_COMPONENT_BYTES for component in components
        )
    return found


def spread(row_numbers: NDArray[np.int64]) -> pa.Array:
    """Two hex digits for each row, which spread the names of a run evenly; (n,) string.

    Blocks of rows use them in the order of van der Corput's sequence in base 2
    (Verteilungsfunktionen, 1935): of any 2^k consecutive blocks, one falls into each 2^-k of the
    range of names, however a store partitions it. So does the first digit alone, `{spread:.1}`.

    Args:
        row_numbers: (n,) row numbers in the whole manifest.
    """
    blocks = row_numbers // SPREAD_ROWS % len(SPREAD_FOLDERS)
    return pc.take(pa.array(SPREAD_FOLDERS), pa.array(blocks))


def _field(
    text: str, name: str, spec: str, conversion: str | None, types: Mapping[str, pa.DataType]
) -> Field:
    shown = f"{{{name}}}"
    if conversion is not None:
        raise _refusal(text, f"!{conversion} is not allowed; write {shown} or {{{name}:spec}}")
    if "{" in spec:
        raise _refusal(text, f"the format of {shown} cannot contain another column")
    if name not in types:
        raise _refusal(
            text, f"there is no column {shown}; the columns are: {', '.join(sorted(types))}"
        )
    if not _has_text_form(types[name]):
        raise _refusal(text, f"column {shown} is of type {types[name]}, which has no text form")
    try:
        format(_example(types[name]), spec)
    except ValueError as error:
        raise _refusal(text, f"{{{name}:{spec}}}: {error}") from error
    return Field(name, spec)


def _has_text_form(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_primitive(type_)
        or pa.types.is_null(type_)
        or pa.types.is_string(type_)
        or pa.types.is_decimal(type_)
    )


def _example(type_: pa.DataType) -> object:
    if pa.types.is_integer(type_):
        return 1
    return 1.5 if pa.types.is_floating(type_) else "text"


def _refuse_bad_paths(text: str, parts: list[str | Field]) -> None:
    plain = "".join(part if isinstance(part, str) else "x" for part in parts)
    if plain.startswith("/") or re.match(r"^[A-Za-z]:", plain) or "://" in plain:
        raise _refusal(text, "the path must be relative to the run's images/ folder")
    if re.search(r'[\x00-\x1f\x7f\\<>:"|?*]', plain):
        raise _refusal(text, 'control characters and any of \\ < > : " | ? * are not allowed')
    for component in plain.split("/"):
        if component in ("", ".", ".."):
            raise _refusal(text, "no path component may be empty, . or ..")
        if re.match(r"[\s.]|.*[\s.]$", component, re.DOTALL):
            raise _refusal(text, "no path component may begin or end with a space or a dot")
        if pc.match_substring_regex(f"/{component}", RESERVED).as_py():
            raise _refusal(text, f"{component!r} is a device name on Windows")
    if pc.match_substring_regex(plain.replace("/", ""), FORBIDDEN).as_py():
        raise _refusal(text, "invisible characters are not allowed")
    if len(plain.encode()) > MAX_LITERAL_BYTES:
        raise _refusal(text, f"the text outside fields is longer than {MAX_LITERAL_BYTES} bytes")


def _components(parts: tuple[str | Field, ...]) -> list[list[str | Field]]:
    components: list[list[str | Field]] = [[]]
    for part in parts:
        if isinstance(part, Field):
            components[-1].append(part)
            continue
        head, *others = part.split("/")
        components[-1].append(head)
        components += [[other] for other in others]
    return components


def safe_text(field: Field, values: pa.Array) -> pa.Array:
    """A column as text that is safe in a name; (n,) string, never empty."""
    is_text = pa.types.is_string(values.type)
    if field.spec:
        values = _formatted(values, field.spec)
    elif not is_text:
        values = pc.cast(values, pa.string())
    if values.null_count:
        values = pc.fill_null(values, "")
    if not _is_plain(values):
        values = pc.replace_substring_regex(values, FORBIDDEN, "_")
    if field.name not in UNCUT:
        values = pc.utf8_slice_codeunits(values, 0, MAX_VALUE_CHARS)
    if _may_have_unsafe_edges(values):
        values = pc.replace_substring_regex(values, EDGES, "")
        values = pc.if_else(pc.equal(pc.binary_length(values), 0), "_", values)
    return values


def _formatted(values: pa.Array, spec: str) -> pa.Array:
    """Format each distinct value with Python."""
    encoded = values.dictionary_encode()
    texts = ["" if value is None else format(value, spec) for value in _plain_values(encoded)]
    return pc.take(pa.array(texts, pa.string()), encoded.indices)


def _plain_values(encoded: pa.DictionaryArray) -> list[object]:
    values, type_ = encoded.dictionary, encoded.type.value_type
    if pa.types.is_integer(type_) or pa.types.is_float64(type_):
        return list(values.to_pylist())
    texts = pc.cast(values, pa.string())
    if pa.types.is_floating(type_):  # 0.1 as float32 is 0.1, not 0.10000000149011612
        return list(pc.cast(texts, pa.float64()).to_pylist())
    return list(texts.to_pylist())


def _is_plain(values: pa.Array) -> bool:
    """Whether all bytes of the column are allowed; far cheaper than a regex per value."""
    offsets, data = name_bytes(values)
    return bool(PLAIN_BYTES[data[offsets[0] : offsets[-1]]].all())


def _may_have_unsafe_edges(values: pa.Array) -> bool:
    """Whether any value is empty, or begins or ends with a byte that may not be allowed."""
    offsets, data = name_bytes(values)
    if len(values) == 0:
        return False
    if (offsets[1:] == offsets[:-1]).any():
        return True
    return not (SAFE_EDGES[data[offsets[:-1]]].all() and SAFE_EDGES[data[offsets[1:] - 1]].all())


def _refusal(text: str, why: str) -> SpecError:
    return SpecError(f"images.file_name: {text!r}: {why}")

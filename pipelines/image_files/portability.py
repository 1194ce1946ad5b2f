"""Names that some file systems reserve, or that they take for one and the same.

Windows reserves device names whatever follows their first dot, and compares names without regard
to letter case; so does macOS, which also compares Unicode characters by what they mean and not by
how they are encoded.
References: learn.microsoft.com/windows/win32/fileio/naming-a-file; Unicode Standard Annex 15.
"""

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

CONTROLS = r"\p{Cc}\x{2028}\x{2029}"
FORMAT_CONTROLS = (
    r"\x{AD}\x{600}-\x{605}\x{61C}\x{6DD}\x{70F}\x{180E}\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}"
    r"\x{2060}-\x{206F}\x{FEFF}\x{FFF9}-\x{FFFB}\x{E0001}"
)
"""Invisible characters that no writing needs in a name, such as those that turn its direction."""

FORBIDDEN = rf'[{CONTROLS}{FORMAT_CONTROLS}/\\<>:"|?*]'
"""Separators, control characters, and characters that Windows does not allow."""

EDGES = r"^[\s\pZ.]+|[\s\pZ.]+$"
"""Leading dots hide a file or leave the folder; Windows drops trailing dots and spaces."""

INVISIBLE = (
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u200c\u200d\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0020-\U000e007f\U000e0100-\U000e01ef]"
)
"""Joiners and selectors, which emoji and some writings need; names must differ in more."""

UNEVEN = f"{INVISIBLE}|[ßİŉǰΐΰև\u1e96-\u1e9e\u1f50-\u1ffc]"
"""What is left out, and letters that become several ones without their case."""

ONE_FORM_BYTES = np.array([byte < 0xC0 or 0xE4 <= byte <= 0xE9 for byte in range(256)])
"""Bytes of ASCII, and of the characters U+4000 to U+9FFF in UTF-8."""

RESERVED = r"(?i)/(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]|con(?:in|out)\$)[ ]*(?:[./]|$)"
"""A component that Windows takes for a device: `/aux`, `/com1.png`, `/nul.tar/b.png`."""

DEVICES = ("con", "prn", "aux", "nul", "com", "lpt")
AFTER_DEVICES = [*(ord(char) for char in "./ iIoO0123456789"), 0xC2]
"""A dot, slash or space, the rest of CONIN$ and CONOUT$, a digit, or the start of a raised one."""


def _first_bytes() -> NDArray[np.bool_]:
    """Which bytes device names have at each of their first four places; (4, 256)."""
    allowed = np.zeros((4, 256), np.bool_)
    for name in (*DEVICES, *(name.upper() for name in DEVICES)):
        allowed[range(3), [ord(letter) for letter in name]] = True
    allowed[3, AFTER_DEVICES] = True
    return allowed


FIRST_BYTES = _first_bytes()


def reserved(names: pa.Array) -> NDArray[np.bool_]:
    """Which names hold a device name of Windows; (n,) bool."""
    found = np.zeros(len(names), np.bool_)
    candidates = _perhaps_reserved(names)
    if len(candidates):
        chosen = pc.take(names, pa.array(candidates))
        found[candidates] = np.array(pc.match_substring_regex(chosen, RESERVED))
    return found


def _perhaps_reserved(names: pa.Array) -> NDArray[np.int64]:
    """The indices of names with a component that begins as device names do; (k,) ascending.

    Looks at single bytes behind slashes: a regular expression on every name would take far longer.
    The first component of every name is the folder of all images, and where a name ends behind
    `con`, the next byte is the `i` of the next name's folder.
    """
    offsets, data = name_bytes(names)
    first, last = int(offsets[0]), int(offsets[-1])
    places = np.flatnonzero(data[first:last] == ord("/")) + first + 1
    for place in range(4):
        there = np.minimum(places + place, last - 1)
        places = places[FIRST_BYTES[place][data[there]] | (places + place >= last)]
    return np.unique(np.searchsorted(offsets, places, "right") - 1)


def folded(names: pa.Array) -> pa.Array:
    """Names as the least exact file system compares them; (n,) string.

    Without letter case, in the normal form NFKD, and without invisible characters.
    """
    if _has_one_form(names):
        return pc.utf8_lower(names)
    normal = _without_unevenness(pc.utf8_normalize(names, "NFKD"))
    # Upper case first: some letters have two lower-case forms, such as the Greek sigma.
    return pc.utf8_lower(pc.utf8_upper(normal))


def _without_unevenness(names: pa.Array) -> pa.Array:
    """The names, with invisible characters and letters like ß replaced where there are any."""
    uneven = np.array(pc.match_substring_regex(names, UNEVEN))
    if not uneven.any():
        return names
    mask = pa.array(uneven)
    visible = (re.sub(INVISIBLE, "", name) for name in names.filter(mask).to_pylist())
    replaced = [unicodedata.normalize("NFKD", name.casefold()) for name in visible]
    return pc.replace_with_mask(names, mask, pa.array(replaced, pa.string()))


def _has_one_form(names: pa.Array) -> bool:
    """Whether all characters are ASCII or common Chinese ones, which have one form each."""
    offsets, data = name_bytes(names)
    inside = data[offsets[0] : offsets[-1]]
    beyond_ascii = inside >= 0x80
    return not beyond_ascii.any() or bool(ONE_FORM_BYTES[inside[beyond_ascii]].all())


def name_bytes(values: pa.Array) -> tuple[NDArray[np.int32], Bytes]:
    """The offsets of the values, and the bytes that they point into."""
    _, offsets, data = values.buffers()
    empty = offsets is None or not len(values)
    return (
        np.zeros(1, np.int32)
        if empty
        else np.frombuffer(offsets, np.int32)[values.offset :][: len(values) + 1],
        np.zeros(0, np.uint8) if empty or data is None else np.frombuffer(data, np.uint8),
    )

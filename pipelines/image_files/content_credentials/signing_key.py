"""The private key that signs images: it comes from the environment, and is never part of a text.

Its `repr` has none of it, and no error message does.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nightpress.pipelines.errors import SpecError

KEY, KEY_FILE = "NIGHTPRESS_SIGNING_KEY", "NIGHTPRESS_SIGNING_KEY_FILE"
"""Environment variables: a private key as PEM text, and the path of a file that holds it."""

NO_KEY = (
    f"provenance.sign needs a private key: set {KEY} to its PEM text, or {KEY_FILE} to the path of "
    "a PEM file"
)


@dataclass(frozen=True)
class SigningKey:
    """A private key on its way from the driver to the actors."""

    pem: bytes = field(repr=False)
    where: str = KEY
    """Where it came from, for messages."""


def key_from_environment(environ: Mapping[str, str] = os.environ) -> SigningKey:
    """The signing key of this process.

    Raises:
        SpecError: there is none, or two, or its file cannot be read.
    """
    text, path = environ.get(KEY), environ.get(KEY_FILE)
    if text and path:
        raise SpecError(f"{KEY} and {KEY_FILE} are both set; set one of them")
    if text:
        return SigningKey(text.encode(), KEY)
    if not path:
        raise SpecError(NO_KEY)
    try:
        return SigningKey(Path(path).read_bytes(), f"{KEY_FILE} ({path})")
    except OSError as error:
        raise SpecError(f"{KEY_FILE}: {path}: {error.strerror or error}") from error

"""How copies for clients are signed: not at all, as images are, or with a time stamp."""

from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from nightpress.pipelines.errors import SpecError, StoreDenied, StoreMissing
from nightpress.pipelines.image_files.content_credentials.c2pa_reader import judge
from nightpress.pipelines.image_files.content_credentials.parts import split, without_credential
from nightpress.pipelines.image_files.content_credentials.setup import checked_key, checked_section
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.embedded_metadata import CREATOR
from nightpress.pipelines.image_files.encoding import opened
from nightpress.pipelines.job.credentials import has_credentials
from nightpress.pipelines.job.provenance_section import SignSpec
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class CopySigning:
    """How copies are to be signed; the key comes from the environment."""

    certificate: str | None = None
    """URL of a PEM file; None to sign nothing."""
    algorithm: Literal["es256", "ed25519"] = "es256"
    """Signature algorithm, which the key must suit."""
    tsa: str | None = None
    """URL of an authority that puts a time stamp on each signature."""


@dataclass(frozen=True)
class CopySigner:
    """Signs copies, or leaves them as they are."""

    sign: SignSpec | None = None
    key: SigningKey | None = None
    tsa: str | None = None
    """URL of a time stamping authority; signatures then differ each time."""

    @classmethod
    def of(cls, asked: CopySigning, options: Options) -> Self:
        """A signer with the key from the environment.

        Args:
            asked: how to sign.
            options: fsspec options by protocol.

        Raises:
            SpecError: certificate and key do not fit, or a package is missing.
            StoreError: the certificate cannot be read.
        """
        certificate, tsa = asked.certificate, asked.tsa
        if certificate is None:
            if tsa is not None:
                raise SpecError(
                    "tsa: a time stamp is put on a signature, so give a certificate too"
                )
            return cls()
        if tsa is not None:
            _check_tsa(tsa)
            from nightpress.pipelines.image_files.content_credentials import time_stamped

            time_stamped.require_c2pa()
        try:
            wanted = SignSpec(certificate=certificate, algorithm=asked.algorithm)
            sign = checked_section(wanted, options)
        except ValidationError as error:
            wrong = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise SpecError(f"certificate: {wrong}") from None  # it may quote a key
        except (SpecError, StoreMissing, StoreDenied) as error:
            raise type(error)(f"certificate: {error}") from error
        return cls(sign, checked_key(sign), tsa)

    def as_dict(self) -> dict[str, Any] | None:
        """As it is recorded beside the copies."""
        return None if self.sign is None else {**self.sign.identity, "tsa": self.tsa}

    def signed(self, unsigned: bytes) -> bytes:
        """The copy with its credential, if it gets one.

        Raises:
            StoreError: the authority puts no time stamp on it.
        """
        if self.sign is None or self.key is None:
            return unsigned
        if self.tsa is not None:
            from nightpress.pipelines.image_files.content_credentials.time_stamped import (
                time_stamped,
            )

            return time_stamped(unsigned, _kind(unsigned), self.sign, self.key, self.tsa)
        from nightpress.pipelines.image_files.content_credentials.signer import Signer

        return Signer(self.sign, self.key).signed(unsigned, Statement(CREATOR))

    def is_copy(self, found: bytes, unsigned: bytes) -> bool:
        """Whether a stored file is this copy, signed as it should be."""
        if self.tsa is None:
            return found == self.signed(unsigned)
        is_signed = split(found) is not None and without_credential(found) == unsigned
        return is_signed and judge(found, _kind(unsigned)).is_intact


def _check_tsa(tsa: str) -> None:
    """Check the URL of an authority, which is recorded beside the copies.

    Raises:
        SpecError: it is none, or names a user; then it is not quoted.
    """
    if has_credentials(tsa):
        raise SpecError(
            "tsa: the URL must not hold credentials, as it is recorded beside the copies"
        )
    if urlsplit(tsa).scheme not in ("http", "https"):
        raise SpecError(f"tsa: {tsa!r} must be a URL that begins with http:// or https://")


def _kind(data: bytes) -> str:
    with opened(data) as image:
        return str(image.format).lower()

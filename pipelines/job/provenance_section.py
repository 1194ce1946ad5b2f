"""The job's key `provenance`: what an image file says about its origin, and who signs it."""

import binascii
import hashlib
import re
from base64 import b64decode
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from nightpress.pipelines.job.sections import Section, check_path_length, existing_or_stripped

PEM_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----"
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")

Embed = Literal["full", "minimal", "none"]
Algorithm = Literal["es256", "ed25519"]


def is_pem(text: str) -> bool:
    """Whether a text is PEM itself, and not where a PEM file lies."""
    return "-----BEGIN" in text


def certificates_in(pem: str) -> tuple[bytes, ...]:
    """The certificates of a PEM text in DER, in order.

    Raises:
        ValueError: one is not base64.
    """
    try:
        return tuple(
            b64decode("".join(body.split()), validate=True) for body in PEM_CERTIFICATE.findall(pem)
        )
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _pem_or_url(value: str) -> str:
    if PRIVATE_KEY.search(value):
        raise ValueError("holds a private key, and a job is copied into every run of it")
    return value if is_pem(value) else check_path_length(existing_or_stripped(value))


class SignSpec(Section):
    """Who signs the content credentials of the images."""

    certificate: Annotated[
        str,
        AfterValidator(_pem_or_url),
        Field(
            min_length=1,
            description="URL of a PEM file: the signer's certificate, then those that issued it, "
            "each before its issuer. Or the PEM text itself, which is what a run records.",
        ),
    ]
    key: Annotated[
        Literal["env"],
        Field(
            description="Where the private key is: env, the environment variable "
            "NIGHTPRESS_SIGNING_KEY (PEM text) or NIGHTPRESS_SIGNING_KEY_FILE (path of a PEM file)."
        ),
    ] = "env"
    algorithm: Annotated[
        Algorithm,
        Field(description="es256: ECDSA on P-256 with nonces as in RFC 6979; or ed25519."),
    ] = "es256"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bytes of a credential, as JSON values."""
        certificate = self.certificate
        if is_pem(certificate):
            certificate = hashlib.sha256(b"".join(certificates_in(certificate))).hexdigest()
        return {"certificate": certificate, "algorithm": self.algorithm}


class ProvenanceSpec(Section):
    """What each image file says about its origin."""

    sign: Annotated[
        SignSpec | None,
        Field(description="Sign C2PA content credentials into each file; default: no credentials."),
    ] = None
    embed: Annotated[
        Embed,
        Field(
            description="full: prompt and settings are in each file. minimal: only the marking as "
            "AI-generated, and a hash of the settings. none: no metadata at all."
        ),
    ] = "full"
    when: Annotated[
        Literal["none", "run"],
        Field(
            description="The time in a credential. none: none, so that two runs give the same "
            "bytes. run: when the run was started first."
        ),
    ] = "none"

    @model_validator(mode="after")
    def _times_are_signed(self) -> Self:
        if self.when == "run" and self.sign is None:
            raise ValueError("when: run is a time in a credential, so it needs sign as well")
        return self

    @property
    def certificate_url(self) -> str | None:
        """Where the certificate lies; a run's own job holds its text instead."""
        sign = self.sign
        return None if sign is None or is_pem(sign.certificate) else sign.certificate

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bytes of image files, as JSON values; empty for the defaults."""
        if self == ProvenanceSpec():
            return {}
        sign = None if self.sign is None else self.sign.identity
        return {"sign": sign, "embed": self.embed, "when": self.when}

"""The certificates of a signer, and what C2PA asks of them.

Reference: C2PA Technical Specification 2.2, section 14.5, "X.509 Certificates".
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.provenance_section import certificates_in

MAX_CHAIN_BYTES = 32_768
"""A credential must fit one segment of a JPEG file, and every image has one."""

C2PA_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
PURPOSES = (ExtendedKeyUsageOID.EMAIL_PROTECTION, DOCUMENT_SIGNING, C2PA_SIGNING)
"""Extended key usages that readers accept for content credentials."""

T = TypeVar("T", bound=x509.ExtensionType)


@dataclass(frozen=True)
class CertificateChain:
    """The certificate of a signer and those that issued it, each before its issuer."""

    ders: tuple[bytes, ...]

    @classmethod
    def of_pem(cls, pem: str) -> "CertificateChain":
        """The certificates of a PEM text.

        Raises:
            ValueError: there is none, or one cannot be read.
        """
        chain = cls(certificates_in(pem))
        if not chain.ders:
            raise ValueError("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")
        for number, der in enumerate(chain.ders, start=1):
            try:
                x509.load_der_x509_certificate(der)
            except ValueError as error:
                raise ValueError(f"certificate {number} cannot be read: {error}") from error
        return chain

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The parsed certificates.

        Raises:
            ValueError: one cannot be parsed.
        """
        return tuple(map(x509.load_der_x509_certificate, self.ders))

    @property
    def signer(self) -> x509.Certificate:
        """The certificate that the signing key belongs to."""
        return x509.load_der_x509_certificate(self.ders[0])

    @property
    def sha256(self) -> str:
        """SHA-256 of the signer's certificate in DER, which tools call its fingerprint."""
        return hashlib.sha256(self.ders[0]).hexdigest()

    @property
    def in_words(self) -> str:
        """`CN=press,O=Studio (sha256 1f2e3d4c5b6a, until 2027-11-28)`."""
        until = self.signer.not_valid_after_utc
        return f"{self.subject} (sha256 {self.sha256[:12]}, until {until:%Y-%m-%d})"

    @property
    def subject(self) -> str:
        """The signer's name, such as `CN=press,O=Studio`."""
        return self.signer.subject.rfc4514_string()


def check_chain(chain: CertificateChain, algorithm: str, now: datetime) -> None:
    """Check that certificates can sign content credentials now.

    Args:
        chain: the certificates.
        algorithm: `es256` or `ed25519`.
        now: with a time zone.

    Raises:
        SpecError: they cannot; names the certificate and the reason.
    """
    if sum(map(len, chain.ders)) > MAX_CHAIN_BYTES:
        raise SpecError(f"the chain must have at most {MAX_CHAIN_BYTES:,} bytes")
    certificates = chain.certificates
    for number, each in enumerate(certificates, start=1):
        name = f"certificate {number} ({each.subject.rfc4514_string()})"
        if now < each.not_valid_before_utc:
            raise SpecError(f"{name} is not valid before {each.not_valid_before_utc:%Y-%m-%d}")
        if now > each.not_valid_after_utc:
            raise SpecError(f"{name} expired on {each.not_valid_after_utc:%Y-%m-%d}")
    for number, (each, issuer) in enumerate(pairwise(certificates), start=1):
        _check_issued_by(number, each, issuer)
    _check_signer(certificates[0], algorithm)


def _check_issued_by(number: int, each: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        each.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise SpecError(
            f"certificate {number} ({each.subject.rfc4514_string()}) was not issued by the one "
            f"that follows it ({issuer.subject.rfc4514_string()}); the signer's comes first, "
            "each before its issuer"
        ) from error


def _check_signer(signer: x509.Certificate, algorithm: str) -> None:
    """Check the key and the extensions of the certificate that signs."""
    name = f"certificate 1 ({signer.subject.rfc4514_string()})"
    if signer.issuer == signer.subject:
        raise SpecError(f"{name} signs itself, and readers of credentials trust none that does")
    found = key_kind(signer.public_key())
    if found != algorithm:
        raise SpecError(f"{name} is for {found}, but provenance.sign.algorithm is {algorithm}")
    for what, is_met in _demands(signer).items():
        if not is_met:
            raise SpecError(f"{name} {what}, as C2PA asks of a signer's certificate")


def _demands(signer: x509.Certificate) -> dict[str, bool]:
    """What a certificate must have, as messages say it -> whether it does."""
    basic = _extension(signer, x509.BasicConstraints)
    usage = _extension(signer, x509.KeyUsage)
    purposes = _extension(signer, x509.ExtendedKeyUsage)
    return {
        "must not be that of an authority (CA)": basic is None or not basic.ca,
        "must have the key usage digitalSignature": (
            usage is not None and usage.digital_signature and not usage.key_cert_sign
        ),
        "must have the extended key usage emailProtection or documentSigning": (
            purposes is not None and any(each in PURPOSES for each in purposes)
        ),
        "must name its issuer's key (authority key identifier)": (
            _extension(signer, x509.AuthorityKeyIdentifier) is not None
        ),
    }


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def key_kind(key: object) -> str:
    """What a public or private key can sign with: the algorithm, or another kind in words."""
    match key:
        case ed25519.Ed25519PublicKey() | ed25519.Ed25519PrivateKey():
            return "ed25519"
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
            return "es256" if isinstance(key.curve, ec.SECP256R1) else f"ECDSA on {key.curve.name}"
        case _:
            return type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")

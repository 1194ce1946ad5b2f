"""Sign image files with a private key."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.content_credentials.certificates import (
    CertificateChain,
    key_kind,
)
from nightpress.pipelines.image_files.content_credentials.manifest import manifest_store
from nightpress.pipelines.image_files.content_credentials.parts import with_store
from nightpress.pipelines.image_files.content_credentials.signing_key import (
    KEY,
    KEY_FILE,
    SigningKey,
)
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.job.provenance_section import SignSpec

COORDINATE_BYTES = 32
"""Size of each of the two numbers of an ES256 signature; RFC 9053, section 2.1."""


class Signer:
    """Signs image files with one key.

    Args:
        sign: the job's `provenance.sign`, with the text of the certificate.
        key: the key that its certificate belongs to.

    Raises:
        SpecError: the key cannot be read, is of another kind, or belongs to another certificate.
    """

    def __init__(self, sign: SignSpec, key: SigningKey) -> None:
        self.chain = CertificateChain.of_pem(sign.certificate)
        self._algorithm = sign.algorithm
        self._key = _private_key(key)
        found = key_kind(self._key)
        if found != sign.algorithm:
            raise SpecError(
                f"{key.where} is a key for {found}, but provenance.sign.algorithm is "
                f"{sign.algorithm}"
            )
        if self._key.public_key() != self.chain.signer.public_key():
            raise SpecError(
                f"{key.where} is not the key of provenance.sign.certificate ({self.chain.subject})"
            )

    def signed(self, unsigned: bytes, statement: Statement) -> bytes:
        """The image file with a credential in it; equal arguments give equal bytes.

        Raises:
            ValueError: not a PNG, JPEG or WebP file.
        """
        chain = self.chain.ders
        store = manifest_store(unsigned, statement, chain, self._algorithm, self._signature)
        return with_store(unsigned, store)

    def _signature(self, data: bytes) -> bytes:
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        # The nonce is derived from key and data: RFC 6979.
        der = self._key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        return b"".join(each.to_bytes(COORDINATE_BYTES) for each in decode_dss_signature(der))


def _hint(key: SigningKey) -> str:
    """What a text that is no private key may be, without quoting it."""
    if b"\\n" in key.pem:
        return "; its line breaks are written as \\n, and must be real ones"
    if key.where == KEY and b"-----BEGIN" not in key.pem:
        return f"; {KEY} takes its text, and {KEY_FILE} the path of a file"
    return ""


def _private_key(key: SigningKey) -> ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    try:
        found = load_pem_private_key(key.pem, password=None)
    except TypeError as error:
        raise SpecError(
            f"{key.where}: the key has a passphrase; give it without one, from a secret store"
        ) from error
    except (ValueError, UnsupportedAlgorithm):  # its text may quote the key
        raise SpecError(f"{key.where}: not a private key in PEM{_hint(key)}") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise SpecError(
            f"{key.where}: a key for {key_kind(found)}; provenance.sign takes ECDSA on P-256 "
            "(es256) and Ed25519 (ed25519)"
        )
    return found

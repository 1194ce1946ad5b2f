"""Read the credential of an image file, and check every bit of it.

A credential that nightpress wrote is laid out again from what it says and from the file that it is
in. Only if that gives the same bytes, and the signature over them is right, is it valid.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from nightpress.pipelines.image_files.content_credentials import manifest
from nightpress.pipelines.image_files.content_credentials.certificates import CertificateChain
from nightpress.pipelines.image_files.content_credentials.jumbf import SuperBox, read_box
from nightpress.pipelines.image_files.content_credentials.parts import SignedFile, split
from nightpress.pipelines.image_files.content_credentials.statement import Statement


class InvalidCredential(ValueError):
    """The credential of a file is damaged, was changed, or belongs to another file."""


class ForeignCredential(ValueError):
    """Another program wrote the credential of a file, so it is not checked here."""


@dataclass(frozen=True)
class Credential:
    """What a valid credential says, and who signed it."""

    statement: Statement
    chain: CertificateChain
    algorithm: str
    """`es256` or `ed25519`."""


def read_credential(data: bytes) -> Credential | None:
    """The credential of an image file, once it is found valid; None if the file has none.

    Whether anybody trusts the certificate is not looked at, nor whether it has expired.

    Raises:
        InvalidCredential: it is not valid.
        ForeignCredential: another program wrote it.
    """
    parts = split(data)
    if parts is None:
        return None
    try:
        box = _only_manifest(parts.store)
        found = _Found.in_manifest(box)
        if found.laid_out(parts.unsigned) != parts.store:
            raise InvalidCredential(_difference(box, parts, data))
        found.check_signature(box)
    except InvalidSignature as error:
        raise InvalidCredential("its signature is wrong") from error
    except (InvalidCredential, ForeignCredential):
        raise
    except MALFORMED as error:
        raise InvalidCredential("it is damaged, or not laid out as nightpress does") from error
    return found.credential


def has_valid_credential(data: bytes) -> bool:
    """Whether a file has a credential that is valid."""
    try:
        return read_credential(data) is not None
    except (InvalidCredential, ForeignCredential):
        return False


MALFORMED = (
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError),
    *(cbor2.CBORDecodeError, cbor2.CBOREncodeError, UnsupportedAlgorithm),
)
"""What reading something else than a credential raises."""


@dataclass(frozen=True)
class _Found:
    """What a manifest says, before anything is checked."""

    credential: Credential
    protected: bytes
    signature: bytes

    @classmethod
    def in_manifest(cls, box: SuperBox) -> "_Found":
        claim = _claim(box)
        tagged = cbor2.loads(box.child(manifest.SIGNATURE).cbor)
        protected, _, _, signature = tagged.value
        header = cbor2.loads(protected)
        chain = header[manifest.COSE_CHAIN]
        chain = (chain,) if isinstance(chain, bytes) else tuple(chain)
        algorithms = {number: name for name, number in manifest.COSE_ALGORITHMS.items()}
        algorithm = algorithms[header[manifest.COSE_ALGORITHM]]
        action = _assertion(box, manifest.ACTIONS)["actions"][0]
        statement = Statement(
            software=action["softwareAgent"]["name"],
            version=action["softwareAgent"].get("version"),
            title=claim.get("dc:title"),
            when=_time(action.get("when")),
        )
        return cls(Credential(statement, CertificateChain(chain), algorithm), protected, signature)

    def laid_out(self, unsigned: bytes) -> bytes:
        """The store as nightpress would have written it for a file."""
        found = self.credential
        return manifest.manifest_store(
            unsigned, found.statement, found.chain.ders, found.algorithm, lambda _: self.signature
        )

    def check_signature(self, box: SuperBox) -> None:
        data = manifest.signed_bytes(self.protected, box.child(manifest.CLAIM).cbor)
        key = x509.load_der_x509_certificate(self.credential.chain.ders[0]).public_key()
        match key, self.credential.algorithm:
            case ed25519.Ed25519PublicKey(), "ed25519":
                key.verify(self.signature, data)
            case ec.EllipticCurvePublicKey(), "es256":
                half = len(self.signature) // 2
                pair = (self.signature[:half], self.signature[half:])
                der = encode_dss_signature(*map(int.from_bytes, pair))
                key.verify(der, data, ec.ECDSA(hashes.SHA256()))
            case _:
                raise InvalidCredential("its certificate is not for the algorithm of its signature")


def _only_manifest(store: bytes) -> SuperBox:
    """The manifest of a store, if nightpress wrote it."""
    boxes = read_box(store).content
    if isinstance(boxes, bytes) or not boxes:
        raise InvalidCredential("it holds no manifest")
    *earlier, active = boxes
    if earlier or _claim(active).get("claim_generator_info") != manifest.GENERATOR:
        raise ForeignCredential("another program wrote its credential")
    return active


def _claim(box: SuperBox) -> dict[str, Any]:
    """The claim of a manifest; an older kind of claim is another program's."""
    try:
        claim = box.child(manifest.CLAIM)
    except ValueError as error:
        raise ForeignCredential("another program wrote its credential") from error
    values = cbor2.loads(claim.cbor)
    if not isinstance(values, dict):
        raise InvalidCredential("its claim is not a mapping")
    return values


def _assertion(box: SuperBox, label: str) -> Any:
    return cbor2.loads(box.child(manifest.ASSERTIONS).child(label).cbor)


def _time(value: object) -> str | None:
    """A time as it is written: CBOR's readers turn it into a number of their own."""
    if value is None or not isinstance(value, datetime):
        return None
    return f"{value:%Y-%m-%dT%H:%M:%SZ}"


def _difference(box: SuperBox, parts: SignedFile, data: bytes) -> str:
    """Why a credential is not the one of the file that it is in."""
    rest = data[: parts.start] + data[parts.start + parts.length :]
    hashed = _assertion(box, manifest.DATA_HASH).get("hash")
    if hashed != hashlib.sha256(rest).digest():
        return "the file has changed since it was signed, or the credential is another file's"
    return "the credential has changed since it was signed"

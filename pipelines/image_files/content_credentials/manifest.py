"""One C2PA manifest: what it states about an image, and how it is laid out.

Its ids are derived from the image and the statement, its hashes have no salt, and the space that
others reserve for time stamps is left out, so equal inputs give equal bytes.
Reference: C2PA Technical Specification 2.2: section 10, "Claims"; section 18.15, "Actions".
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import cbor2

from nightpress.pipelines.image_files.content_credentials.jumbf import SuperBox
from nightpress.pipelines.image_files.content_credentials.parts import (
    covered,
    credential_size,
    credential_start,
)
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, CREATOR

LAYOUT_VERSION = "1"
"""Version of what this module writes. Another layout needs another number, and this one stays."""

GENERATOR = {"name": CREATOR, "version": LAYOUT_VERSION}
"""The claim generator, which tells our credentials from those of c2pa-python."""

NAMESPACE = uuid.UUID("5b8ccf3a-7b1b-5d0e-9c55-0f6f5a1b7e10")
"""Namespace of the ids of manifests and of the images that they are in."""

STORE, ASSERTIONS = "c2pa", "c2pa.assertions"
CLAIM, SIGNATURE = "c2pa.claim.v2", "c2pa.signature"
ACTIONS, DATA_HASH = "c2pa.actions.v2", "c2pa.hash.data"

COSE_SIGN1 = 18
"""CBOR tag of a signature; RFC 9052, section 4.2."""
COSE_ALGORITHM, COSE_CHAIN = 1, 33
"""Keys of its header: RFC 9052, section 3.1, and RFC 9360, section 2."""
COSE_ALGORITHMS = {"es256": -7, "ed25519": -8}
"""RFC 9053, section 2."""

SIGNATURE_BYTES = 64
"""Size of a signature of either algorithm."""

NO_HASH = bytes(32)
"""Takes the place of a SHA-256 while the size is computed."""

Sign = Callable[[bytes], bytes]


def manifest_store(
    unsigned: bytes, statement: Statement, chain: tuple[bytes, ...], algorithm: str, sign: Sign
) -> bytes:
    """The credential of an image file, to be put into it by `parts.with_store`.

    Args:
        unsigned: the file.
        statement: what to say about it.
        chain: certificates in DER, the signer's first.
        algorithm: `es256` or `ed25519`.
        sign: signs bytes; called once. 64 bytes, `r` and `s` one after the other for ES256.

    Raises:
        ValueError: not a PNG, JPEG or WebP file.
    """
    layout = _Layout(unsigned, statement, chain, algorithm)
    size, pad = layout.size()
    assertions = layout.assertions(size, layout.data_hash(size), pad)
    return layout.store(assertions, sign(layout.signed_bytes(assertions)))


def signed_bytes(protected: bytes, claim: bytes) -> bytes:
    """What a signature covers: RFC 9052, section 4.4, `Sig_structure`."""
    return cbor2.dumps(["Signature1", protected, b"", claim])


class _Layout:
    """A manifest of one image, whose size is not known yet."""

    def __init__(
        self, unsigned: bytes, statement: Statement, chain: tuple[bytes, ...], algorithm: str
    ) -> None:
        self._unsigned, self._statement = unsigned, statement
        self._sha256 = hashlib.sha256(unsigned)
        signer = hashlib.sha256(b"".join(chain)).hexdigest()
        named = [self._sha256.hexdigest(), algorithm, signer, *astuple(statement)]
        self._image = uuid.uuid5(NAMESPACE, self._sha256.hexdigest())
        self._label = f"urn:c2pa:{uuid.uuid5(NAMESPACE, json.dumps(named))}"
        header = {COSE_ALGORITHM: COSE_ALGORITHMS[algorithm]}
        one_or_all = list(chain) if len(chain) > 1 else chain[0]  # RFC 9360: one is no list
        self._protected = cbor2.dumps(header | {COSE_CHAIN: one_or_all})

    def store(self, assertions: tuple[SuperBox, ...], signature: bytes) -> bytes:
        """The whole store."""
        claim = SuperBox(b"c2cl", CLAIM, self._claim(assertions))
        cose = cbor2.dumps(cbor2.CBORTag(COSE_SIGN1, [self._protected, {}, None, signature]))
        signed = SuperBox(b"c2cs", SIGNATURE, cose)
        inside = (SuperBox(b"c2as", ASSERTIONS, assertions), claim, signed)
        manifest = SuperBox(b"c2ma", self._label, inside)
        return SuperBox(b"c2pa", STORE, (manifest,)).to_bytes()

    def signed_bytes(self, assertions: tuple[SuperBox, ...]) -> bytes:
        return signed_bytes(self._protected, self._claim(assertions))

    def data_hash(self, size: int) -> bytes:
        """SHA-256 of the file to which a store of `size` bytes is added, without that store."""
        rest = covered(self._unsigned, credential_size(self._unsigned, size))
        same = rest is self._unsigned
        return (self._sha256 if same else hashlib.sha256(rest)).digest()

    def size(self) -> tuple[int, bytes]:
        """Bytes of the store, and the padding that makes them even.

        WebP pads chunks of odd sizes, and c2pa-rs 0.38 does not take that byte for a part of the
        credential.
        """
        size, pad = 0, b""
        while True:  # the size is among what is hashed, and a larger number may be longer
            assertions = self.assertions(size, NO_HASH, pad)
            needed = len(self.store(assertions, bytes(SIGNATURE_BYTES)))
            if needed == size:
                return size, pad
            size = needed + needed % 2
            pad += bytes(needed % 2)

    def assertions(self, size: int, hashed: bytes, pad: bytes) -> tuple[SuperBox, ...]:
        added = credential_size(self._unsigned, size)
        data_hash = {
            "exclusions": [{"start": credential_start(self._unsigned), "length": added}],
            "name": "jumbf manifest",
            "alg": "sha256",
            "hash": hashed,
            "pad": pad,
        }
        contents = {ACTIONS: {"actions": [self._created()]}, DATA_HASH: data_hash}
        return tuple(SuperBox(b"cbor", name, cbor2.dumps(c)) for name, c in contents.items())

    def _created(self) -> dict[str, Any]:
        agent = {"name": self._statement.software}
        if self._statement.version is not None:
            agent["version"] = self._statement.version
        action: dict[str, Any] = {
            "action": "c2pa.created",
            "softwareAgent": agent,
            "digitalSourceType": AI_GENERATED,
        }
        if self._statement.when is not None:
            action["when"] = cbor2.CBORTag(0, self._statement.when)
        return action

    def _claim(self, assertions: tuple[SuperBox, ...]) -> bytes:
        claim: dict[str, Any] = {
            "instanceID": f"xmp:iid:{self._image}",
            "claim_generator_info": GENERATOR,
        }
        if self._statement.title is not None:
            claim["dc:title"] = self._statement.title
        references = [
            {
                "url": f"self#jumbf={ASSERTIONS}/{each.label}",
                "hash": hashlib.sha256(each.payload()).digest(),
            }
            for each in assertions
        ]
        signature = f"self#jumbf=/{STORE}/{self._label}/{SIGNATURE}"
        claim |= {"signature": signature, "created_assertions": references, "alg": "sha256"}
        return cbor2.dumps(claim)

"""How the image files of a run are written, and how they are recognised and checked."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips.mp4 import require_av
from nightpress.pipelines.image_files.content_credentials import require_packages
from nightpress.pipelines.image_files.content_credentials.parts import split
from nightpress.pipelines.image_files.content_credentials.signing_key import NO_KEY, SigningKey
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.embedded_metadata import CREATOR, SealedFacts
from nightpress.pipelines.image_files.encoding import encode, is_whole, read_embedded
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.provenance_section import ProvenanceSpec, SignSpec
from nightpress.pipelines.records import ImageFacts

Encoder = Callable[[np.ndarray, ImageFacts], bytes]
"""Turns pixels, uint8 (H, W, 3) RGB, and the facts of an image into its file."""


@dataclass(frozen=True)
class FileFormat:
    """How the image files of one run are written."""

    images: ImagesSpec
    provenance: ProvenanceSpec
    started_at: str
    """When the run was started first: ISO 8601."""

    def encoder(self, key: SigningKey | None) -> Encoder:
        """What encodes the images, and signs them if the run has them signed.

        Args:
            key: of the certificate that the run names.

        Raises:
            SpecError: the images are to be signed, and the key is missing or another one; or a
                package is missing.
        """
        sign, embed = self.provenance.sign, self.provenance.embed
        if self.images.format == "mp4":
            require_av("images.format: mp4")
        if sign is None:
            return lambda pixels, facts: encode(pixels, facts, self.images, embed)
        if key is None:
            raise SpecError(NO_KEY)
        require_packages()
        from nightpress.pipelines.image_files.content_credentials.signer import Signer

        signer = Signer(sign, key)

        def encode_and_sign(pixels: np.ndarray, facts: ImageFacts) -> bytes:
            unsigned = encode(pixels, facts, self.images, embed)
            return signer.signed(unsigned, self.statement(facts))

        return encode_and_sign

    def recognized(
        self, data: bytes, planned: Callable[[int], ImageFacts], max_batch_size: int
    ) -> ImageFacts | None:
        """The facts of a stored file that is exactly a planned image; None if it is not.

        Args:
            data: the file.
            planned: batch size -> the facts of the image, without the hashes of its inputs.
            max_batch_size: a batch that did not fit was made smaller than planned.
        """
        found = read_embedded(data) if is_whole(data) else None
        if found is None or not 1 <= found.batch_size <= max_batch_size:
            return None
        expected = planned(found.batch_size)
        is_sealed = isinstance(found, SealedFacts)
        if is_sealed != (self.provenance.embed == "minimal"):
            return None
        facts = found.opened(expected) if isinstance(found, SealedFacts) else found
        if facts is None or facts.without_hashes != expected:
            return None
        return facts if self.wrong_credential(data, facts) is None else None

    @property
    def tells_nothing(self) -> bool:
        """Whether the files have no metadata by which they could be recognised."""
        return self.provenance.embed == "none"

    @property
    def signed_by(self) -> str | None:
        """The signer, the SHA-256 of the certificate, and when it expires; None without one."""
        if self.provenance.sign is None:
            return None
        from nightpress.pipelines.image_files.content_credentials.certificates import (
            CertificateChain,
        )

        return CertificateChain.of_pem(self.provenance.sign.certificate).in_words

    def wrong_facts(self, data: bytes, facts: ImageFacts) -> str | None:
        """How a file's embedded metadata differs from the facts of its image; None if it fits."""
        expected = {"full": facts, "minimal": SealedFacts.of(facts), "none": None}
        if read_embedded(data) != expected[self.provenance.embed]:
            return "the embedded metadata differs from the metadata row"
        return None

    def wrong_credential(self, data: bytes, facts: ImageFacts) -> str | None:
        """What is wrong with a file's credential, or that it has one; None if all is right.

        Whether the certificate has expired is not looked at.
        """
        sign = self.provenance.sign
        if sign is None:
            return None if split(data) is None else "it has a credential, but the run signs none"
        return _wrong_credential(data, sign, self.statement(facts))

    def statement(self, facts: ImageFacts) -> Statement:
        """What the credential of an image says."""
        when = None
        if self.provenance.when == "run":
            started = datetime.fromisoformat(self.started_at).astimezone(UTC)
            when = f"{started:%Y-%m-%dT%H:%M:%SZ}"
        if self.provenance.embed == "full":
            return Statement(facts.model, facts.model_fingerprint, facts.image_id, when)
        return Statement(CREATOR, when=when)


def _wrong_credential(data: bytes, sign: SignSpec, statement: Statement) -> str | None:
    from nightpress.pipelines.image_files.content_credentials.certificates import CertificateChain
    from nightpress.pipelines.image_files.content_credentials.validation import (
        ForeignCredential,
        InvalidCredential,
        read_credential,
    )

    try:
        found = read_credential(data)
    except (InvalidCredential, ForeignCredential) as error:
        return str(error)
    if found is None:
        return "it has no credential, but the run signs its images"
    if found.chain != CertificateChain.of_pem(sign.certificate):
        return f"it is signed by {found.chain.subject}, which is not the run's certificate"
    if found.algorithm != sign.algorithm or found.statement != statement:
        return "its credential does not say what the run's credentials say"
    return None

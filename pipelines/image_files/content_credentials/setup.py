"""What a job that signs its images needs before it starts: certificate and key, checked."""

import ssl
from datetime import UTC, datetime

from nightpress.pipelines.errors import SpecError, StoreDenied, StoreMissing
from nightpress.pipelines.image_files.content_credentials import require_packages
from nightpress.pipelines.image_files.content_credentials.signing_key import (
    SigningKey,
    key_from_environment,
)
from nightpress.pipelines.job.provenance_section import PRIVATE_KEY, SignSpec, is_pem
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import Options, open_source, require_answers

MAX_FILE_BYTES = 2**20
"""More than any chain of certificates has."""

WHERE = "provenance.sign.certificate"


def with_certificate(spec: RunSpec) -> RunSpec:
    """The job with the text of its certificate in place of its URL, as a run records it.

    Raises:
        SpecError: the certificate cannot sign content credentials now, or a package is missing.
        StoreError: it cannot be read.
    """
    sign = spec.provenance.sign
    if sign is None:
        return spec
    try:
        signed = checked_section(sign, spec.storage)
    except (SpecError, StoreMissing, StoreDenied) as error:
        raise type(error)(f"job: {WHERE}: {error}") from error
    provenance = spec.provenance.model_copy(update={"sign": signed})
    return spec.model_copy(update={"provenance": provenance})


def checked_section(sign: SignSpec, options: Options) -> SignSpec:
    """The section with the text of its certificate, which can sign content credentials now.

    Raises:
        SpecError, StoreError: as `with_certificate` raises them.
    """
    require_packages()
    from nightpress.pipelines.image_files.content_credentials.certificates import (
        CertificateChain,
        check_chain,
    )

    where = "" if is_pem(sign.certificate) else f"{sign.certificate}: "
    text = _text(sign.certificate, options)
    try:
        chain = CertificateChain.of_pem(text)
        check_chain(chain, sign.algorithm, datetime.now(UTC))
    except ValueError as error:
        raise SpecError(f"{where}{error}") from error
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, chain.ders))
    return sign.model_copy(update={"certificate": pem})


def signing_key_of(spec: RunSpec) -> SigningKey | None:
    """The key that signs a job's images, from the environment; None if they are not signed.

    Args:
        spec: the job, as `with_certificate` returns it.

    Raises:
        SpecError: there is none, or it does not belong to the certificate.
    """
    sign = spec.provenance.sign
    return None if sign is None else checked_key(sign)


def checked_key(sign: SignSpec) -> SigningKey:
    """The key of a section, as `checked_section` returns it, from the environment.

    Raises:
        SpecError: there is none, or it does not belong to the certificate.
    """
    require_packages()
    from nightpress.pipelines.image_files.content_credentials.signer import Signer

    key = key_from_environment()
    Signer(sign, key)
    return key


def _text(certificate: str, options: Options) -> str:
    """The PEM text of a certificate, or of the file at a URL."""
    if is_pem(certificate):
        return certificate
    require_answers([certificate], options)
    with open_source(certificate, options) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    text = data.decode("ascii", "replace")
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"{certificate}: larger than {MAX_FILE_BYTES:,} bytes, so no PEM file")
    if PRIVATE_KEY.search(text):
        raise SpecError(
            f"{certificate}: holds a private key; keep the certificate in a file of its own, and "
            "the key where the environment says"
        )
    return text

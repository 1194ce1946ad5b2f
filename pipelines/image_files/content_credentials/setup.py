"""What a job that signs its images needs before it starts: certificate and key, checked."""

import ssl
from datetime import UTC, datetime

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.content_credentials import require_packages
from nightpress.pipelines.image_files.content_credentials.signing_key import (
    SigningKey,
    key_from_environment,
)
from nightpress.pipelines.job.provenance_section import PRIVATE_KEY, is_pem
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import open_source, require_answers

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
    require_packages()
    from nightpress.pipelines.image_files.content_credentials.certificates import (
        CertificateChain,
        check_chain,
    )

    where = WHERE if is_pem(sign.certificate) else f"{WHERE}: {sign.certificate}"
    text = _text(spec, where)
    try:
        chain = CertificateChain.of_pem(text)
        check_chain(chain, sign.algorithm, datetime.now(UTC))
    except ValueError as error:
        raise SpecError(f"job: {where}: {error}") from error
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, chain.ders))
    signed = sign.model_copy(update={"certificate": pem})
    provenance = spec.provenance.model_copy(update={"sign": signed})
    return spec.model_copy(update={"provenance": provenance})


def signing_key_of(spec: RunSpec) -> SigningKey | None:
    """The key that signs a job's images, from the environment; None if they are not signed.

    Args:
        spec: the job, as `with_certificate` returns it.

    Raises:
        SpecError: there is none, or it does not belong to the certificate.
    """
    sign = spec.provenance.sign
    if sign is None:
        return None
    require_packages()
    from nightpress.pipelines.image_files.content_credentials.signer import Signer

    key = key_from_environment()
    Signer(sign, key)
    return key


def _text(spec: RunSpec, where: str) -> str:
    """The PEM text of the certificate."""
    sign = spec.provenance.sign
    assert sign is not None  # noqa: S101 - asked for signed jobs only
    if is_pem(sign.certificate):
        return sign.certificate
    require_answers([sign.certificate], spec.storage)
    with open_source(sign.certificate, spec.storage) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    text = data.decode("ascii", "replace")
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"job: {where}: larger than {MAX_FILE_BYTES:,} bytes, so no PEM file")
    if PRIVATE_KEY.search(text):
        raise SpecError(
            f"job: {where}: holds a private key; keep the certificate in a file of its own, and "
            "the key where the environment says"
        )
    return text

"""Sign files with c2pa-python, which has an authority put a time stamp on the signature.

Unlike those of `signer`, such credentials differ each time.
Reference: RFC 3161, "Time-Stamp Protocol".
"""

from io import BytesIO

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import SpecError, StoreError
from nightpress.pipelines.image_files.content_credentials.c2pa_reader import MIME, can_judge
from nightpress.pipelines.image_files.content_credentials.manifest import ACTIONS
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, CREATOR
from nightpress.pipelines.job.provenance_section import SignSpec


def require_c2pa() -> None:
    """Raise if c2pa-python is not installed.

    Raises:
        SpecError: it is missing.
    """
    if not can_judge():
        raise SpecError(
            "time stamps need c2pa-python; install it with: pip install 'nightpress[deliver]'"
        )


def time_stamped(unsigned: bytes, kind: str, sign: SignSpec, key: SigningKey, tsa: str) -> bytes:
    """The file with a credential that has a time stamp.

    Args:
        unsigned: an image file without a credential.
        kind: `png`, `webp` or `jpeg`.
        sign: with the text of the certificate.
        key: of the certificate.
        tsa: URL of the time stamping authority.

    Raises:
        StoreError: the authority does not answer, or c2pa-python cannot sign.
    """
    import c2pa

    action = {"action": "c2pa.created", "digitalSourceType": AI_GENERATED}
    actions = {"label": ACTIONS, "data": {"actions": [action]}}
    manifest = {"claim_generator_info": [{"name": CREATOR}], "assertions": [actions]}
    info = c2pa.C2paSignerInfo(
        alg=sign.algorithm.encode(),
        sign_cert=sign.certificate.encode(),
        private_key=key.pem,
        ta_url=tsa.encode(),
    )
    signed = BytesIO()
    try:
        with c2pa.Builder(manifest) as builder, c2pa.Signer.from_info(info) as signer:
            builder.sign(signer, MIME[kind], BytesIO(unsigned), signed)
    except c2pa.C2paError as error:
        raise StoreError(f"no time stamp from {tsa}: {one_line(error, 200)}") from error
    return signed.getvalue()

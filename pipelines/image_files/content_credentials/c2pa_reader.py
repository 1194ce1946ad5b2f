"""What c2pa-python says of the credential of a file, whichever program wrote it."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from nightpress.diffusion_core.errors import one_line

MIME = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}}
"""Settings of c2pa: a file that is read makes nobody ask the network, and whether its signer can be
trusted is not looked at."""


@dataclass(frozen=True)
class Judgement:
    """Whether a credential is intact, and who signed it."""

    is_intact: bool
    problems: tuple[str, ...] = ()
    """C2PA's codes for what is wrong, such as `assertion.dataHash.mismatch`."""
    signer: str | None = None
    """By its certificate, which nobody here has found trustworthy."""
    signed_at: str | None = None
    """When an authority put a time stamp on the signature; ISO 8601."""


def can_judge() -> bool:
    """Whether c2pa-python is installed."""
    return find_spec("c2pa") is not None


def judge(data: bytes, kind: str) -> Judgement:
    """Have c2pa-python check the credential of a file.

    Args:
        data: a file with a credential.
        kind: `png`, `webp` or `jpeg`.
    """
    import c2pa

    try:
        context = c2pa.Context(c2pa.Settings.from_dict(OFFLINE))
        with c2pa.Reader(MIME[kind], BytesIO(data), context=context) as reader:
            is_intact = reader.get_validation_state() != "Invalid"
            return _judgement(is_intact, json.loads(reader.json()))
    except c2pa.C2paError as error:
        return Judgement(False, (one_line(error, 200),))


def _judgement(is_intact: bool, report: dict[str, Any]) -> Judgement:
    active = report.get("manifests", {}).get(report.get("active_manifest"), {})
    signature = active.get("signature_info", {})
    names = [signature.get("common_name"), signature.get("issuer")]
    results = report.get("validation_results", {}).get("activeManifest", {})
    return Judgement(
        is_intact,
        tuple(dict.fromkeys(str(each["code"]) for each in results.get("failure", ()))),
        ", ".join(filter(None, names)) or None,
        signature.get("time"),
    )

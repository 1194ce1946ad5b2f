"""An authority of our own, certificates that it issues, and what c2pa-python says of their work."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nightpress.pipelines.image_files.content_credentials.signer import Signer
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.job.provenance_section import SignSpec

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

MIME = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
DAY = timedelta(days=1)


def new_key(algorithm: str) -> Key:
    match algorithm:
        case "es256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 2048)


def name_of(text: str) -> x509.Name:
    names = (NameOID.ORGANIZATION_NAME, "Studio"), (NameOID.COMMON_NAME, text)
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in names])


def key_pem(key: Key, passphrase: bytes | None = None) -> str:
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, protection).decode()


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return key_pem(self.key)


def issue(
    name: str,
    issuer: Issued | None,
    algorithm: str = "es256",
    *,
    is_authority: bool = False,
    lasts: tuple[timedelta, timedelta] = (-DAY, 30 * DAY),
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    is_purpose_critical: bool = False,
) -> Issued:
    """A certificate as C2PA asks for it; without an issuer it signs itself."""
    key, now = new_key(algorithm), datetime.now(UTC)
    by = issuer or Issued(None, key)  # type: ignore[arg-type]
    issuer_name = name_of(name) if issuer is None else issuer.certificate.subject
    builder = x509.CertificateBuilder(
        issuer_name, name_of(name), key.public_key(), x509.random_serial_number()
    )
    builder = builder.not_valid_before(now + lasts[0]).not_valid_after(now + lasts[1])
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
    unused = "content_commitment key_encipherment data_encipherment key_agreement crl_sign"
    usage = dict.fromkeys([*unused.split(), "encipher_only", "decipher_only"], False)
    signs = {"digital_signature": not is_authority, "key_cert_sign": is_authority}
    builder = builder.add_extension(x509.KeyUsage(**usage, **signs), critical=True)
    if purpose is not None and not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), is_purpose_critical)
    public = by.key.public_key()
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    builder = builder.add_extension(authority, critical=False)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(own, critical=False)
    digest = None if isinstance(by.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(builder.sign(by.key, digest), key)


@dataclass(frozen=True)
class Studio:
    """An authority, one that it has issued, and a signer of that one."""

    root: Issued
    middle: Issued
    signer: Issued
    algorithm: str

    @classmethod
    def new(cls, algorithm: str = "es256") -> "Studio":
        root = issue("root", None, is_authority=True)
        middle = issue("middle", root, is_authority=True)
        return cls(root, middle, issue("press", middle, algorithm), algorithm)

    @property
    def chain(self) -> str:
        """PEM, as a job's certificate file has it."""
        return self.signer.pem + self.middle.pem

    @property
    def section(self) -> SignSpec:
        return SignSpec(certificate=self.chain, algorithm=self.algorithm)  # type: ignore[arg-type]

    @property
    def key(self) -> SigningKey:
        return SigningKey(self.signer.key_pem.encode())

    @property
    def sign(self) -> Signer:
        return Signer(self.section, self.key)

    def job(self, **values: Any) -> dict[str, Any]:
        """The job's section `provenance`."""
        return {"sign": {"certificate": self.chain, "algorithm": self.algorithm}} | values

    def judged(self, data: bytes, kind: str) -> "Judgement":
        """What c2pa-python says of a file, where our authority is the only one that is trusted."""
        anchors = {"trust_anchors": self.root.pem}
        settings = {"verify": {"verify_trust": True}, "trust": anchors}
        context = c2pa.Context(c2pa.Settings.from_dict(settings))
        with c2pa.Reader(MIME[kind], BytesIO(data), context=context) as reader:
            return Judgement(reader.get_validation_state(), json.loads(reader.json()))


@dataclass(frozen=True)
class Judgement:
    """The state of a credential by c2pa-python, and what it read."""

    state: str
    """`Trusted`, `Valid` or `Invalid`."""
    report: Mapping[str, Any]

    @property
    def failures(self) -> set[str]:
        found = self.report["validation_results"]["activeManifest"]["failure"]
        return {each["code"] for each in found}

    @property
    def manifest(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.report["manifests"][self.report["active_manifest"]]
        return found

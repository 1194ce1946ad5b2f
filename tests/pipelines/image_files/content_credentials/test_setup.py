"""Before a run that signs begins: its certificate and its key are there, fit, and are valid now."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.signers import DAY, Issued, Studio, issue, key_pem, new_key

from nightpress.pipelines.errors import SpecError, StoreMissing
from nightpress.pipelines.image_files import content_credentials
from nightpress.pipelines.image_files.content_credentials.setup import (
    signing_key_of,
    with_certificate,
)
from nightpress.pipelines.image_files.content_credentials.signing_key import (
    KEY,
    KEY_FILE,
    SigningKey,
    key_from_environment,
)
from nightpress.pipelines.image_files.file_format import FileFormat
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.spec import RunSpec


@cache
def studio() -> Studio:
    return Studio.new()


def job(certificate: str | Path, **values: Any) -> RunSpec:
    sign = {"certificate": str(certificate), **values}
    return RunSpec.from_dict(
        {"name": "n", "manifest": "m.csv", "output": "runs", "provenance": {"sign": sign}}
    )


def refusal(spec: RunSpec) -> str:
    with pytest.raises(SpecError) as caught:
        signing_key_of(with_certificate(spec))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY, KEY_FILE):
        monkeypatch.delenv(name, raising=False)


def test_the_file_of_a_certificate_becomes_its_text(tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_text(f"the press\n{studio().chain}")
    spec = job(tmp_path / "chain.pem")
    assert spec.provenance.certificate_url == str(tmp_path / "chain.pem")
    signed = with_certificate(spec)
    assert signed.provenance.sign is not None
    assert signed.provenance.sign.certificate == studio().chain
    assert with_certificate(signed) == signed
    assert signed.provenance.certificate_url is None
    assert signed.changes(with_certificate(job(studio().chain))) == []


def test_another_certificate_or_algorithm_is_another_run() -> None:
    spec, other = (with_certificate(job(each.chain)) for each in (studio(), Studio.new()))
    (change,) = spec.changes(other)
    assert change.field == "provenance.sign.certificate"
    assert len(str(change.old)) == 64


def test_a_job_without_provenance_has_the_identity_that_it_had() -> None:
    plain = RunSpec.from_dict({"name": "n", "manifest": "m.csv", "output": "runs"})
    assert "provenance" not in plain.identity()
    spelled_out = {"sign": None, "embed": "full", "when": "none"}
    same = RunSpec.from_dict(plain.as_dict() | {"provenance": spelled_out})
    assert same.identity() == plain.identity()
    for section in ({"embed": "minimal"}, {"embed": "none"}):
        assert RunSpec.from_dict(plain.as_dict() | {"provenance": section}).changes(plain)


@pytest.mark.parametrize("of_file", [False, True])
def test_the_key_comes_from_the_environment_as_text_or_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_file: bool
) -> None:
    text = studio().signer.key_pem
    (tmp_path / "key.pem").write_text(text)
    monkeypatch.setenv(*(KEY_FILE, str(tmp_path / "key.pem")) if of_file else (KEY, text))
    key = signing_key_of(with_certificate(job(studio().chain)))
    assert key is not None
    assert key.pem.decode() == text
    assert text.splitlines()[1] not in repr(key)


def chain_of(signer: Issued) -> str:
    return signer.pem + studio().middle.pem


CERTIFICATES = {
    "expired on": lambda: chain_of(issue("old", studio().middle, lasts=(-9 * DAY, -DAY))),
    "is not valid before": lambda: chain_of(issue("new", studio().middle, lasts=(DAY, 9 * DAY))),
    "was not issued by the one that follows it": lambda: studio().middle.pem + studio().signer.pem,
    "signs itself": lambda: issue("alone", None).pem,
    "is for RSA, but provenance.sign.algorithm is es256": lambda: chain_of(
        issue("rsa", studio().middle, "rsa")
    ),
    "is for ECDSA on secp384r1, but": lambda: chain_of(issue("p", studio().middle, "p384")),
    "is for ed25519, but provenance.sign.algorithm is es256": lambda: chain_of(
        issue("ed", studio().middle, "ed25519")
    ),
    "must not be that of an authority": lambda: studio().middle.pem,
    "must have the extended key usage emailProtection": lambda: chain_of(
        issue("tls", studio().middle, purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    ),
    "certificate 1 cannot be read": lambda: (
        "-----BEGIN CERTIFICATE-----\nTWFu\n-----END CERTIFICATE-----\n"
    ),
    "not base64": lambda: "-----BEGIN CERTIFICATE-----\nTWF\n-----END CERTIFICATE-----\n",
    "holds no PEM certificate": lambda: "-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n",
    "at most 32,768 bytes": lambda: studio().chain * 60,
}


@pytest.mark.parametrize("reason", CERTIFICATES)
def test_certificates_that_cannot_sign_are_refused_with_the_reason(reason: str) -> None:
    text = refusal(job(CERTIFICATES[reason]()))
    assert text.startswith("job: provenance.sign.certificate: ")
    assert reason in text


def test_a_certificate_file_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    with pytest.raises(
        StoreMissing, match=r"^job: provenance\.sign\.certificate: .*chain\.pem: not found"
    ):
        with_certificate(job(file))
    file.write_text("hello")
    assert f"provenance.sign.certificate: {file}: holds no PEM certificate" in refusal(job(file))
    file.write_text(studio().signer.key_pem + studio().chain)
    assert f"{file}: holds a private key" in refusal(job(file))
    file.write_bytes(bytes(2**20 + 1))
    assert f"{file}: larger than 1,048,576 bytes" in refusal(job(file))


KEYS = {
    "set NIGHTPRESS_SIGNING_KEY to its PEM text": lambda: {},
    "both set": lambda: {KEY: "a", KEY_FILE: "b"},
    "NIGHTPRESS_SIGNING_KEY: not a private key in PEM; NIGHTPRESS_SIGNING_KEY takes its text, and "
    "NIGHTPRESS_SIGNING_KEY_FILE the path of a file": lambda: {KEY: "secret words"},
    "its line breaks are written as \\n, and must be real ones": lambda: {
        KEY: studio().signer.key_pem.replace("\n", "\\n")
    },
    "NIGHTPRESS_SIGNING_KEY_FILE: /no/such/file: No such file": lambda: {KEY_FILE: "/no/such/file"},
    "the key has a passphrase": lambda: {KEY: key_pem(studio().signer.key, b"open sesame")},
    "NIGHTPRESS_SIGNING_KEY: a key for RSA": lambda: {KEY: key_pem(new_key("rsa"))},
    "is a key for ECDSA on secp384r1": lambda: {KEY: key_pem(new_key("p384"))},
    "is a key for ed25519, but": lambda: {KEY: key_pem(new_key("ed25519"))},
    "is not the key of provenance.sign.certificate (CN=press,O=Studio)": lambda: {
        KEY: key_pem(new_key("es256"))
    },
}


@pytest.mark.parametrize("reason", KEYS)
def test_keys_that_cannot_sign_are_refused_and_never_quoted(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = KEYS[reason]()
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    text = refusal(job(studio().chain))
    assert reason in text
    for line in environ.get(KEY, "").splitlines():
        assert len(line) < 8 or line not in text


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"when": "run"}, "needs sign as well"),
        ({"embed": "some"}, "embed"),
        ({"sign": {"certificate": "a.pem", "algorithm": "rs256"}}, "algorithm"),
        ({"sign": {"certificate": "a.pem", "key": "file"}}, "key"),
        ({"sign": {}}, "certificate"),
        ({"sign": {"certificate": "s3://me:word@host/a.pem"}}, "credentials"),
        ({"sign": {"certificate": "a.pem", "keys": 1}}, "keys"),
    ],
)
def test_wrong_sections_are_refused_when_the_job_is_read(
    section: dict[str, Any], reason: str
) -> None:
    values = {"name": "n", "manifest": "m.csv", "output": "runs", "provenance": section}
    with pytest.raises(SpecError, match=reason):
        RunSpec.from_dict(values)


def test_a_private_key_in_a_job_is_refused_without_quoting_it() -> None:
    text = studio().signer.key_pem
    for values in ({"certificate": text}, {"certificate": "a.pem", "key": text.splitlines()[1]}):
        with pytest.raises(SpecError, match=r"provenance\.sign\.(certificate|key): ") as caught:
            job(**values)
        assert text.splitlines()[1] not in str(caught.value)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(content_credentials, "PACKAGES", ("no_such_package",))
    assert "pip install 'nightpress[sign]'" in refusal(job(studio().chain))


def test_images_are_not_signed_without_a_key() -> None:
    provenance = job(studio().chain).provenance
    with pytest.raises(SpecError, match=f"needs a private key: set {KEY} to its PEM text, or"):
        FileFormat(ImagesSpec(), provenance, "2026-01-01T00:00:00+00:00").encoder(None)


def test_the_environment_is_that_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_from_environment({KEY: "x"}) == SigningKey(b"x", KEY)


@pytest.mark.parametrize("algorithm", ["es256", "ed25519"])
def test_keys_and_certificates_with_the_line_breaks_of_windows_are_read(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Studio.new(algorithm)
    certificate, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.write_bytes(maker.chain.replace("\n", "\r\n").encode())
    key.write_bytes(b"\xef\xbb\xbf" + maker.signer.key_pem.replace("\n", "\r\n").encode())
    monkeypatch.setenv(KEY_FILE, str(key))
    spec = with_certificate(job(certificate, algorithm=algorithm))
    assert spec.provenance.sign is not None
    assert spec.provenance.sign.certificate == maker.chain
    assert signing_key_of(spec) is not None

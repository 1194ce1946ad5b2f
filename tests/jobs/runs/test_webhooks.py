"""Webhooks: called at most once, in time, and never told anything by mistake."""

import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.fakes.webhooks import Receiver, receiver

from nightpress.jobs.runs.webhooks import Ended, body_of, missing_urls, not_told, notify
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.notify_section import NotifySpec
from nightpress.pipelines.storage import Store


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def ended(**changes: Any) -> Ended:
    values: dict[str, Any] = {
        "event": "finished",
        "run": "cats",
        "url": "s3://press/cats",
        "lease": 3,
        "exit_code": 3,
        "reason": None,
        "ended_at": "2027-01-15T05:00:00+00:00",
        "num_images": 64,
        "num_done": 64,
        "num_failed": 2,
        "num_made": 40,
        "elapsed_s": 100.0,
        "gpu_s": 400.0,
        "cost": Cost(12.4, "EUR", 0.19),
    }
    return Ended(**values | changes)


def to(env: str, **values: Any) -> NotifySpec:
    return NotifySpec.model_validate({"url_env": env} | values)


def test_a_receiver_gets_one_json_object_once_for_each_end_of_a_start(
    store: Store, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", f"{hooks.url}/200/secret")
    receivers = (to("HOOK", on=["finished", "stopped"]),)
    assert [each.detail for each in notify(store, receivers, ended())] == ["status 200"]
    assert notify(store, receivers, ended()) == []  # the same start again
    assert notify(store, receivers, ended(event="failed")) == []  # nobody wants to know
    assert len(notify(store, receivers, ended(lease=4))) == 1
    (_, body), _ = hooks.bodies
    assert (body["event"], body["exit_code"], body["num_failed"]) == ("finished", 3, 2)
    assert body["cost"] == {"amount": 12.4, "currency": "EUR", "per_image": 0.19}
    assert body["text"].startswith("cats finished (exit code 3): 64 of 64 images done, 2 of them")
    claims = store.list("notified")
    assert sorted(claims) == [
        "notified/00003-finished-HOOK.json",
        "notified/00004-finished-HOOK.json",
    ]
    assert not any(b"secret" in store.read(path) for path in claims)


def test_failing_and_stalling_receivers_cost_neither_the_others_nor_much_time(
    store: Store, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"OK": "/200/s3cret", "BAD": "/500/s3cret", "SLOW": "/stall/s3cret", "AWAY": "/away"}
    for name, path in paths.items():
        monkeypatch.setenv(name, hooks.url + path)
    monkeypatch.setenv("GONE", "http://127.0.0.1:9/s3cret")
    monkeypatch.setenv("ODD", "http://[s3cret")
    receivers = tuple(map(to, [*paths, "GONE", "ODD", "UNSET"]))
    began = time.monotonic()
    answers = {each.url_env: each for each in notify(store, receivers, ended(), timeout_s=1.0)}
    assert time.monotonic() - began < 4
    assert {name: each.ok for name, each in answers.items()} == {
        "OK": True,
        "BAD": False,
        "SLOW": False,
        "AWAY": False,
        "GONE": False,
    }
    assert answers["BAD"].detail == "it answered with status 500"
    assert answers["SLOW"].detail == "no answer within 1 s"
    assert answers["AWAY"].detail == "it answered with status 302"
    assert "refused" in answers["GONE"].detail
    assert "s3cret" not in " ".join(each.warning for each in answers.values())
    assert len(hooks.bodies) == 4  # the redirect was not followed
    assert len(store.list("notified")) == 5


def test_what_cannot_be_called_is_said_at_the_start_without_the_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FTP", "ftp://s3cret")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("BLANK", "  ")
    monkeypatch.setenv("USER", "https://ada:s3cret@example.com/")
    monkeypatch.setenv("SPACE", "https://example.com/s3cret here")
    monkeypatch.setenv("UMLAUT", "https://example.com/s3crät")
    monkeypatch.setenv("GOOD", " https://example.com/s3cret\n")
    names = ("FTP", "EMPTY", "BLANK", "USER", "SPACE", "UMLAUT", "GOOD")
    wrong = {
        "FTP": "holds no http or https URL",
        "EMPTY": "is not set in the environment of this process",
        "BLANK": "is not set in the environment of this process",
        "USER": "holds a URL with a user name, which is not supported",
        "SPACE": "holds a URL with characters that must be percent-encoded",
        "UMLAUT": "holds a URL with characters that must be percent-encoded",
    }
    assert missing_urls(tuple(map(to, names))) == [
        f"notify: {name} {text}; nothing will be sent there" for name, text in wrong.items()
    ]


@pytest.mark.parametrize(
    ("url", "form", "is_slack"),
    [
        ("https://hooks.slack.com/services/T0", None, True),
        ("https://hooks.slack.com/services/T0", "json", False),
        ("https://chat.example.com/hooks/1", None, False),
        ("https://chat.example.com/hooks/1", "slack", True),
        ("https://example.com/?to=hooks.slack.com", None, False),
    ],
)
def test_slack_gets_a_text_alone(url: str, form: str | None, is_slack: bool) -> None:
    values = json.loads(body_of(to("HOOK", format=form), url, ended(reason="it is late")))
    assert (set(values) == {"text"}) is is_slack
    assert values["text"].endswith("s3://press/cats\nit is late")


def test_a_start_that_made_nothing_tells_only_who_does_not_know(
    store: Store, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", f"{hooks.url}/200")
    notify(store, (to("A"),), ended())
    monkeypatch.setenv("B", f"{hooks.url}/200")
    receivers = (to("A"), to("B"))
    assert [each.on for each in not_told(store, receivers, "finished")] == [
        ("failed", "stopped"),
        ("finished", "failed", "stopped"),
    ]
    answers = notify(store, not_told(store, receivers, "finished"), ended(lease=4))
    assert [each.url_env for each in answers] == ["B"]


def test_who_was_told_is_remembered_by_name_when_others_join_the_list(
    store: Store, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "NEW"):
        monkeypatch.setenv(name, f"{hooks.url}/200")
    notify(store, (to("A"), to("A", format="slack")), ended())
    receivers = (to("NEW"), to("A", format="slack"), to("A"), to("A"))
    answers = notify(store, not_told(store, receivers, "finished"), ended(lease=4))
    assert [each.url_env for each in answers] == ["NEW", "A"]  # the third for A is new, too


def test_two_processes_with_the_same_end_call_once(
    store: Store, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", f"{hooks.url}/200")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: notify(store, (to("HOOK"),), ended()), range(8)))
    assert len(hooks.bodies) == 1
    assert sorted(map(len, found)) == [0] * 7 + [1]


def test_a_claim_that_fails_costs_its_own_call_alone(
    hooks: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a claim another process might call, too."""
    for name in ("A", "B"):
        monkeypatch.setenv(name, f"{hooks.url}/200")

    class Failing(Store):
        def create(self, path: str, data: bytes) -> bool:
            if path.endswith("-B.json"):
                raise StoreError("the store is away")
            return super().create(path, data)

    failing = Failing(str(tmp_path / "run"))
    answers = {each.url_env: each for each in notify(failing, (to("A"), to("B")), ended())}
    assert (answers["A"].ok, answers["B"].ok, len(hooks.bodies)) == (True, False, 1)
    assert answers["B"].warning == (
        "notify: B was not told that the run finished: it must not be called without a claim: "
        "the store is away"
    )


def test_a_start_that_ended_before_its_plan_does_not_say_that_there_are_no_images() -> None:
    early = ended(event="stopped", exit_code=4, num_images=0, num_done=0, num_failed=0, num_made=0)
    assert early.text.startswith(
        "cats stopped (exit code 4): it did not get as far as counting images; 0 made in "
    )


def test_a_reason_does_not_steer_slack() -> None:
    reason = "<!channel> cats & dogs"
    slack = json.loads(body_of(to("HOOK", format="slack"), "https://x", ended(reason=reason)))
    assert slack["text"].endswith("\n&lt;!channel&gt; cats &amp; dogs")
    plain = json.loads(body_of(to("HOOK"), "https://x", ended(reason=reason)))
    assert plain["text"].endswith(reason)


def test_a_certificate_of_another_host_is_said_without_the_host(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's message names the host, which is a part of the URL."""
    certificate = self_signed(tmp_path / "other.pem", "other.example.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with receiver(context) as secret:
        monkeypatch.setenv("HOOK", f"{secret.url}/200/s3cret")
        (answer,) = notify(store, (to("HOOK"),), ended())
    assert answer.detail == "it cannot be reached: no TLS connection: certificate verify failed"


def self_signed(path: Path, host: str) -> Path:
    """A certificate for a host, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_format = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(*key_format))
    return path

"""What no browser sends: requests that are cut, slow, packed, doubled or no HTTP at all."""

import gzip
import json
import socket
from contextlib import closing

import pytest
from support.review_client import Client

from nightpress.jobs.reviews import server
from nightpress.pipelines.run_directory.reader import Run


def sent(client: Client, data: bytes, more: bytes = b"", timeout_s: float = 30) -> bytes:
    """Send bytes as they are; returns all that is answered until the connection ends."""
    with closing(socket.create_connection(("127.0.0.1", client.port), timeout_s)) as connection:
        connection.sendall(data)
        if more:
            connection.sendall(more)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def head(client: Client, first_line: str, *lines: str, host: str | None = None) -> bytes:
    known = [f"Host: {host or f'127.0.0.1:{client.port}'}", f"Cookie: {client.cookie}"]
    return "\r\n".join([first_line, *known, *lines, "Connection: close", "", ""]).encode()


def marks_head(client: Client, *lines: str) -> bytes:
    about = (f"Origin: {client.origin}", "Content-Type: application/json")
    return head(client, "POST /api/marks HTTP/1.1", *about, *lines)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def stored(run: Run) -> int:
    return len(run.store.list("review/marks"))


def test_a_body_that_does_not_come_ends_with_one_sentence(
    run: Run, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_S", 0.3)
    answer = sent(client, marks_head(client, "Content-Length: 100"), b"{")
    assert status(answer) == 408
    assert b"the request was not sent whole within 0 s" in answer
    assert stored(run) == 0


def test_a_connection_that_is_cut_is_no_fault_of_the_server(
    run: Run, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(socket.create_connection(("127.0.0.1", client.port), 30)) as connection:
        connection.sendall(marks_head(client, "Content-Length: 100") + b"{")
        assert client.get("/api/marks").status == 200, "it has the request by then"
    assert client.get("/api/marks").status == 200
    assert stored(run) == 0
    assert caplog.records == []


def test_a_packed_body_is_not_unpacked(run: Run, client: Client) -> None:
    body = gzip.compress(b" " * (64 << 20))
    lines = ("Content-Encoding: gzip", f"Content-Length: {len(body)}")
    answer = sent(client, marks_head(client, *lines), body)
    assert status(answer) == 400
    assert b"this is not JSON" in answer


def test_a_body_in_pieces_has_the_same_limit(client: Client) -> None:
    piece = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
    answer = sent(
        client, marks_head(client, "Transfer-Encoding: chunked"), piece * 3 + b"0\r\n\r\n"
    )
    assert status(answer) == 413


def test_two_lengths_of_a_body_are_refused(run: Run, client: Client) -> None:
    hidden = head(client, "GET /api/rows HTTP/1.1")
    lines = ("Content-Length: 5", "Transfer-Encoding: chunked")
    answer = sent(client, marks_head(client, *lines), b"0\r\n\r\n" + hidden)
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.") == 1, "what is hidden in it is not answered"


@pytest.mark.parametrize("port", ["99999", "x", "-1", "80:80"])
def test_a_host_with_a_port_that_there_is_not_is_refused(
    client: Client, caplog: pytest.LogCaptureFixture, port: str
) -> None:
    answer = sent(client, head(client, "GET / HTTP/1.1", host=f"127.0.0.1:{port}"))
    assert status(answer) == 403
    assert caplog.records == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 600,
        b"GET /<script>alert(1)</script> HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"FOO BAR BAZ\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_as_plain_text(
    client: Client, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    answer = sent(client, data)
    assert status(answer) == 400
    assert b"content-type: text/plain" in answer.lower()
    assert caplog.records == []
    assert client.get("/").status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_no_other_method_reaches_marks(run: Run, client: Client, method: str) -> None:
    answer = sent(client, head(client, f"{method} /api/marks HTTP/1.1", f"Origin: {client.origin}"))
    assert status(answer) == 405
    assert stored(run) == 0


def test_another_site_gets_no_leave_to_ask(client: Client) -> None:
    lines = ("Origin: http://evil.example", "Access-Control-Request-Method: POST")
    answer = sent(client, head(client, "OPTIONS /api/marks HTTP/1.1", *lines))
    assert status(answer) == 403
    assert b"access-control-allow" not in answer.lower()


def test_a_websocket_is_not_opened(client: Client) -> None:
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    lines = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
    answer = sent(client, head(client, "GET /api/marks HTTP/1.1", *lines))
    assert status(answer) == 200
    assert b"upgrade: websocket" not in answer.lower()


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"n":' + b"9" * 5_000 + b"}", b'{"n":NaN}', b"\xff\xfe", b"null", b'""'],
)
def test_json_that_is_made_to_hurt_is_refused(run: Run, client: Client, body: bytes) -> None:
    answer = sent(client, marks_head(client, f"Content-Length: {len(body)}"), body)
    assert status(answer) == 400
    assert stored(run) == 0


def test_html_in_an_answer_is_json_that_is_not_sniffed(client: Client) -> None:
    answer = client.get("/image/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(answer.body)["error"].endswith("'<script>alert(1)</script>'")


def test_a_fault_of_the_server_is_logged(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> bytes:
        raise RuntimeError("a fault")

    monkeypatch.setattr(client.reviewed, "marks_body", broken)
    assert client.get("/api/marks").status == 500
    assert "a fault" in str([record.exc_info for record in caplog.records])

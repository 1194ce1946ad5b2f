"""Nobody uses the page but who has the token, under a name that is the server's own."""

import socket
from pathlib import Path

import pytest
from support.made_runs import begin, finish
from support.review_client import Client, review_client

from nightpress.jobs.reviews.access import Access, is_loopback
from nightpress.pipelines.run_directory.reader import Run

PATHS = (
    *("/", "/assets/app.js", "/api/rows", "/api/marks", "/api/facts/1_00"),
    *("/image/1_00", "/atlas/a.webp", "/input/1_00/init_image", "/nothing"),
)


def test_the_token_gives_a_cookie_and_leads_to_the_page(stranger: Client) -> None:
    answer = stranger.open()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b'<meta http-equiv="refresh" content="0; url=/">' in answer.body
    name, *flags = answer.headers["set-cookie"].split("; ")
    assert name.startswith(f"nightpress-{stranger.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
    assert not any(flag.startswith("Domain") for flag in flags)
    assert stranger.tokens[0] not in name, "the cookie is another secret"
    page = stranger.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize("path", PATHS)
def test_without_a_cookie_nothing_is_answered(stranger: Client, path: str) -> None:
    for cookie in ("", f"nightpress-{stranger.port}=guess", f"nightpress-{stranger.port}="):
        stranger.cookie = cookie
        answer = stranger.get(path)
        assert answer.status == 401
        assert answer.error.startswith("no access: open the address that nightpress review has")


def test_marks_are_not_taken_without_a_cookie(stranger: Client) -> None:
    assert stranger.post({}).status == 401


def test_a_token_works_once_and_the_next_one_is_told(stranger: Client) -> None:
    first = stranger.tokens[0]
    stranger.open()
    assert len(stranger.tokens) == 2
    stranger.cookie = ""
    again = stranger.get(f"/?token={first}")
    assert again.status == 403
    assert again.error.startswith("this address was opened before, or is wrong")
    assert "set-cookie" not in again.headers
    assert stranger.open().status == 200, "another browser, with the next token"
    assert stranger.get("/api/rows").status == 200


def test_who_has_a_cookie_may_open_an_old_address_again(client: Client) -> None:
    answer = client.get(f"/?token={client.tokens[0]}")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert len(client.tokens) == 2, "no token was used"


@pytest.mark.parametrize("token", ["", "guess", "%00", "%C3%A9", "%FF", "a" * 10_000])
def test_a_wrong_token_is_refused(stranger: Client, token: str) -> None:
    answer = stranger.get(f"/?token={token}")
    assert answer.status in (400, 403)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}"),
        *("127.0.0.1@evil.example", "evil.example#127.0.0.1", "[::ffff:1.2.3.4]:{port}"),
        *("10.0.0.7:{port}", "127.0.0.1:{port}/x", "nightpress", "[", "0.0.0.0:{port}"),
    ],
)
def test_a_foreign_host_is_refused_even_with_the_cookie(client: Client, host: str) -> None:
    name = host.format(port=client.port)
    for path in ("/", "/api/rows", f"/?token={client.tokens[-1]}"):
        answer = client.get(path, Host=name)
        assert answer.status in (400, 403), name
    assert len(client.tokens) == 2, "no token was used"


def test_a_request_without_a_host_is_refused(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(f"GET /api/rows HTTP/1.0\r\nCookie: {client.cookie}\r\n\r\n".encode())
        assert b" 403 " in connection.recv(200)
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        hosts = f"Host: 127.0.0.1:{client.port}\r\nHost: evil.example\r\n"
        request = f"GET / HTTP/1.1\r\n{hosts}Cookie: {client.cookie}\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.recv(200).split()[1] in (b"400", b"403")


def test_its_own_names_are_answered(client: Client) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert client.get("/api/rows", Host=f"{name}:{client.port}").status == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:{port}"),
        *("http://localhost:{port}", "http://127.0.0.1:{port}.evil.example", "file://"),
    ],
)
def test_a_foreign_origin_is_refused_even_with_the_cookie(client: Client, origin: str) -> None:
    name = origin.format(port=client.port)
    mark = {"session": "s", "n": 0, "marks": []}
    assert client.post(mark, Origin=name).status == 403
    assert client.get("/api/rows", Origin=name).status == 403
    assert client.reviewed.run.store.list("review") == {}


def test_marks_must_say_their_origin(client: Client) -> None:
    answer = client.post({"session": "s", "n": 0, "marks": []}, Origin="")
    assert (answer.status, answer.error) == (
        403,
        "a request that changes something must say its Origin",
    )


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_other_sites_load_is_refused(client: Client, site: str) -> None:
    for mode in ("no-cors", "cors", ""):
        answer = client.get("/image/1_00", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode)
        assert answer.status == 403
    assert client.get("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate").status == 200
    assert client.get("/image/1_00", Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers_that_protect_it(client: Client, path: str) -> None:
    for answer in (client.get(path), client.get(path, Host="evil.example")):
        headers = answer.headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"]
        assert headers["server"] == "nightpress"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    for path in ("/", "/api/marks", "/image/1_00"):
        answer = client.send(method, path, b"", {"Origin": client.origin})
        assert answer.status in (400, 403, 405)


def test_who_listens_on_all_addresses_answers_under_addresses_and_its_own_name(
    tmp_path: Path,
) -> None:
    run = begin(str(tmp_path))
    finish(run)
    with review_client(run, listen="0.0.0.0") as client:
        assert client.get("/api/rows").status == 401, "the token is demanded there, too"
        client.open()
        for name in ("10.0.0.7", socket.gethostname(), "[::1]"):
            assert client.get("/api/rows", Host=f"{name}:{client.port}").status == 200
        assert client.get("/api/rows", Host=f"evil.example:{client.port}").status == 403


def test_a_server_of_one_address_answers_under_that_address_alone(run: Run) -> None:
    assert Access.of_address("192.168.0.4").names == {"192.168.0.4"}
    assert {"127.0.0.1", "localhost"} <= Access.of_address("127.0.0.1").names
    assert [is_loopback(each) for each in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [
        True
    ] * 4
    assert not any(is_loopback(each) for each in ("0.0.0.0", "10.0.0.7", "evil.example", "::"))

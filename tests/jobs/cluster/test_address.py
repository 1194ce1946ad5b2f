"""What is said about an address where no cluster can be joined, within seconds and in one line."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

from nightpress.jobs.cluster import address
from nightpress.jobs.cluster.address import HEAD_METHOD, require_head
from nightpress.jobs.cluster.connection import connect
from nightpress.jobs.errors import ClusterError, ClusterUnavailable
from nightpress.pipelines.job.sections import ClusterSpec

Answer = Callable[[bytes, grpc.ServicerContext], bytes]


@contextmanager
def head(answer: Answer, method: str = HEAD_METHOD) -> Iterator[str]:
    """A server on this machine that answers the first call of a join; gives its address."""
    service, name = method.strip("/").split("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def wants_a_token(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer as the head of a cluster with token authentication does."""
    sent = dict(context.invocation_metadata()).get("authorization")
    if sent != "Bearer the-right-token":
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
    return b""


@pytest.fixture
def token_mode(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Act as if RAY_AUTH_MODE were token, with this token or none; Ray itself reads both once."""

    def set_token(token: str | None) -> None:
        class Loader:
            def has_token(self, **options: Any) -> bool:
                return token is not None

        channel = grpc.insecure_channel

        class WithToken:
            def __init__(self, target: str) -> None:
                self._channel = channel(target)

            def __enter__(self) -> "WithToken":
                return self

            def __exit__(self, *error: object) -> None:
                self._channel.close()

            def unary_unary(self, method: str) -> Callable[..., Any]:
                metadata = [("authorization", f"Bearer {token}")] if token else []
                call = self._channel.unary_unary(method)
                return lambda request, timeout: call(request, timeout=timeout, metadata=metadata)

        mode = address.AuthenticationMode
        monkeypatch.setattr(address, "get_authentication_mode", lambda: mode.TOKEN)
        monkeypatch.setattr(address, "init_grpc_channel", lambda target, options: WithToken(target))
        monkeypatch.setattr(
            address.AuthenticationTokenLoader, "instance", staticmethod(Loader), raising=False
        )

    return set_token


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("http://127.0.0.1:8265", "dashboard.*host:6379"),
        ("https://head.example/ray", "dashboard.*host:6379"),
        ("ray://head:10001", "host:6379"),
        ("head", "host:port"),
        ("head:", "host:port"),
        (":6379", "host:port"),
        ("head:ray", "host:port"),
        ("127.0.0.1:0", "host:port"),
        ("127.0.0.1:70000", "host:port"),
        ("s3://bucket:80", "host:port"),
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9: Connection refused"),
        ("no-such-host.invalid:6379", "no Ray cluster answers at no-such-host.invalid:6379"),
    ],
)
def test_an_address_that_cannot_work_is_refused_in_one_line(wrong: str, words: str) -> None:
    with pytest.raises(ClusterError, match=words) as caught:
        connect(ClusterSpec(address=wrong))
    assert not isinstance(caught.value, ClusterUnavailable)
    assert "\n" not in str(caught.value)


def test_an_address_from_the_environment_is_checked_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    for named in (None, "auto"):
        with pytest.raises(ClusterError, match="dashboard"):
            connect(ClusterSpec(address=named))


def test_a_head_that_does_not_answer_is_a_matter_of_trying_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address, "CONNECT_TIMEOUT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(ClusterUnavailable, match="try again"):
            require_head(f"127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - began < 5


def test_a_cluster_that_asks_for_a_token_says_what_to_set(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disabled = address.AuthenticationMode.DISABLED
    monkeypatch.setattr(address, "get_authentication_mode", lambda: disabled)
    monkeypatch.setattr(
        address, "init_grpc_channel", lambda target, options: grpc.insecure_channel(target)
    )
    with head(wants_a_token) as where:
        with pytest.raises(ClusterError) as caught:
            require_head(where)
        said = capfd.readouterr().err  # before the server ends, which gRPC may comment on
    for word in (where, "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        assert word in str(caught.value)
    assert said == ""


def test_a_wrong_token_is_refused_and_the_right_one_lets_in(
    token_mode: Callable[[str | None], None],
) -> None:
    with head(wants_a_token) as where:
        token_mode("a-wrong-token")
        with pytest.raises(ClusterError, match="refuses this token: set RAY_AUTH_TOKEN"):
            require_head(where)
        token_mode("the-right-token")
        require_head(where)


def test_token_mode_without_a_token_says_what_to_set(
    token_mode: Callable[[str | None], None],
) -> None:
    token_mode(None)
    with (
        head(wants_a_token) as where,
        pytest.raises(ClusterError, match="RAY_AUTH_MODE is token, but there is no token: set"),
    ):
        require_head(where)


def test_a_path_without_a_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        for asked in (address.has_token, address.provide_token):
            with pytest.raises(ClusterError, match=r"^RAY_AUTH_TOKEN_PATH: /nowhere/token cannot"):
                asked()
    finally:
        monkeypatch.undo()
        AuthenticationTokenLoader.instance().reset_cache()


def test_another_service_at_the_port_is_told_from_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        address, "init_grpc_channel", lambda target, options: grpc.insecure_channel(target)
    )
    with (
        head(lambda request, context: b"", "/some.Other/Call") as where,
        pytest.raises(ClusterError, match="another service answers"),
    ):
        require_head(where)

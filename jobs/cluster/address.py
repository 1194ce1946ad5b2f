"""The address of a cluster: what may be written there, and what answers, checked within seconds.

Ray itself tries for minutes, and its log fills the terminal meanwhile.
"""

import os
import secrets
import socket

import grpc
from ray._private.authentication.authentication_token_setup import (
    AuthenticationMode,
    AuthenticationTokenLoader,
    generate_and_save_token,
    get_authentication_mode,
)
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import AuthenticationError

from nightpress.diffusion_core.errors import one_line
from nightpress.jobs.errors import ClusterError, ClusterUnavailable

CONNECT_TIMEOUT_S = 5.0

HEAD_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""A call that every head answers at once, and the first one that Ray itself makes."""

HOW_TO_SEND_IT = (
    "set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it "
    "(default: ~/.ray/auth_token)"
)


def require_head(address: str) -> None:
    """Check that the head of a Ray cluster answers at an address and lets this process in.

    Args:
        address: `host:port`, or `auto` for the cluster that RAY_ADDRESS or a file of Ray names.

    Raises:
        ClusterError: this is no address of a head, nothing listens there, or it wants a token.
        ClusterUnavailable: it does not answer in time.
    """
    _require_form(address)
    target = _resolved(address)
    if target == "auto":  # no file of Ray names a cluster; Ray looks for its processes
        return
    if target != address:
        _require_form(target)
    require_listener(target)
    _require_token()
    _require_answer(target)


def asks_for_a_token(address: str) -> bool | None:
    """Whether a head refuses a call without a token; None if it does not answer."""
    try:
        with grpc.insecure_channel(_resolved(address), [("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary(HEAD_METHOD)(b"", timeout=CONNECT_TIMEOUT_S)
    except grpc.RpcError as error:
        return True if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
    return False


def token_advice(address: str) -> str:
    """What to set where a cluster asks for a token, or refuses the one that this process sends."""
    cluster = f"the Ray cluster at {address}"
    if get_authentication_mode() != AuthenticationMode.TOKEN:
        return f"{cluster} asks for a token: set RAY_AUTH_MODE=token, and {HOW_TO_SEND_IT}"
    if not has_token():
        return f"RAY_AUTH_MODE is token, but there is no token for {cluster}: {HOW_TO_SEND_IT}"
    return f"{cluster} refuses this token: {HOW_TO_SEND_IT}"


def has_token() -> bool:
    """Whether Ray finds a token to send.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH does not name a file that holds one.
    """
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise ClusterError(
            f"RAY_AUTH_TOKEN_PATH: {os.environ.get('RAY_AUTH_TOKEN_PATH')} cannot be read or is "
            "empty; allowed is a file that holds the cluster's token, or set RAY_AUTH_TOKEN to it"
        ) from error


def provide_token() -> None:
    """Give a Ray that is about to start here a token, though the home folder may not be writable.

    Ray itself writes a new token to ~/.ray/auth_token, and does not start if it cannot.
    """
    unused = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if unused or has_token():
        return
    try:
        generate_and_save_token()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    AuthenticationTokenLoader.instance().reset_cache()


def _resolved(address: str) -> str:
    """The address that `auto` stands for here; `auto` itself if no variable or file of Ray says."""
    if address != "auto":
        return address
    return str(get_ray_address_from_environment("auto", None))


def _require_form(address: str) -> None:
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise ClusterError(
            f"{address}: Ray Client does not support the streaming calls that a run needs; start "
            "nightpress on a node of the cluster, with the address host:6379 or auto"
        )
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address}: this is the address of a dashboard; a run joins the cluster itself, so "
            "give the address of its head, such as host:6379 (the port of `ray start --head`), or "
            "auto on one of its nodes"
        )
    host, colon, port = address.rpartition(":")
    if "://" in address or not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ClusterError(
            f"{address}: not the address of a Ray cluster; allowed: host:port of its head, such "
            "as 10.0.0.1:6379, auto for a cluster that this machine belongs to, or local"
        )


def require_listener(address: str) -> None:
    """Check that something listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        reason = error.strerror or error
        message = f"no Ray cluster answers at {address}: {reason}"
        unknown_host = isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
        if unknown_host or isinstance(error, (ConnectionRefusedError, PermissionError)):
            raise ClusterError(message) from error
        raise ClusterUnavailable(f"{message}; try again when its head can be reached") from error


def _require_token() -> None:
    """Check that there is a token if this process is set up to send one."""
    if get_authentication_mode() == AuthenticationMode.TOKEN and not has_token():
        raise ClusterError(f"RAY_AUTH_MODE is token, but there is no token: {HOW_TO_SEND_IT}")


def _require_answer(address: str) -> None:
    """Check that what listens at an address is the head of a cluster that lets us in."""
    try:
        with init_grpc_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary(HEAD_METHOD)(b"", timeout=CONNECT_TIMEOUT_S)
    except grpc.RpcError as error:
        raise _refusal(address, error) from error


def _refusal(address: str, error: grpc.RpcError) -> ClusterError:
    details = one_line(Exception(error.details() or ""), 200)
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return ClusterError(token_advice(address))
        case grpc.StatusCode.UNIMPLEMENTED:
            return ClusterError(
                f"{address}: another service answers, perhaps Ray Client; give the port of "
                "`ray start --head`, usually 6379"
            )
        case grpc.StatusCode.UNAVAILABLE if "HTTP" in details:
            return ClusterError(
                f"{address}: a web server answers, perhaps the dashboard; give the port of "
                "`ray start --head`, usually 6379"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"nothing came within {CONNECT_TIMEOUT_S:.0f} s"
    return ClusterUnavailable(
        f"the Ray cluster at {address} does not answer ({details}); try again when its head has "
        "started or is less busy"
    )

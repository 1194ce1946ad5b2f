"""Ray's Jobs API of one cluster, with errors of one line."""

import logging
import os
import re
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from nightpress.diffusion_core.errors import one_line
from nightpress.jobs.cluster.address import require_listener, token_advice
from nightpress.jobs.errors import ClusterError, ClusterUnavailable

T = TypeVar("T")

DEFAULT_PORT = 8265

CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that tell each step of an upload."""

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
"""How long the answer to a question may take."""

WRITE_TIMEOUT_S = 300.0
"""How long the answer to an upload or a start may take: the head waits for processes of its own."""

SERVER_ERROR = re.compile(r"status code 5\d\d")
"""In Ray's errors: the cluster has failed, and not what was asked of it."""

NO_AGENT = "No available agent"
"""In Ray's errors: the head has waited for a process of its own, and it did not come."""


UNKNOWN_JOB = re.compile(r"status code 404: Job .* does not exist")


class JobExists(ClusterError):
    """The cluster has a job of this id already."""


class JobUnknown(ClusterError):
    """The cluster has no job of this id."""


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which by itself waits for an answer for ever.

    It would also prefer RAY_API_SERVER_ADDRESS and RAY_ADDRESS to the address that it is given.
    """

    def __init__(self, address: str) -> None:
        super(JobSubmissionClient, self).__init__(address)
        self._client_ray_version = ray.__version__
        self._check_connection_and_version(min_version="2.0")
        self._ssl_context = _certificates()

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        read_s = READ_TIMEOUT_S if method == "GET" else WRITE_TIMEOUT_S
        timeout = (CONNECT_TIMEOUT_S, read_s)
        return super()._do_request(method, endpoint, **{"timeout": timeout, **options})


def _certificates() -> ssl.SSLContext | Literal[True]:
    """The certificates that aiohttp is to trust: those that requests trusts."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    if not bundle:
        return True  # None, which Ray passes on, is deprecated in aiohttp
    if os.path.isdir(bundle):
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


@dataclass(frozen=True)
class RemoteJob:
    """What a cluster says about a job."""

    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    exit_code: int | None
    """Of the job's process; None while it runs, and if the cluster ended it."""
    message: str
    entrypoint: str = ""
    """The command of the job's process."""

    @property
    def has_ended(self) -> bool:
        """Whether the job's process has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class JobsClient:
    """Submits, follows and stops the jobs of one cluster.

    Args:
        address: the dashboard's URL, such as `http://head:8265`.

    Raises:
        ClusterError: this is no such URL, there is no such host, or the cluster wants a token.
        ClusterUnavailable: nothing listens there, or it does not answer in time.
    """

    def __init__(self, address: str) -> None:
        self.address = dashboard_url(address)
        parts = urlsplit(self.address)
        _require_dashboard(
            f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        )
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        self._client = self._call(lambda: _Client(self.address))

    def jobs(self) -> dict[str, RemoteJob]:
        """The submitted jobs that the cluster remembers, by their ids."""
        found = self._call(self._client.list_jobs)
        return {each.submission_id: _remote_job(each) for each in found if each.submission_id}

    def get(self, job_id: str) -> RemoteJob:
        """What the cluster says about a job.

        Raises:
            JobUnknown: it has no such job.
        """
        return _remote_job(self._call(lambda: self._client.get_job_info(job_id)))

    def submit(self, job_id: str, entrypoint: str, runtime_env: dict[str, Any]) -> None:
        """Start a job.

        Raises:
            JobExists: another process has just started a job of this id.
        """
        try:
            self._call(
                lambda: self._client.submit_job(
                    entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env
                )
            )
        except ClusterError as error:
            if job_id in self.jobs():
                text = f"{self.address}: a job {job_id} was started just now"
                raise JobExists(text) from error
            if NO_AGENT not in str(error):
                raise
            raise ClusterUnavailable(
                f"{self.address}: the head has no process that starts jobs; it may just have "
                "started, or another Ray of its machine has --dashboard-agent-listen-port"
            ) from error

    def stop(self, job_id: str) -> bool:
        """Ask the cluster to send a job SIGTERM; False if the job has no process now."""
        return bool(self._call(lambda: self._client.stop_job(job_id)))

    async def log(self, job_id: str) -> AsyncGenerator[str]:
        """The output of a job from its beginning, in pieces, until it ends.

        Raises:
            ClusterUnavailable: the link breaks, or there is none; a later try may have one.
        """
        try:
            async for text in self._client.tail_job_logs(job_id):
                yield text
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            raise ClusterUnavailable(one_line(error, 200)) from error

    def _call(self, call: Callable[[], T]) -> T:
        """Call Ray's client, turning its failures into one line."""
        try:
            return call()
        except AuthenticationError as error:
            raise ClusterError(token_advice(self.address)) from error
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code >= 500:
                raise ClusterUnavailable(f"{self.address}: {one_line(error, 200)}") from error
            raise self._not_a_dashboard(one_line(error, 200)) from error
        except (ConnectionError, requests.RequestException) as error:
            cause = error.__context__ or error  # Ray's own says only that there was an error
            if isinstance(cause, requests.exceptions.SSLError):
                raise ClusterError(
                    f"{self.address}: no TLS connection ({one_line(cause, 200)}); give http:// "
                    "where the dashboard has none, or set REQUESTS_CA_BUNDLE to a file with its "
                    "certificate's authority"
                ) from error
            if isinstance(error, requests.exceptions.JSONDecodeError):
                raise self._not_a_dashboard("its answer is not JSON") from error
            if "BadStatusLine" in repr(cause):  # perhaps the port of `ray start`
                raise self._not_a_dashboard("its answer is not HTTP") from error
            raise ClusterUnavailable(
                f"the Ray cluster at {self.address} does not answer ({one_line(error, 200)}); try "
                f"again when its head has started or is less busy, or give the dashboard's port, "
                f"usually {DEFAULT_PORT}"
            ) from error
        except OSError as error:  # of the file that REQUESTS_CA_BUNDLE names
            raise ClusterError(f"{self.address}: {one_line(error, 200)}") from error
        except (KeyError, TypeError) as error:
            raise self._not_a_dashboard("its answer is not one of Ray's") from error
        except (RuntimeError, ValueError) as error:
            reason = one_line(error, 500)
            raise _kind(reason)(f"{self.address}: {reason}") from error

    def _not_a_dashboard(self, why: str) -> ClusterError:
        return ClusterError(
            f"{self.address}: another service than Ray's dashboard answers ({why}); its "
            f"port is usually {DEFAULT_PORT}"
        )


def _kind(reason: str) -> type[ClusterError]:
    """The error that a reason of Ray's client stands for."""
    if UNKNOWN_JOB.search(reason):
        return JobUnknown
    return ClusterUnavailable if SERVER_ERROR.search(reason) else ClusterError


def _require_dashboard(address: str) -> None:
    """Check that something listens there; a head that restarts refuses connections meanwhile."""
    try:
        require_listener(address)
    except ClusterUnavailable:
        raise
    except ClusterError as error:
        if not isinstance(error.__cause__, ConnectionRefusedError):
            raise
        raise ClusterUnavailable(f"{error}; try again when its head has started") from error


def dashboard_url(address: str) -> str:
    """The URL of a dashboard, with a scheme and a port.

    Raises:
        ClusterError: it cannot be one.
    """
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url.rstrip("/"))
    try:
        port = parts.port
        if port is None and parts.scheme != "https":
            port = DEFAULT_PORT
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ClusterError(
            f"--to {address}: not the address of a Ray dashboard; allowed: http://host:8265 or "
            "https://host"
        )
    if parts.username or parts.password:
        raise ClusterError("--to: the URL holds credentials; Ray's token comes from RAY_AUTH_TOKEN")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"


def _remote_job(details: JobDetails) -> RemoteJob:
    return RemoteJob(
        str(details.status.value),
        details.driver_exit_code,
        details.message or "",
        details.entrypoint or "",
    )

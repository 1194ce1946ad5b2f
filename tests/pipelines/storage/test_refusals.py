"""Messages for stores that cannot be used: one line with the URL and without credentials."""

import errno
import json
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import servers
from support.fakes.faulty_proxy import Trouble, proxy
from support.servers import Folder, Server

from nightpress.pipelines.errors import StoreDenied, StoreError
from nightpress.pipelines.storage import RetryPolicy, Store, find
from nightpress.pipelines.storage.drivers import StoreLocation, store_error_for

SECRET = "a-wrong-but-still-secret-value"


def refusal(store: Store) -> str:
    with pytest.raises(StoreDenied) as caught:
        store.check()
    message = str(caught.value)
    assert "\n" not in message
    for secret in (SECRET, servers.SECRET_KEY, servers.ACCESS_KEY):
        assert secret not in message
    return message


def test_an_endpoint_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = servers.free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    message = refusal(Store("s3://press/run", {"s3": {"endpoint_url": endpoint}}))
    assert message.startswith(f"s3://press/run: cannot reach {endpoint}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert refusal(Store("s3://press/run")) == message


def test_an_endpoint_that_resets_connections_is_not_called_wrong() -> None:
    with proxy("http://127.0.0.1:9") as faulty:
        faulty.order("GET", [Trouble.LOST_REQUEST] * 20)
        with pytest.raises(StoreError) as caught:
            Store("s3://press/run", faulty.options).check()
    assert not isinstance(caught.value, StoreDenied)
    said = f"s3://press/run: {faulty.endpoint} keeps failing ([Errno 104] Connection reset by peer)"
    assert str(caught.value).startswith(said)


def test_an_unknown_host() -> None:
    options = {"s3": {"endpoint_url": "http://store.invalid:9000"}}
    message = refusal(Store("s3://press/run", options))
    assert "cannot reach http://store.invalid:9000" in message


def test_an_endpoint_that_is_not_a_url() -> None:
    message = refusal(Store("s3://press/run", {"s3": {"endpoint_url": "127.0.0.1:9000"}}))
    assert "endpoint_url '127.0.0.1:9000' must begin with http:// or https://" in message


def test_an_endpoint_that_contains_a_password() -> None:
    options = {"s3": {"endpoint_url": f"http://me:{SECRET}@127.0.0.1:9"}}
    message = refusal(Store("s3://press/run", options))
    assert "endpoint_url must be an address alone, such as 'http://127.0.0.1:9'" in message


@pytest.mark.parametrize("server", ["seaweed", "moto_s3", "rclone_s3"])
def test_a_missing_bucket(server: str, request: pytest.FixtureRequest) -> None:
    running: Server = request.getfixturevalue(server)
    message = refusal(Store("s3://nobody-made-this/run", running.options))
    expected = f"s3://nobody-made-this/run: {running.endpoint} has no bucket 'nobody-made-this'"
    assert message == expected


@pytest.mark.parametrize("server", ["seaweed", "rclone_s3"])
@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials(
    server: str, variable: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Folder = request.getfixturevalue(server).folder()
    monkeypatch.setenv(variable, SECRET)
    message = refusal(Store(f"{folder.url}/run", folder.options))
    assert "rejects the credentials" in message
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment" in message


def test_no_credentials(bucket: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    message = refusal(Store(f"{bucket.url}/run", bucket.options))
    assert "no credentials (Unable to locate credentials)" in message
    assert "looked for in AWS_ACCESS_KEY_ID" in message


def test_an_unknown_profile(bucket: Folder) -> None:
    options = {"s3": {**bucket.options["s3"], "profile": "studio"}}
    message = refusal(Store(f"{bucket.url}/run", options))
    assert "profile 'studio' (storage.s3.profile or AWS_PROFILE)" in message


def test_a_bucket_that_can_only_be_read(seaweed: Server) -> None:
    name = f"readers-{uuid.uuid4().hex[:8]}"
    driver = seaweed.driver()
    driver.mkdir(name)
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject"],
        "Resource": [f"arn:aws:s3:::{name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    driver.call_s3("put_bucket_policy", Bucket=name, Policy=policy)
    message = refusal(Store(f"s3://{name}/run", seaweed.options))
    assert f"{seaweed.endpoint} denies permission (AccessDenied)" in message


@pytest.mark.parametrize(
    "wrong", [{"client_kwargs": {"region": "x"}}, {"config_kwargs": {"time_out": 5}}]
)
def test_an_option_that_the_driver_rejects(wrong: dict[str, Any]) -> None:
    message = refusal(Store("s3://press/run", {"s3": wrong}))
    assert message.startswith("s3://press/run: the driver rejects the options in storage.s3 (")


def test_a_driver_that_is_not_installed() -> None:
    assert refusal(Store("gs://press/run")).endswith(
        "no driver for gs:// is installed; install gcsfs"
    )


def test_s3_without_its_driver_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from nightpress.pipelines.storage import Store\n"
        "from nightpress.pipelines.errors import StoreDenied\n"
        "try: Store('s3://press/run').check()\n"
        "except StoreDenied as error: print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    expected = "s3://press/run: no driver for s3:// is installed; install s3fs\n"
    assert printed.stdout == expected, printed.stderr


def test_an_unknown_protocol() -> None:
    assert "nosuch" in refusal(Store("nosuch://press/run"))


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"1")
    message = refusal(Store(str(tmp_path / "out" / "run")))
    assert message == f"{tmp_path}/out/run: {tmp_path}/out is a file, not a folder"


def test_a_folder_that_cannot_be_written() -> None:
    # Not even root can create a file there.
    assert refusal(Store("/proc/night/run")).endswith("is not writable")


def test_a_disk_that_is_full_at_the_start_may_have_room_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        Store(str(tmp_path / "run")).check()
    assert not isinstance(caught.value, StoreDenied)


def test_a_name_that_the_disk_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="File name too long"):
        Store(str(tmp_path)).create("x" * 300, b"1")


def test_find_is_refused_until_the_credentials_are_right(bucket: Folder) -> None:
    Store(*bucket).create("prompts.txt", b"a cat")
    url = f"{bucket.url}/prompts.txt"

    def look() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
            with pytest.raises(StoreDenied, match="rejects the credentials"):
                find([url], bucket.options)
        assert [source.url for source in find([url], bucket.options)] == [url]

    with ThreadPoolExecutor(1) as pool:  # drivers are kept by thread; this one has none yet
        pool.submit(look).result()


def test_a_refused_request_is_not_retried(bucket: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with proxy(bucket.options["s3"]["endpoint_url"]) as faulty:
        store = Store(bucket.url, faulty.options, RetryPolicy(attempts=5))
        with pytest.raises(StoreDenied):
            store.create("a", b"1")
        assert faulty.requests["PUT"] == 1


def test_credentials_in_a_drivers_message_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    error = store_error_for(OSError(f"tried\nwith {SECRET}"), StoreLocation("s3://press/run", {}))
    assert str(error) == "s3://press/run: tried with ***"

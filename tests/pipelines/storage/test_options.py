"""fsspec options reach the driver of their own protocol alone, and wrong names are refused."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.servers import Folder

from nightpress.pipelines.errors import SpecError, StoreDenied
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import Store, find, open_source
from nightpress.pipelines.storage.options import links, options_by_link

ENDPOINT = {"endpoint_url": "http://127.0.0.1:9"}
ALL: dict[str, dict[str, Any]] = {
    "s3": ENDPOINT,
    "http": {"block_size": 7},
    "memory": {},
    "zip": {"compression": 8},
    "simplecache": {"same_names": True},
    "file": {"auto_mkdir": True},
    "gs": {"project": "p"},
    "ftp": {"host": "h"},
}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/k", {"s3": ENDPOINT}),
        ("s3a://b/k", {"s3a": ENDPOINT}),
        ("http://h/x.csv", {"http": {"block_size": 7}}),
        ("https://h/x.csv", {"https": {"block_size": 7}}),
        ("memory://x", {"memory": {}}),
        ("zip://x.csv::s3://b/k", {"zip": {"compression": 8}, "s3": ENDPOINT}),
        (
            "simplecache::https://h/x",
            {"simplecache": {"same_names": True}, "https": {"block_size": 7}},
        ),
        ("zip://x::data", {"zip": {"compression": 8}, "file": {"auto_mkdir": True}}),
        (
            "zip://x::simplecache::s3://b/k",
            {"zip": {"compression": 8}, "simplecache": {"same_names": True}, "s3": ENDPOINT},
        ),
        ("filecache::memory://x", {"filecache": {}, "memory": {}}),
    ],
)
def test_each_link_of_a_url_gets_its_own_options(
    url: str, expected: dict[str, dict[str, Any]]
) -> None:
    assert options_by_link(url, ALL) == expected
    assert links(url) == list(expected)


def test_a_manifest_on_the_web_is_read_in_a_job_with_options_for_other_stores(
    bucket: Folder,
) -> None:
    Store(bucket.url, bucket.options).create("a.csv", b"prompt\ncat\n")
    url = f"{bucket.options['s3']['endpoint_url']}/{bucket.url.removeprefix('s3://')}/a.csv"
    options = {**ALL, **bucket.options, "http": {"headers": {"X-Any": "1"}}}
    with pytest.raises(StoreDenied, match="permission"):  # the bucket is private: it did answer
        open_source(url, options)


def test_a_zip_file_on_s3_is_read_with_the_options_of_s3(bucket: Folder) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", "prompt\ncat\n")
    Store(bucket.url, bucket.options).create("a.zip", packed.getvalue())
    url = f"zip://a.csv::{bucket.url}/a.zip"
    (found,) = find([url], {**ALL, **bucket.options})
    with open_source(found.url, {**ALL, **bucket.options}) as stream:
        assert stream.read() == b"prompt\ncat\n"


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        (
            "s3://b/k",
            {"s3": {"endpoint": "http://127.0.0.1:9"}},
            "storage.s3: there is no option 'endpoint'; did you mean 'endpoint_url'?",
        ),
        ("s3a://b/k", {"s3": {"client_kwarg": {}}}, "did you mean 'client_kwargs'?"),
        ("s3://b/k", {"s3": {"config_kwargs": 5}}, "config_kwargs: 5 is not a mapping"),
        ("s3://b/k", {"s3": {"client_kwargs": ["x"]}}, "client_kwargs: ['x'] is not a mapping"),
        ("s3://b/k", {"s3": {"fs": "x"}}, "there is no option 'fs'"),
        ("http://h/x", {"https": {"header": {}}}, "did you mean 'headers'?"),
        ("https://h/x", {"http": {"endpoint_url": "x"}}, "storage.https: there is no option"),
        ("memory://x", {"memory": {"size": 1}}, "storage.memory: there is no option 'size'"),
        ("simplecache::memory://x", {"simplecache": {"cache": "x"}}, "there is no option 'cache'"),
        ("zip://x::memory://x", {"zip": {"compresion": 8}}, "did you mean 'compression'?"),
        ("ss3://b/k", {}, "there is no protocol ss3://; did you mean 's3'?"),
    ],
)
def test_an_option_or_protocol_that_does_not_exist_is_one_clear_line(
    url: str, options: dict[str, dict[str, Any]], words: str
) -> None:
    with pytest.raises(StoreDenied) as caught:
        find([url], options)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{url}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({"minio": ENDPOINT}, "storage: there is no protocol 'minio'"),
        ({"S3": ENDPOINT}, "did you mean 's3'?"),
        ({"htttp": {}}, "did you mean 'http'?"),
        ({"file": {"mode": 1}}, "file: there is no option 'mode'"),
        ({"file": {"requests_per_s": 5}}, "file: there is no option 'requests_per_s'"),
    ],
)
def test_a_job_is_refused_for_options_that_nothing_would_read(
    storage: dict[str, Any], words: str
) -> None:
    job = {"name": "a", "manifest": "a.csv", "output": "out", "storage": storage}
    with pytest.raises(SpecError) as caught:
        RunSpec.from_dict(job)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_protocols_are_read_in_any_letter_case(tmp_path: Path) -> None:
    Store("memory://letters").create("a.csv", b"prompt\ncat\n")
    (found,) = find(["MEMORY://letters/a.csv"])
    with open_source(found.url) as stream:
        assert stream.read() == b"prompt\ncat\n"

"""How many requests it takes to list or check objects, counted on a bucket in memory."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.servers import Folder

from nightpress.pipelines.image_files.naming import spread
from nightpress.pipelines.storage import RetryPolicy, Store
from nightpress.pipelines.storage.local import PARTIAL_FOLDER
from nightpress.pipelines.storage.remote import RemoteFolder

FAST = RetryPolicy(attempts=30, first_wait_s=0.001, longest_wait_s=0.002)


class Bucket:
    """A stand-in for s3fs that answers from memory."""

    protocol = ("s3", "s3a")

    def __init__(self, paths: Sequence[str]) -> None:
        self.keys = sorted(f"runs/night/{path}" for path in paths)
        self.requests: list[str] = []
        self.failing = 0

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def info(self, path: str) -> dict[str, Any]:
        self.requests.append("HEAD")
        if path.partition("/")[2] not in self.keys:
            raise FileNotFoundError(path)
        return {"size": 1, "type": "file"}

    def call_s3(
        self,
        method: str,
        Prefix: str,  # noqa: N803
        MaxKeys: int,  # noqa: N803
        StartAfter: str = "",  # noqa: N803
        ContinuationToken: str = "",  # noqa: N803
        **_: str,
    ) -> dict[str, Any]:
        self.requests.append(method)
        if self.failing:
            self.failing -= 1
            raise TimeoutError("the bucket is busy")
        first = bisect_right(self.keys, StartAfter or ContinuationToken)
        found = [key for key in self.keys[first:] if key.startswith(Prefix)]
        page = found[:MaxKeys]
        return {
            "Contents": [{"Key": key, "Size": 1} for key in page],
            "IsTruncated": len(found) > MaxKeys,
            "NextContinuationToken": page[-1] if page else "",
        }


def store_of(bucket: Bucket) -> Store:
    store = Store("s3://press/runs/night", policy=FAST)
    assert isinstance(store._folder, RemoteFolder)
    store._folder._drivers[os.getpid(), 1] = bucket, "press/runs/night"
    return store


def name(number: int) -> str:
    return f"images/{number:08d}_00.png"


def test_listing_covers_only_the_pages_of_a_mixed_shard() -> None:
    """With six image sizes in turn, a shard holds every sixth of 3,000 names."""
    bucket = Bucket([name(n) for n in range(20_000)])
    shard = [name(n) for n in range(6_000, 9_000, 6)]
    assert store_of(bucket).present(shard) == set(shard)
    assert bucket.requests == ["list_objects_v2"] * 3


def test_a_half_finished_shard_is_listed_to_its_end() -> None:
    """Half of its images are missing, as after an interruption."""
    bucket = Bucket([name(n) for n in range(12_000) if n % 12])
    shard = [name(n) for n in range(0, 12_000, 6)][:1000]
    there = {path for path in shard if f"runs/night/{path}" in bucket.keys}
    assert len(there) == 500
    assert store_of(bucket).present(shard) == there
    assert bucket.requests == ["list_objects_v2"] * 6


def test_gaps_between_a_shards_names_cost_no_requests() -> None:
    bucket = Bucket([name(n) for n in range(60_000)])
    shard = [name(start + n) for start in (0, 30_000, 59_000) for n in range(100)]
    assert store_of(bucket).present([*shard, name(70_000)]) == set(shard)
    assert bucket.requests == ["list_objects_v2"] * 3


def spread_name(number: int) -> str:
    (folder,) = spread(np.array([number])).to_pylist()
    return f"images/{folder}/{number:08d}_00.png"


@pytest.mark.parametrize(
    "shard",
    [
        range(50_500, 51_524),
        range(50_990, 52_014),
        range(6_100, 9_100, 6),
        pytest.param(range(20_100, 38_532, 18), marks=pytest.mark.slow),
    ],
    ids=["two folders", "three folders", "six settings", "eighteen settings"],
)
def test_spread_names_cost_at_most_one_more_listing(shard: range) -> None:
    num_listings = []
    for name_of in (name, spread_name):
        bucket = Bucket([name_of(n) for n in range(shard.start - 3_000, shard.stop + 3_000)])
        wanted = [name_of(n) for n in shard]
        assert store_of(bucket).present(wanted) == set(wanted)
        assert set(bucket.requests) == {"list_objects_v2"}
        num_listings.append(len(bucket.requests))
    plain, apart = num_listings
    assert plain <= -(-(shard.stop - shard.start) // 1000)
    assert apart <= plain + 1


def test_a_sparse_folder_is_checked_singly_and_a_dense_one_listed() -> None:
    every = [f"images/{folder}/{n:06d}.png" for folder in ("a", "b") for n in range(20_000)]
    wanted = [*every[:20_000:200], *every[30_000:30_900]]
    bucket = Bucket(every)
    assert store_of(bucket).present([*wanted, "images/a/none.png"]) == set(wanted)
    assert bucket.requests.count("list_objects_v2") == 2
    assert bucket.requests.count("HEAD") <= 100


def test_names_that_are_far_apart_are_checked_singly() -> None:
    bucket = Bucket([name(n) for n in range(100_000)])
    shard = [name(n) for n in range(0, 100_000, 400)]
    missing = name(100_001)
    assert store_of(bucket).present([*shard, missing]) == set(shard)
    assert bucket.requests.count("list_objects_v2") == 1
    assert bucket.requests.count("HEAD") <= len(shard)


@pytest.mark.parametrize("wanted", [[], [name(7)], [name(7), name(12)]])
def test_few_names_take_one_request_or_none(wanted: list[str]) -> None:
    bucket = Bucket([name(n) for n in range(5_000)])
    assert store_of(bucket).present(wanted) == set(wanted)
    assert len(bucket.requests) == bool(wanted)


def test_a_listing_comes_page_by_page_and_each_page_is_retried() -> None:
    paths = [name(n) for n in range(3_500)]
    bucket = Bucket([*paths, "images/", "images2/other.png", "run.json"])
    store, sizes = store_of(bucket), []
    for page in store.pages("images"):
        sizes.append(len(page))
        bucket.failing = 20
    assert sizes == [999, 1000, 1000, 501]  # the folder's marker is not an object
    assert list(store.list("images")) == paths
    assert len(list(store.list())) == len(paths) + 2


def files(folder: Path) -> Iterator[str]:
    for number in range(2_500):
        path = folder / f"images/{number % 7}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        yield path.relative_to(folder).as_posix()


def test_the_pages_of_a_local_folder_are_exactly_its_files(tmp_path: Path) -> None:
    there = set(files(tmp_path))
    for other in (PARTIAL_FOLDER, "elsewhere"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "file").touch()
    pages = list(Store(str(tmp_path)).pages("images"))
    assert [len(page) for page in pages] == [1000, 1000, 500]
    assert {path for page in pages for path in page} == there
    assert len(Store(str(tmp_path)).list()) == 2_501
    assert list(Store(str(tmp_path)).pages("nowhere")) == []


def test_a_real_bucket_gives_the_same_pages(
    bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightpress.pipelines.storage.listing.PAGE_NAMES", 4)
    store = Store(f"{bucket.url}/run", bucket.options)
    paths = [f"images/{n}" for n in ("a-b.png", "a/x.png", "a.png", "ä.png", "b/1/2.png", "c")]
    paths += [f"images/d/{n}.png" for n in range(5)]
    for path in paths:
        store.create(path, b"1")
    assert max(len(page) for page in store.pages("images")) <= 4
    assert store.list("images") == dict.fromkeys(sorted(paths), 1)
    assert store.present([*paths, "images/none.png"]) == set(paths)

"""Exports of picks that are killed in the middle and started again: the result is the same."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.made_runs import FACTS, begin, commit, made
from support.marked_runs import say
from support.servers import Folder

from nightpress.pipelines import Run
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.storage import Store

NUM_IMAGES = 24
SIDE = 640
"""Pixels; copies of such images take long enough that a kill comes between two of them."""

MOST_STARTS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Large images of noise, all picked."""
    run, draw = begin(str(tmp_path_factory.mktemp("runs"))), np.random.default_rng(7)
    records = []
    for number in range(NUM_IMAGES):
        pixels = draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        facts = replace(FACTS, image_id=f"{number}_00", id=str(number), width=SIDE, height=SIDE)
        data = encode(pixels, facts, ImagesSpec())
        record = made(run, number)
        run.store.put(str(record.file), data)
        digest = hashlib.sha256(data).hexdigest()
        records.append(replace(record, facts=facts, sha256=digest, num_bytes=len(data)))
    commit(run, 0, records)
    say(run, "anna", *((n, "flag", "pick") for n in range(NUM_IMAGES)))
    return run


def start(run: Run, to: str, storage: list[str]) -> "subprocess.Popen[bytes]":
    options = ["--picked", "--to", to, "--resize", str(SIDE - 1), "--contact-sheet", *storage]
    return subprocess.Popen(
        [sys.executable, "-m", "nightpress", "export", run.url, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def killed_until_done(
    run: Run, to: str, storage: list[str], has_begun: Callable[[int, int], bool]
) -> int:
    """Start the export again and again, kill it soon after it has begun; returns how often.

    Args:
        has_begun: whether the process of that number, started that often, is writing.
    """
    draw, num_kills = random.Random(3), 0
    for _ in range(MOST_STARTS):
        with start(run, to, storage) as process:
            while process.poll() is None and not has_begun(process.pid, num_kills):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.4))
            if process.poll() is None and num_kills < 4:
                os.kill(process.pid, signal.SIGKILL)
                num_kills += 1
            elif process.wait() == 0:
                return num_kills
    raise AssertionError("it never finished")


def files(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.list()}


@pytest.mark.slow
def test_a_folder_ends_as_an_undisturbed_one(run: Run, tmp_path: Path) -> None:
    assert start(run, str(tmp_path / "whole"), []).wait() == 0
    out = tmp_path / "out"
    seen: list[int] = [0]

    def has_begun(_: int, num_kills: int) -> bool:
        number = len(list(out.glob("*"))) if out.is_dir() else 0
        begun = number > seen[0]
        if begun:
            seen[0] = number
        return begun

    assert killed_until_done(run, str(out), [], has_begun) >= 2
    assert files(Store(str(out))) == files(Store(str(tmp_path / "whole")))
    assert len(files(Store(str(out)))) == NUM_IMAGES + 2, "copies, sheet, table"


@pytest.mark.slow
def test_a_bucket_ends_as_an_undisturbed_one(run: Run, bucket: Folder) -> None:
    endpoint = bucket.options["s3"]["endpoint_url"]
    storage = ["--storage", f"s3.endpoint_url={endpoint}"]
    assert start(run, f"{bucket.url}/whole", storage).wait() == 0
    out, seen = Store(f"{bucket.url}/out", bucket.options), [0]

    def has_begun(_: int, num_kills: int) -> bool:
        number = len(out.list())
        begun = number > seen[0]
        if begun:
            seen[0] = number
        return begun

    assert killed_until_done(run, out.url, storage, has_begun) >= 2
    assert files(out) == files(Store(f"{bucket.url}/whole", bucket.options))


@pytest.mark.slow
def test_a_zip_file_is_whole_or_not_there_and_nothing_else_is_left(
    run: Run, tmp_path: Path
) -> None:
    assert start(run, str(tmp_path / "whole.zip"), []).wait() == 0
    folder = tmp_path / "out"

    def has_begun(pid: int, num_kills: int) -> bool:
        assert num_kills == 0 or list(folder.iterdir()) == []
        return any(_size(link) > 0 for link in Path(f"/proc/{pid}/fd").glob("*"))

    def _size(link: Path) -> int:
        try:
            named = os.readlink(link).startswith(f"{folder}/")
            return link.stat().st_size if named else 0
        except OSError:  # closed meanwhile
            return 0

    assert killed_until_done(run, str(folder / "x.zip"), [], has_begun) >= 2
    assert [each.name for each in folder.iterdir()] == ["x.zip"]
    assert (folder / "x.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()

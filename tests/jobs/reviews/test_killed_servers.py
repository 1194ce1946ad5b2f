"""Marks survive servers that are killed at any moment: what was answered is in the run."""

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import begin, finish
from support.servers import Server

from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Store, is_local

NUM_MARKS = 1_000


class Page:
    """Sends marks some at a time, as the page does: again, until they are answered."""

    def __init__(self, marks: list[dict[str, Any]], at_once: int) -> None:
        starts = range(0, len(marks), at_once)
        self.waiting = [(n, marks[start : start + at_once]) for n, start in enumerate(starts)]

    def send_until_it_dies(self, address: str) -> None:
        match = re.fullmatch(r"http://([^/]+)/\?token=([\w-]+)\n", address)
        assert match, address
        connection = http.client.HTTPConnection(match[1], timeout=30)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", f"/?token={match[2]}")
            answer = connection.getresponse()
            answer.read()
            cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
            headers = {"Cookie": cookie, "Origin": f"http://{match[1]}"}
            headers["Content-Type"] = "application/json"
            while self.waiting:
                n, some = self.waiting[0]
                body = json.dumps({"session": "tab-1", "n": n, "marks": some})
                connection.request("POST", "/api/marks", body, headers)
                answer = connection.getresponse()
                told = answer.read()
                assert answer.status == 200, told
                self.waiting.pop(0)
        connection.close()


@pytest.fixture(params=["local", "seaweed", "rclone_s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Ten images in a folder, on a real object store, and on one without conditional writes."""
    made = begin(str(tmp_path))
    finish(made)
    if request.param == "local":
        return made
    server: Server = request.getfixturevalue(request.param)
    folder = server.folder()
    store = Store(f"{folder.url}/run", folder.options)
    for path in made.store.list():
        assert store.create(path, made.store.read(path))
    return Run(store, made.record)


def command_of(run: Run) -> list[str]:
    """`nightpress review`, without the run's thumbnails."""
    command = [sys.executable, "-m", "nightpress", "review", run.url, "--no-open", "--no-thumbs"]
    options = run.store.options.get("s3", {})
    storage = [f"--storage=s3.{name}={value}" for name, value in options.items()]
    return [*command, "--port=0", "--reviewer=anna", *storage]


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_of_a_thousand_marks_none_is_lost_though_servers_are_killed_at_random(run: Run) -> None:
    hashes, draw = run.hashes(), random.Random(5)
    ids = list(hashes)
    marks = [
        {
            "image_id": ids[n % len(ids)],
            "sha256": hashes[ids[n % len(ids)]],
            "field": "comment",
            "value": f"note {n}",
            "counter": n + 1,
        }
        for n in range(NUM_MARKS)
    ]
    most_s, at_once = (1.2, 1) if is_local(run.url) else (1.5, 5)
    page, num_servers = Page(marks, at_once), 0
    while page.waiting:
        num_servers += 1
        with subprocess.Popen(
            command_of(run),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server:
            assert server.stdout
            address = server.stdout.readline()
            killer = subprocess.Popen(
                ["sh", "-c", f"sleep {draw.uniform(0.3, most_s):.2f}; kill -9 {server.pid}"]
            )
            page.send_until_it_dies(address)
            if not page.waiting:
                with suppress(ProcessLookupError):
                    os.kill(server.pid, signal.SIGKILL)
            killer.wait()
    assert num_servers > 1
    assert _stored(run) == {json.dumps(mark, sort_keys=True) for mark in marks}


def _stored(run: Run) -> set[str]:
    """Every mark of every object, whether it counts or not."""
    return {
        json.dumps(mark, sort_keys=True)
        for path in run.store.list("review/marks")
        for mark in json.loads(run.store.read(path))["marks"]
    }

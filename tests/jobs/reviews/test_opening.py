"""A browser is opened with a file of the user, so that no command line has the token."""

import os
import re
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pytest
from support import waiting
from support.fakes.fake_runs import finished_run
from support.review_client import review_client

from nightpress.jobs.progress.events import Message
from nightpress.jobs.reviews import opening
from nightpress.jobs.reviews.opening import BrowserOpener
from nightpress.pipelines.run_directory.reader import Run

ADDRESS = "http://127.0.0.1:27444/?token=a-b_c&x=%22<"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, on a machine with a screen."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(opening.tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What browsers are opened with."""
    opened = list[str]()
    monkeypatch.setattr(opening.webbrowser, "open", lambda url: opened.append(url) or True)
    return opened


until = partial(waiting.until, within_s=60.0)


def path_of(url: str) -> Path:
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("file", "")
    return Path(unquote(parts.path))


def test_only_the_user_can_read_the_file_that_leads_to_the_address(
    temp: Path, urls: list[str]
) -> None:
    old = os.umask(0)
    try:
        with BrowserOpener(lambda event: None) as opener:
            opener.open(ADDRESS)
            until(lambda: urls)
            page = path_of(urls[0])
            assert "token" not in urls[0]
            assert page.parent.parent == temp
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (page, page.parent)]
            assert modes == [0o600, 0o700]
            text = page.read_text()
            assert 'content="0; url=http://127.0.0.1:27444/?token=a-b_c&amp;x=%22&lt;"' in text
            assert "<script" not in text
            opener.remove()
            assert list(temp.iterdir()) == []
            opener.remove()
    finally:
        os.umask(old)


def test_the_file_is_removed_in_the_end_though_nobody_used_the_token(
    temp: Path, urls: list[str]
) -> None:
    def interrupted() -> None:
        with BrowserOpener(lambda event: None) as opener:
            opener.open(ADDRESS)
            assert len(list(temp.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "told", "warning"),
    [
        (True, "a browser is opened; if it does not show the page, open the address above", False),
        (False, "no browser was found; open the address above in one", True),
    ],
)
def test_it_says_what_to_do_where_no_browser_shows_the_page(
    temp: Path, monkeypatch: pytest.MonkeyPatch, found: bool, told: str, warning: bool
) -> None:
    monkeypatch.setattr(opening.webbrowser, "open", lambda url: found)
    said = list[Any]()
    with BrowserOpener(said.append) as opener:
        opener.open(ADDRESS)
        until(lambda: said)
    assert (said[0].text.startswith(told), said[0].warning) == (True, warning)


def test_a_machine_without_a_screen_or_temporary_files_opens_none(
    temp: Path, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[Any]()
    monkeypatch.setattr(opening.tempfile, "tempdir", str(temp / "nothing"))
    with BrowserOpener(said.append) as opener:
        opener.open(ADDRESS)
        monkeypatch.delenv("DISPLAY")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        opener.open(ADDRESS)
    assert said[0].text.startswith("no browser is opened: [Errno 2] No such file or directory")
    assert said[0].text.endswith("; open this address in one")
    assert said[1] == Message("open this address in a browser")
    assert urls == []


def test_chromium_comes_by_the_file_to_the_page_and_stays_in(
    tmp_path: Path, temp: Path, urls: list[str], open_page: Any
) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"], review={"thumbs": True}))
    with review_client(run) as client, BrowserOpener(lambda event: None) as opener:
        opener.open(f"{client.origin}/?token={client.tokens[-1]}")
        until(lambda: urls)
        page = open_page(urls[0])
        page.press("p")
        page.until_saved()
        assert page.page.url == f"{client.origin}/"
        assert len(client.tokens) == 2
        page.reload()
        assert client.reviewed.num_stored == 1


def test_the_command_opens_a_browser_whose_command_line_has_no_token(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"]))
    temp, seen = tmp_path / "temp", tmp_path / "seen"
    temp.mkdir()
    browser = tmp_path / "browser"
    copy = f'cp "{temp}"/nightpress-review-*/open.html "{seen}.html"'
    browser.write_text(
        f'#!/bin/sh\n{copy}\nprintf %s "$*" > "{seen}.part"; mv "{seen}.part" "{seen}"\n'
    )
    browser.chmod(0o755)
    told = {"DISPLAY": ":7", "BROWSER": f"{browser} %s", "TMPDIR": str(temp)}
    command = [sys.executable, "-m", "nightpress", "review", run.url, "--port=0", "--reviewer=anna"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | told
    ) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        until(seen.exists)
        token = re.fullmatch(r"http://127.0.0.1:\d+/\?token=([\w-]+)", address)
        assert token
        assert seen.read_text().startswith("file:///")
        assert token[1] not in seen.read_text()
        assert address in Path(f"{seen}.html").read_text()
        pages = list(temp.glob("nightpress-review-*"))
        assert len(pages) == 1
        with urlopen(address, timeout=60) as answer:
            assert answer.status == 200
        assert not pages[0].exists(), "the token was used"
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert "a browser is opened; if it does not show the page" in errors

"""`review`: thumbnails first, then the page until it is stopped; and the page as a file."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.fakes.fake_runs import finished_run
from support.made_runs import begin, commit, failed, made

from nightpress.jobs import cli
from nightpress.jobs.commands.review import result_as_text
from nightpress.jobs.progress.events import Message
from nightpress.jobs.reviews import review as reviewing
from nightpress.jobs.reviews.options import ReviewOptions, ServerOptions
from nightpress.jobs.reviews.review import port_of, review, shown_host
from nightpress.jobs.reviews.reviewed_run import Decided
from nightpress.jobs.reviews.static import write_static_page
from nightpress.pipelines.errors import ImageNotFound, MarksError, SpecError, StoreDenied
from nightpress.pipelines.run_directory.marks import Mark, MarksObject, store_marks
from nightpress.pipelines.run_directory.marks_file import MARKS_FILE
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import read_thumbs
from nightpress.pipelines.storage import Store

ANNA = ReviewOptions("anna")
READING = ReviewOptions("anna", read_only=True)


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(cli.command, arguments)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Does something while the page is served, instead of waiting for a signal."""

    def instead(do: Callable[[], None]) -> None:
        monkeypatch.setattr(reviewing, "_wait", lambda asked: do())

    return instead


def test_it_makes_thumbnails_prints_its_address_and_writes_the_merged_marks(
    tmp_path: Path, waits: Callable[[Callable[[], None]], None]
) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c"]))
    addresses, said = list[str](), list[str]()
    sha256 = run.hashes()["00000001_00"]
    mark = {"image_id": "00000001_00", "sha256": sha256, "field": "stars", "value": 4, "counter": 1}

    def pick() -> None:
        [address] = addresses
        match = re.fullmatch(r"http://(127.0.0.1:\d+)/\?token=([\w-]+)", address)
        assert match
        connection = http.client.HTTPConnection(match[1])
        connection.request("GET", f"/?token={match[2]}")
        answer = connection.getresponse()
        answer.read()
        cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
        headers = {"Cookie": cookie, "Origin": f"http://{match[1]}"}
        headers["Content-Type"] = "application/json"
        body = json.dumps({"session": "s", "n": 0, "marks": [mark]})
        connection.request("POST", "/api/marks", body, headers)
        assert connection.getresponse().status == 200
        connection.close()

    waits(pick)
    result = review(run, ANNA, lambda event: said.append(str(event)), on_address=addresses.append)
    assert (result.url, result.reviewer, result.num_marks) == (run.url, "anna", 1)
    assert result.decided == Decided()
    assert len(read_thumbs(run.store).places) == 3
    assert run.store.size(MARKS_FILE)
    assert run.decisions().column("stars").to_pylist() == [4]
    assert any("3 thumbnails made" in line for line in said)
    assert any("another browser may open http://" in line for line in said)


@pytest.mark.parametrize(
    ("options", "decided"),
    [
        ({}, Decided(2, 0, 1)),
        ({"policy": "all"}, Decided(1, 0, 1)),
        ({"policy": "lead", "lead": "bert"}, Decided(1, 1, 1)),
        ({"policy": "lead", "lead": "zoe"}, Decided()),
        ({"blind": True}, Decided(2, 0, 0)),
    ],
)
def test_at_the_end_it_says_what_the_marks_of_all_come_to(
    run: Run,
    waits: Callable[[Callable[[], None]], None],
    options: dict[str, Any],
    decided: Decided,
) -> None:
    waits(lambda: None)
    hashes, fingerprint = run.hashes(), run.record.fingerprint_at_first
    for reviewer, flags in (("anna", ("pick", "pick")), ("bert", ("pick", "reject"))):
        marks = tuple(
            Mark(f"{n}_00", hashes[f"{n}_00"], "flag", flag, 1) for n, flag in enumerate(flags, 1)
        )
        store_marks(run.store, MarksObject(fingerprint, reviewer, "s", 0, marks))
    seen = ReviewOptions("anna", read_only=True, **options)
    result = review(run, seen, server=ServerOptions(port=0), on_address=lambda address: None)
    assert result.decided == decided
    text = result_as_text(result, seen.policy)
    assert ("1 disputed" in text) == bool(decided.num_disagreeing)


def test_read_only_writes_nothing_at_all(
    tmp_path: Path, waits: Callable[[Callable[[], None]], None]
) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"]))
    before = run.store.list()
    waits(lambda: None)
    review(run, READING, server=ServerOptions(port=0), on_address=lambda address: None)
    assert run.store.list() == before


def test_the_port_is_that_of_the_run_and_the_reviewer(
    run: Run, waits: Callable[[Callable[[], None]], None]
) -> None:
    waits(lambda: None)
    addresses, said = list[str](), list[str]()
    port = port_of(f"{run.record.fingerprint_at_first} anna")
    assert 20_000 <= port < 30_000
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        review(
            run,
            READING,
            lambda event: said.append(event.text if isinstance(event, Message) else ""),
            on_address=addresses.append,
        )
        with pytest.raises(SpecError, match=f"port {port} of 127.0.0.1 is taken; choose another"):
            review(run, READING, server=ServerOptions(port=port))
    assert f":{port}/" not in addresses[0]
    assert any(line.startswith(f"port {port} is taken, so this is port ") for line in said)


def test_an_address_that_this_machine_does_not_have_is_refused(run: Run) -> None:
    for address in ("203.0.113.7", "not an address"):
        with pytest.raises(SpecError, match=f"cannot listen at {address}, port"):
            review(run, READING, server=ServerOptions(address))


def test_who_listens_for_other_machines_is_warned(
    run: Run, waits: Callable[[Callable[[], None]], None]
) -> None:
    waits(lambda: None)
    addresses, said = list[str](), list[Any]()
    server = ServerOptions("0.0.0.0", 0)
    review(run, READING, said.append, server=server, on_address=addresses.append)
    assert any(each.warning and "the connection is not encrypted" in each.text for each in said)
    assert addresses[0].startswith(f"http://{socket.gethostname()}:")
    assert "?token=" in addresses[0]
    assert shown_host("::1") == "[::1]"


def test_a_run_without_images_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    with pytest.raises(ImageNotFound, match="no image is committed yet; nightpress run makes them"):
        review(run, ANNA)
    commit(run, 0, [failed(run, n) for n in range(4)])
    with pytest.raises(ImageNotFound, match="no image is ok, and 4 failed; nightpress retry"):
        review(run, ANNA)
    commit(run, 1, [made(run, n) for n in range(4, 8)])
    for path in run.store.list("images"):
        run.store.delete(path)
    before, said = run.store.list(), list[object]()
    for start in (review, write_static_page):
        with pytest.raises(ImageNotFound, match="all 4 images were removed from the store; night"):
            start(run, ANNA, said.append)
    assert (said, run.store.list()) == ([], before), "no thumbnails are made"


def test_a_store_that_may_not_be_written_is_shown_read_only(
    run: Run, monkeypatch: pytest.MonkeyPatch, waits: Callable[[Callable[[], None]], None]
) -> None:
    def denied(store: Store) -> bool:
        raise StoreDenied(f"{store.url}: access denied")

    waits(lambda: None)
    monkeypatch.setattr(Store, "honours_create_only", denied)
    with pytest.raises(StoreDenied, match="access denied; --read-only shows the run without writ"):
        review(run, ANNA)
    review(run, READING, server=ServerOptions(port=0), on_address=lambda address: None)


def test_wrong_reviewers_and_policies_are_refused() -> None:
    with pytest.raises(MarksError, match=r"reviewer '\.\./x': a reviewer's name has"):
        ReviewOptions("../x")
    with pytest.raises(MarksError, match="policy lead: name the reviewer who decides"):
        ReviewOptions("anna", policy="lead")


# The command


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "no run here"),
        (["--policy", "most"], 2, "'most' is not one of 'any', 'all', 'majority', 'lead'"),
        (["--lead", "bert"], 2, "a lead decides only under the policy lead, not under any"),
        (["--port", "70000"], 2, "70000 is not in the range"),
        (["--reviewer", "a/b"], 2, "a reviewer's name has 1 to 64 letters and digits"),
        (["--import", "nothing.json"], 2, "nothing.json: not found"),
        (["--import", "m.json", "--blind"], 2, "--blind does not go with --import; leave one out"),
        (["--static", "--port", "1"], 2, "--port does not go with --static; leave one out"),
        (["--group-by", "topc"], 2, "group_by: 'topc' is no column of the images; did you mean"),
        (["--static", "--group-by", "sha256"], 2, "'sha256' is no column of the images"),
        (["--images-at", "https://x"], 2, "--images-at is for --static: a served page has"),
        (["--static", "--images-at", "x"], 2, "images_at: must be a URL of https or http, not 'x'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    run: Run, arguments: list[str], code: int, message: str
) -> None:
    target = [] if arguments[0] == "nowhere" else [run.url]
    result = nightpress("review", *target, *arguments)
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert "Traceback" not in result.output
    assert run.store.list("review") == {}


def test_a_user_without_a_usable_name_is_asked_for_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "a/b")
    result = nightpress("review", run.url)
    assert result.exit_code == 2
    assert "name the reviewer with --reviewer: " in result.output


def test_ctrl_c_ends_it_cleanly(run: Run) -> None:
    command = [sys.executable, "-m", "nightpress", "review", run.url, "--no-open", "--port", "0"]
    with subprocess.Popen(
        [*command, "--reviewer", "anna"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127.0.0.1:\d+/\?token=[\w-]+", address)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "")
    assert f"stopped; 0 marks of anna stored in {run.url}" in errors
    assert "Traceback" not in errors


# The page as a file


def test_the_static_page_links_what_lies_beside_it(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "</script><b>b", "c"]))
    result = nightpress("review", run.url, "--static", "--reviewer", "anna")
    assert result.exit_code == 0, result.output
    assert f"{run.url}/review.html: 3 images, " in result.output
    assert "thumbnails and images beside it" in result.output
    page = run.store.read("review.html").decode()
    assert "./images/00000000_00.png" in page
    for path in read_thumbs(run.store).named:
        assert f"./{path}" in page
    assert "</script><b>b" not in page
    assert run.record.fingerprint_at_first in page


def test_the_static_page_of_a_bucket_holds_its_thumbnails(tmp_path: Path, bucket: Any) -> None:
    store, record = finished_run(tmp_path, ["a", "b"], packing="webdataset")
    run = Run(Store(f"{bucket.url}/night", bucket.options), record)
    for path in store.list():
        run.store.create(path, store.read(path))
    page = write_static_page(run, ANNA)
    assert page.embeds_thumbs
    assert b"data:image/webp;base64," in run.store.read("review.html")

"""Marks are created once, checked when they come in, and never lost, whoever is killed when."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.marks import RUN, mark, marks_object, sha
from support.servers import Folder, Server

from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.run_directory.marks import (
    MAX_MARKS,
    Mark,
    MarksObject,
    checked_marks,
    checked_reviewer,
    checked_session,
    read_objects,
    store_marks,
)
from nightpress.pipelines.run_directory.marks_merge import MergedMarks
from nightpress.pipelines.storage import Store


@pytest.fixture
def store(run_url: Folder) -> Store:
    return Store(f"{run_url.url}/run", run_url.options)


def test_stored_marks_are_read_back(store: Store) -> None:
    first = marks_object(mark(1), mark(2, "stars", 4), reviewer="Ana María")
    second = marks_object(mark(1, "comment", "too dark\n<b>"), session="20270115T080000-1f0c2b7a")
    assert store_marks(store, first)
    assert store_marks(store, second)
    paths = [first.path, second.path]
    found = dict(read_objects(store, RUN, [*paths, "review/marks/anna/s9-0.json"]))
    assert list(found) == paths
    read = [found[path] for path in paths]
    assert all(isinstance(each, MarksObject) and each.created_at for each in read)
    assert [replace(each, created_at="") for each in read] == [first, second]  # type: ignore[type-var]


def test_the_same_marks_may_be_stored_again_and_others_not(store: Store) -> None:
    first = marks_object(mark(1))
    assert store_marks(store, first)
    assert store_marks(store, replace(first, created_at="2027-01-15T08:00:00+00:00"))
    assert not store_marks(store, marks_object(mark(2)))
    merged = MergedMarks(store, RUN)
    merged.refresh()
    assert [each.mark for each in merged.counted.values()] == [mark(1)]


def test_a_store_that_ignores_conditional_writes_keeps_the_first_marks(rclone_s3: Server) -> None:
    folder = rclone_s3.folder()
    store = Store(f"{folder.url}/run", folder.options)
    assert not store.honours_create_only()
    careful = store.reading_back()
    assert store_marks(careful, marks_object(mark(1)))
    assert store_marks(careful, marks_object(mark(1)))
    assert not store_marks(careful, marks_object(mark(2)))
    merged = MergedMarks(store, RUN)
    merged.refresh()
    assert [each.mark for each in merged.counted.values()] == [mark(1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 7}, r"mark 1: image_id: must be a text of 1 to 1,000 characters"),
        ({"image_id": "x" * 1001}, r"mark 1: image_id: must be a text"),
        ({"sha256": "A" * 64}, r"mark 1: sha256: must be 64 hexadecimal digits"),
        ({"sha256": "../../etc"}, r"mark 1: sha256"),
        ({"counter": 0}, r"mark 1: counter: must be a whole number from 1 to 9007199254740991"),
        ({"counter": True}, r"mark 1: counter"),
        ({"counter": 2**53}, r"mark 1: counter"),
        ({"field": "score"}, r"field: must be one of flag, stars, colour, comment, not 'score'"),
        ({"field": ["flag"]}, r"field: must be one of"),
        ({"value": "maybe"}, r"flag: must be one of pick, reject, \"\" \(none\), not 'maybe'"),
        ({"value": None}, r"flag: must be one of"),
        ({"value": ["pick"]}, r"flag: must be one of"),
        ({"field": "stars", "value": 6}, r"stars: must be a whole number from 0 to 5, not 6"),
        ({"field": "stars", "value": True}, r"stars: must be a whole number"),
        ({"field": "stars", "value": "3"}, r"stars: must be a whole number"),
        ({"field": "colour", "value": "pink"}, r"colour: must be one of red, .*, not 'pink'"),
        ({"field": "comment", "value": "x" * 2001}, r"has 2,001 characters; at most 2,000"),
        ({"field": "comment", "value": "\x1b[2J"}, r"the character '\\x1b' is not allowed"),
        ({"field": "comment", "value": "\ud800"}, r"the character '\\ud800' is not allowed"),
        ({"more": 1}, r"mark 1: a mark has exactly the keys image_id, sha256, field, value"),
    ],
)
def test_a_wrong_mark_is_refused_with_what_is_allowed(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MarksError, match=message):
        checked_marks([asdict(mark()) | changes])


@pytest.mark.parametrize("values", [None, {}, [], "marks", [None], [[]]])
def test_what_is_no_list_of_marks_is_refused(values: object) -> None:
    with pytest.raises(MarksError, match=r"marks: must be a list|a mark has exactly the keys"):
        checked_marks(values)


def test_too_many_marks_at_once_are_refused() -> None:
    values = [asdict(mark(n)) for n in range(MAX_MARKS)]
    assert len(checked_marks(values)) == MAX_MARKS
    with pytest.raises(MarksError, match="a list of 1 to 2,000 marks"):
        checked_marks([*values, values[0]])


@pytest.mark.parametrize("name", ["anna", "Ana María", "井上", "a.b@c-d_e", "x", "O Neil 2"])
def test_reviewers_may_have_names_of_any_script(name: str) -> None:
    assert checked_reviewer(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", " a", "a ", "a.", "x" * 65, "a\nb"])
def test_names_that_are_no_folders_are_refused(name: str) -> None:
    with pytest.raises(MarksError, match="a reviewer's name has 1 to 64 letters and digits"):
        checked_reviewer(name)


def test_two_encodings_of_a_name_are_one_reviewer() -> None:
    assert checked_reviewer("Jose\u0301") == checked_reviewer("José")


@pytest.mark.parametrize("session", ["", "a/b", "../a", "x" * 65, "a_b", "ä", 3, None])
def test_sessions_with_other_characters_are_refused(session: object) -> None:
    with pytest.raises(MarksError, match="session: must be 1 to 64 letters"):
        checked_session(session)


def test_damaged_and_foreign_objects_are_named_and_the_others_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    good = marks_object(mark(1))
    store_marks(store, good)
    whole = json.loads(good.to_json())
    objects = {
        "anna/s1-1.json": good.to_json()[:-20],
        "anna/s1-2.json": marks_object(mark(1), n=2, run="b" * 64).to_json(),
        "bert/s1-0.json": good.to_json(),
        "anna/s1-3.json": json.dumps(whole | {"n": 3, "format_version": 9}).encode(),
        "anna/s1-4.json": json.dumps(whole | {"n": 4, "marks": [{"image_id": 1}]}).encode(),
        "anna/s1-5.json": b"[]",
        "anna/s1-6.json": b'{"marks": []}',
        "anna/s1-7.json": b"[" * 100_000,
        "notes.txt": b"see you at nine",
    }
    for name, data in objects.items():
        store.create(f"review/marks/{name}", data)
    merged = MergedMarks(store, RUN)
    merged.refresh()
    assert [each.mark for each in merged.counted.values()] == [mark(1)]
    problems = {path.removeprefix("review/marks/"): text for path, text in merged.problems.items()}
    assert set(problems) == set(objects)
    assert problems["anna/s1-1.json"].startswith("not JSON: ")
    assert problems["anna/s1-2.json"] == (
        "these are marks of another run (fingerprint bbbbbbbbbbbb, and this run's is aaaaaaaaaaaa)"
    )
    assert problems["bert/s1-0.json"].startswith("its name and its content differ")
    assert problems["anna/s1-3.json"] == "it has format 9; this nightpress reads format 1"
    assert "exactly the keys" in problems["anna/s1-4.json"]
    assert problems["anna/s1-5.json"] == "not a JSON object"
    assert problems["anna/s1-6.json"] == "not an object with marks: it has no 'format_version'"
    assert problems["notes.txt"].startswith("its name is not review/marks/<reviewer>/")


NUM_MARKS = 1_000


def _mark_images(url: str, numbers: list[int], session: str, acknowledged: Connection) -> None:
    """Store one mark after another, and tell each one that is stored."""
    store = Store(url)
    for n, number in enumerate(numbers):
        each = Mark(f"{number}_00", sha(number), "stars", number % 5 + 1, number + 1)
        assert store_marks(store, MarksObject(RUN, "anna", session, n, (each,)))
        acknowledged.send(number)


@pytest.mark.slow
def test_of_a_thousand_marks_none_is_lost_though_writers_are_killed_at_random(
    tmp_path: Path,
) -> None:
    waiting, start, draw = list(range(NUM_MARKS)), 0, random.Random(7)
    fork = multiprocessing.get_context("fork")
    while waiting:
        receiver, sender = fork.Pipe(duplex=False)
        # What was not acknowledged is sent again under the same name, as the page does.
        arguments = str(tmp_path), waiting, f"tab-{start}", sender
        writer = fork.Process(target=_mark_images, args=arguments)
        writer.start()
        sender.close()
        stored, most = set[int](), draw.randrange(1, 120)
        try:
            while len(stored) < most:
                stored.add(receiver.recv())
            time.sleep(draw.random() * 0.002)
            os.kill(writer.pid or 0, signal.SIGKILL)
            while True:  # what it had told before it died
                stored.add(receiver.recv())
        except EOFError:
            writer.join()
        waiting, start = [each for each in waiting if each not in stored], start + 1
    assert start > 5
    merged = MergedMarks(Store(str(tmp_path)), RUN)
    merged.refresh()
    assert merged.problems == {}
    values = {key[1]: each.mark.value for key, each in merged.counted.items()}
    assert values == {f"{n}_00": n % 5 + 1 for n in range(NUM_MARKS)}

"""What the server answers: rows, pictures, facts, and marks that are stored once."""

import gzip
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.fakes.fake_runs import finished_run
from support.made_runs import begin, commit, made
from support.review_client import Client, review_client

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.run_directory.commit import amend_commit
from nightpress.pipelines.run_directory.marks import Mark, MarksObject, store_marks
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import is_atlas
from nightpress.pipelines.storage import Store


def mark_of(client: Client, image_id: str = "1_00", **changes: Any) -> dict[str, Any]:
    """A pick of an image as it is now."""
    sha256 = client.reviewed.run.hashes()[image_id]
    values = {"image_id": image_id, "sha256": sha256, "field": "flag", "value": "pick"}
    return {**values, "counter": 1, **changes}


def sent(*marks: dict[str, Any], session: str = "tab-1", n: int = 0) -> dict[str, Any]:
    return {"session": session, "n": n, "marks": list(marks)}


def stored(client: Client) -> list[str]:
    return sorted(client.reviewed.run.store.list("review/marks"))


# Rows, pictures, facts


def test_rows_are_sent_packed_to_whom_takes_it(client: Client) -> None:
    packed = client.get("/api/rows", Accept_Encoding="br, gzip")
    assert packed.headers["content-encoding"] == "gzip"
    rows = json.loads(gzip.decompress(packed.body))
    assert rows["length"] == 9
    assert rows["run"]["reviewer"] == "anna"
    assert client.get("/api/rows").json == rows


def test_rows_follow_a_run_that_goes_on(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    commit(run, 0, [made(run, n) for n in range(4)])
    with review_client(run) as client:
        client.open()
        assert client.get("/api/rows").json["length"] == 4
        commit(run, 1, [made(run, n) for n in range(4, 8)])
        assert client.get("/api/rows").json["length"] == 8
        assert client.get("/image/7_00").status == 200


def test_an_image_is_sent_as_it_is_stored_and_known_by_its_hash(client: Client) -> None:
    answer = client.get("/image/1_00")
    data = client.reviewed.run.store.read("images/1_00.png")
    digest = hashlib.sha256(data).hexdigest()
    assert answer.body == data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["cache-control"] == "private, no-cache"
    assert client.get("/image/1_00", If_None_Match=f'"{digest}"').status == 304
    kept = client.get(f"/image/1_00?v={digest}")
    assert kept.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert client.get(f"/image/1_00?v={'0' * 64}").status == 404


def test_an_image_that_was_removed_or_damaged_is_told_from_one_that_never_was(
    client: Client,
) -> None:
    client.get("/api/rows")
    store = client.reviewed.run.store
    store.delete("images/1_00.png")
    store.put("images/2_00.png", store.read("images/2_00.png")[:-5])
    gone, damaged, never = (client.get(f"/image/{name}") for name in ("1_00", "2_00", "99_00"))
    assert (gone.status, gone.error) == (404, "1_00: the image is not in the store any more")
    assert damaged.status == 410
    assert "nightpress verify --repair makes it again" in damaged.error
    assert (never.status, never.error) == (404, "there is no image '99_00'")
    assert client.get("/image/5_00").status == 404, "it failed"


@pytest.mark.parametrize("packing", ["webdataset", "parquet"])
def test_packed_images_are_sent_out_of_their_pack(tmp_path: Path, packing: str) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "c"], packing=packing))
    with review_client(run) as client:
        client.open()
        for image_id, sha256 in run.hashes().items():
            body = client.get(f"/image/{image_id}").body
            assert hashlib.sha256(body).hexdigest() == sha256


def test_images_lie_in_a_bucket(bucket: Any, tmp_path: Path) -> None:
    store, record = finished_run(tmp_path, ["a", "b"], review={"thumbs": True})
    run = Run(Store(f"{bucket.url}/night", bucket.options), record)
    for path in store.list():
        run.store.create(path, store.read(path))
    with review_client(run) as client:
        client.open()
        rows = client.get("/api/rows").json
        assert rows["length"] == 2
        assert client.get(f"/image/{rows['image_id'][0]}").headers["content-type"] == "image/png"
        assert client.get(f"/{rows['thumbs']['atlases'][0]}").headers["content-type"] == (
            "image/webp"
        )
        mark = mark_of(client, rows["image_id"][1])
        assert client.post(sent(mark)).json == {"stored": 1}
        assert run.marks.column("value").to_pylist() == ["pick"]


TRAVERSALS = (
    *("../run.json", "..%2frun.json", "%2e%2e%2frun.json", "..%5crun.json", "....//run.json"),
    *("/etc/passwd", "%2fetc%2fpasswd", "..%00", "%00", ".", "..", "run.json", "app.js%00.css"),
    *("%252e%252e%252frun.json", "..;/run.json", "thumbs%2f..%2frun.json", "c:%5cx", "~root"),
)


@pytest.mark.parametrize("folder", ["/image/", "/atlas/", "/assets/", "/api/facts/", "/input/"])
def test_no_path_leads_out_of_what_is_shown(client: Client, folder: str) -> None:
    client.get("/api/rows")
    for name in TRAVERSALS:
        path = f"{folder}{name}" + ("/init_image" if folder == "/input/" else "")
        answer = client.get(path)
        assert answer.status in (400, 404), path
        assert b"fingerprint" not in answer.body
        assert b"root:" not in answer.body


def test_ids_with_any_characters_are_found(tmp_path: Path) -> None:
    names = ["a b_00", "ü/ö_00", "50%_00", "a?b#c_00", "../x_00", "<b>_00"]
    run = begin(str(tmp_path))
    records = [made(run, n) for n in range(4)] + [made(run, n) for n in range(4, 6)]
    renamed = [
        replace(record, facts=replace(record.facts, image_id=name))
        for record, name in zip(records, names, strict=True)
    ]
    commit(run, 0, renamed[:4])
    commit(run, 1, renamed[4:])
    with review_client(run) as client:
        client.open()
        for number, name in enumerate(names):
            answer = client.get(f"/image/{quote(name, safe='')}")
            assert answer.body == run.store.read(f"images/{number}_00.png"), name


def test_facts_have_a_job(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"]))
    with review_client(run) as client:
        client.open()
        facts = client.get("/api/facts/00000001_00").json
        assert dict(facts["facts"])["prompt"] == "b"
        assert "manifest: again-00000001_00.jsonl" in facts["job"]
        assert client.get("/api/facts/nothing").status == 404


def test_an_atlas_is_kept_for_a_year_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"], review={"thumbs": True}))
    [path] = [each for each in run.store.list("thumbs") if is_atlas(each)]
    data = run.store.read(path)
    with review_client(run) as client:
        client.open()
        [name] = client.get("/api/rows").json["thumbs"]["atlases"]
        answer = client.get(f"/{name}")
        assert answer.body == data
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        run.store.put(path, data[:50] + b"!" + data[51:])
        assert client.get(f"/{name}").body == data
        assert run.store.read(path) == data
        assert client.said == [f"{path} is damaged; it is made again"]
        run.store.delete(path)
        assert client.get(f"/{name}").body == data


def test_a_server_that_may_not_write_makes_no_atlas(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"], review={"thumbs": True}))
    [path] = [each for each in run.store.list("thumbs") if is_atlas(each)]
    with review_client(run, read_only=True) as client:
        client.open()
        [name] = client.get("/api/rows").json["thumbs"]["atlases"]
        run.store.put(path, b"!" * len(run.store.read(path)))
        answer = client.get(f"/{name}")
        assert (answer.status, answer.error) == (
            410,
            f"{path} is damaged, and nothing may be written",
        )
        run.store.delete(path)
        assert client.get("/api/rows").json["thumbs"]["atlas"] == [-1, -1]


def test_the_page_and_its_assets_are_served(client: Client) -> None:
    html = client.get("/").body.decode()
    assert "<script" in html
    assets = [part.split('"')[0] for part in html.split('"assets/')[1:]]
    assert assets
    for name in assets:
        asset = client.get(f"/assets/{name}")
        assert asset.status == 200
        assert asset.headers["content-type"].startswith(("text/css", "text/javascript"))
        assert client.get(f"/assets/{name}", If_None_Match=asset.headers["etag"]).status == 304


# Marks


def test_marks_are_one_object_that_is_created_once(client: Client) -> None:
    marks = [mark_of(client), mark_of(client, "2_00", field="stars", value=3, counter=2)]
    assert client.post(sent(*marks)).json == {"stored": 2}
    assert stored(client) == ["review/marks/anna/tab-1-0.json"]
    assert client.post(sent(*marks)).json == {"stored": 2}, "sent again after a lost answer"
    other = client.post(sent(mark_of(client, value="reject")))
    assert (other.status, other.error) == (409, "session tab-1 has other marks under the number 0")
    assert stored(client) == ["review/marks/anna/tab-1-0.json"]
    values = client.get("/api/marks").json
    assert [each["value"] for each in values["marks"]] == ["pick", 3]
    assert {each["reviewer"] for each in values["marks"]} == {"anna"}
    assert (values["reviewers"], values["policy"], values["lead"]) == (["anna"], "any", None)


def test_marks_of_others_appear_without_a_restart(client: Client) -> None:
    first = client.get("/api/marks")
    assert client.get("/api/marks", If_None_Match=first.headers["etag"]).status == 304
    run = client.reviewed.run
    theirs = Mark("3_00", run.hashes()["3_00"], "flag", "reject", 7)
    store_marks(run.store, MarksObject(client.reviewed.marks.run, "bert", "x", 0, (theirs,)))
    second = client.get("/api/marks", If_None_Match=first.headers["etag"])
    assert second.status == 200
    assert [(m["reviewer"], m["value"]) for m in second.json["marks"]] == [("bert", "reject")]


def test_blind_reviewers_do_not_see_the_marks_of_others(run: Run) -> None:
    fingerprint = run.record.fingerprint_at_first
    theirs = Mark("3_00", run.hashes()["3_00"], "flag", "reject", 7)
    store_marks(run.store, MarksObject(fingerprint, "bert", "x", 0, (theirs,)))
    with review_client(run, blind=True) as client:
        client.open()
        client.post(sent(mark_of(client)))
        values = client.get("/api/marks").json
        assert [each["reviewer"] for each in values["marks"]] == ["anna"]
        assert values["reviewers"] == ["anna"]
        assert (values["blind"], values["blind_forced"]) == (True, True)
        assert b"bert" not in client.get("/api/marks").body


def test_a_server_that_may_not_write_takes_no_marks(run: Run) -> None:
    with review_client(run, read_only=True) as client:
        client.open()
        assert client.get("/api/rows").json["run"]["read_only"]
        answer = client.post(sent(mark_of(client)))
        assert (answer.status, answer.error) == (
            403,
            "this run is shown read-only: marks are not stored",
        )
        assert stored(client) == []


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no JSON": lambda mark: b"{",
    "deep": lambda mark: b"[" * 200_000,
    "not UTF-8": lambda mark: b'{"session": "\xff"}',
    "a list": lambda mark: [mark],
    "null": lambda mark: None,
    "a key too many": lambda mark: {**sent(mark), "reviewer": "bert"},
    "no marks": lambda mark: sent(),
    "marks of another shape": lambda mark: {**sent(), "marks": {"0": mark}},
    "a session that is a path": lambda mark: sent(mark, session="../../x"),
    "a long session": lambda mark: sent(mark, session="x" * 65),
    "a negative number": lambda mark: sent(mark, n=-1),
    "a fraction": lambda mark: {**sent(mark), "n": 1.5},
    "true": lambda mark: {**sent(mark), "n": True},
    "a huge number": lambda mark: {**sent(mark), "n": 10**30},
    "too many marks": lambda mark: sent(*[mark] * 2_001),
    "a wrong value": lambda mark: sent({**mark, "value": "maybe"}),
    "NaN": lambda mark: sent({**mark, "counter": float("nan")}),
    "an unknown image": lambda mark: sent({**mark, "image_id": "99_00"}),
    "a failed image": lambda mark: sent({**mark, "image_id": "5_00"}),
    "another image's hash": lambda mark: sent({**mark, "image_id": "2_00"}),
    "an unknown hash": lambda mark: sent({**mark, "sha256": "0" * 64}),
    "one good and one wrong": lambda mark: sent(mark, {**mark, "sha256": "0" * 64}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_marks_are_refused_whole_with_a_reason(client: Client, wrong: str) -> None:
    answer = client.post(WRONG[wrong](mark_of(client)))
    assert answer.status == 400
    assert answer.error
    assert stored(client) == []


def test_other_content_types_are_refused(client: Client) -> None:
    """A form of another site can send text and forms, and no JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post(sent(mark_of(client)), Content_Type=kind).status == 415
    assert stored(client) == []


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    answer = client.post(b" " * (2 << 20) + b"{}")
    assert (answer.status, answer.error) == (413, "more than 2,097,152 bytes were sent")
    assert client.get("/api/marks").status == 200


def test_a_store_that_fails_is_said_and_the_marks_may_be_sent_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Store.create

    def fails(self: Store, path: str, data: bytes) -> bool:
        raise StoreError("s3://press: 503 Slow Down")

    body = sent(mark_of(client))
    monkeypatch.setattr(Store, "create", fails)
    answer = client.post(body)
    assert (answer.status, answer.error) == (
        503,
        "the store does not answer: s3://press: 503 Slow Down",
    )
    monkeypatch.setattr(Store, "create", create)
    assert client.post(body).json == {"stored": 1}


def test_marks_on_an_image_that_was_made_again_are_stored_and_not_current(client: Client) -> None:
    client.get("/api/rows")
    before, run = mark_of(client), client.reviewed.run
    record = made(run, 1)
    amend_commit(run.store, 0, {1: replace(record, sha256="e" * 64)})
    client.get("/api/rows")
    assert client.post(sent(before)).json == {"stored": 1}
    assert run.marks.column("current").to_pylist() == [False]


def test_many_marks_at_once_are_all_stored(client: Client) -> None:
    mark, answers = mark_of(client), list[int]()

    def send(session: int) -> None:
        for n in range(10):
            body = sent({**mark, "counter": n + 1}, session=f"tab-{session}", n=n)
            answers.append(client.post(body).status)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 60
    assert len(stored(client)) == 60
    [counted] = client.get("/api/marks").json["marks"]
    assert counted["counter"] == 10


def test_ignored_objects_are_named_on_the_page_and_said(client: Client) -> None:
    client.reviewed.run.store.create("review/marks/anna/x-0.json", b"{")
    notes = client.get("/api/rows").json["run"]["notes"]
    assert any(note.startswith("review/marks/anna/x-0.json is ignored: not JSON") for note in notes)
    assert any("review/marks/anna/x-0.json is ignored" in line for line in client.said)


def test_a_second_page_of_rows_finds_images_too(client: Client) -> None:
    """The columns are forgotten once they are sent, and what finds an image is not."""
    first = client.get("/api/rows").json
    assert client.get("/api/rows").json == first
    assert client.get(f"/image/{first['image_id'][-1]}").status == 200
    assert client.post(sent(mark_of(client, first["image_id"][-1]))).status == 200

"""The order in which marks are read decides nothing; policies make one decision of many marks."""

import random
import warnings
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.made_runs import begin, commit, finish, made
from support.marks import RUN, mark, marks_object, sha

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.run_directory.marks import Mark, MarksObject, store_marks
from nightpress.pipelines.run_directory.marks_file import MARKS_FILE, MARKS_SCHEMA
from nightpress.pipelines.run_directory.marks_merge import (
    DECISIONS_SCHEMA,
    MarksWarning,
    MergedMarks,
    Policy,
    decisions,
)
from nightpress.pipelines.storage import Store


def merged(*objects: MarksObject) -> MergedMarks:
    found = MergedMarks(Store("memory://nothing"), RUN)
    for each in objects:
        found.add(each)
    return found


def values_of(found: MergedMarks) -> dict[tuple[str, str, str], str | int]:
    return {(key[0], key[1], key[3]): each.mark.value for key, each in found.counted.items()}


def test_the_highest_counter_counts_in_whatever_order_marks_are_read() -> None:
    draw = random.Random(3)
    objects = [
        marks_object(
            mark(draw.randrange(4), "stars", draw.randrange(6), draw.randrange(1, 5)),
            mark(draw.randrange(4), "flag", draw.choice(["pick", "reject", ""]), n % 5 + 1),
            reviewer=draw.choice(["anna", "bert"]),
            session=f"s{n}",
        )
        for n in range(40)
    ]
    expected = merged(*objects)
    highest = max(
        (each.counter, item.session)
        for item in objects
        for each in item.marks
        if (item.reviewer, each.image_id, each.field) == ("anna", "1_00", "stars")
    )
    found = expected.counted["anna", "1_00", sha(1), "stars"]
    assert (found.mark.counter, found.session) == highest
    for _ in range(10):
        draw.shuffle(objects)
        assert merged(*objects).counted == expected.counted


def test_a_later_mark_of_one_object_counts_when_the_counters_are_equal() -> None:
    found = merged(marks_object(mark(1, value="pick"), mark(1, value="reject")))
    assert values_of(found) == {("anna", "1_00", "flag"): "reject"}


def test_the_clock_of_a_machine_decides_nothing() -> None:
    by_slow_clock = marks_object(mark(1, value="reject", counter=8), session="laptop")
    by_fast_clock = marks_object(mark(1, value="pick", counter=7), session="studio")
    skewed = (
        replace(by_slow_clock, created_at="1970-01-01T00:00:00+00:00"),
        replace(by_fast_clock, created_at="2099-01-01T00:00:00+00:00"),
    )
    expected = {("anna", "1_00", "flag"): "reject"}
    assert values_of(merged(*skewed)) == values_of(merged(*reversed(skewed))) == expected


def test_one_reviewer_in_two_sessions_loses_nothing_of_an_offline_hour(tmp_path: Path) -> None:
    store, draw = Store(str(tmp_path)), random.Random(11)
    studio = [marks_object(mark(n, "stars", 3, n + 1), session="studio", n=n) for n in range(50)]
    # Offline since the counter 10: its marks arrive late, some at images that studio marked, too.
    laptop = [
        marks_object(mark(n, "stars", 5, 11 + n), session="laptop", n=n) for n in range(0, 60, 3)
    ]
    expected = {("anna", f"{n}_00", "stars"): 5 if n % 3 == 0 else 3 for n in range(50)}
    expected |= {("anna", f"{n}_00", "stars"): 5 for n in range(50, 60) if n % 3 == 0}
    online = MergedMarks(store, RUN)
    for each in studio:
        assert store_marks(store, each)
    online.refresh()
    for each in draw.sample(laptop, len(laptop)):
        assert store_marks(store, each)
        assert store_marks(store, each), "sent again, as its answer was lost"
    online.refresh()
    afterwards = MergedMarks(store, RUN)
    afterwards.refresh()
    assert values_of(online) == values_of(afterwards) == expected
    assert online.problems == {}


def test_an_empty_value_takes_an_earlier_mark_back() -> None:
    found = merged(
        marks_object(mark(1, value="", counter=2), n=1), marks_object(mark(1, value="pick"))
    )
    assert values_of(found) == {("anna", "1_00", "flag"): ""}
    assert decisions(found.table({"1_00": sha(1)}), Policy()).num_rows == 0


def test_marks_on_the_bytes_before_do_not_touch_those_on_the_bytes_after() -> None:
    before, after = mark(1), replace(mark(1, value="reject"), sha256=sha(99))
    table = merged(marks_object(before, after)).table({"1_00": sha(99)})
    assert dict(zip(*(table.column(c).to_pylist() for c in ("value", "current")), strict=True)) == {
        "pick": False,
        "reject": True,
    }
    [decided] = decisions(table, Policy()).to_pylist()
    assert (decided["sha256"], decided["flag"], decided["num_picks"]) == (sha(99), "reject", 0)


def votes(**flags: str) -> pa.Table:
    """One image that reviewers flagged; `other_*` have marked only another image."""
    objects = [
        marks_object(mark(2 if name.startswith("other") else 1, value=flag), reviewer=name)
        for name, flag in flags.items()
    ]
    return merged(*objects).table({"1_00": sha(1), "2_00": sha(2)})


@pytest.mark.parametrize(
    ("flags", "any_", "all_", "majority"),
    [
        ({"a": "pick"}, "pick", "pick", "pick"),
        ({"a": "pick", "b": "reject"}, "pick", "", ""),
        ({"a": "reject", "b": "reject"}, "reject", "reject", "reject"),
        ({"a": "pick", "b": "pick", "c": "reject"}, "pick", "", "pick"),
        ({"a": "pick", "other": "pick"}, "pick", "", "pick"),
        ({"a": "reject", "b": "reject", "c": "pick"}, "pick", "", "reject"),
    ],
)
def test_policies_decide_of_the_flags_of_several(
    flags: dict[str, str], any_: str, all_: str, majority: str
) -> None:
    table = votes(**flags)
    for policy, expected in (("any", any_), ("all", all_), ("majority", majority)):
        rows = decisions(table, Policy.of(policy)).to_pylist()
        assert [row["flag"] for row in rows if row["image_id"] == "1_00"] == [expected], policy


def test_a_lead_decides_alone() -> None:
    table = votes(a="pick", b="reject", c="pick")
    assert [row["flag"] for row in decisions(table, Policy.of("lead", "b")).to_pylist()] == [
        "reject"
    ]
    with pytest.raises(MarksError, match="zoe has marked nothing; reviewers are: a, b, c"):
        decisions(table, Policy.of("lead", "zoe"))


@pytest.mark.parametrize(
    ("name", "lead", "message"),
    [
        ("most", None, "policy 'most': must be one of any, all, majority, lead"),
        ("lead", None, "policy lead: name the reviewer who decides"),
        ("any", "anna", "a lead decides only under the policy lead, not under any"),
    ],
)
def test_a_wrong_policy_is_refused(name: str, lead: str | None, message: str) -> None:
    with pytest.raises(MarksError, match=message):
        Policy.of(name, lead)


def test_stars_colours_and_comments_of_several_come_together() -> None:
    found = merged(
        marks_object(mark(1, "stars", 2), mark(1, "colour", "red"), mark(1, "comment", "dark")),
        marks_object(mark(1, "stars", 5), mark(1, "colour", "red"), reviewer="bert"),
        marks_object(mark(1, "stars", 4), mark(1, "comment", "crop it"), reviewer="cleo"),
    )
    table = found.table({"1_00": sha(1)})
    stars = {
        name: decisions(table, Policy.of(name)).to_pylist()[0]["stars"]
        for name in ("any", "all", "majority")
    }
    assert stars == {"any": 5, "all": 2, "majority": 4}
    [decided] = decisions(table, Policy()).to_pylist()
    assert decided["colour"] == "red"
    assert decided["comments"] == ["anna: dark", "cleo: crop it"]
    assert decided["disagree"], "2 and 5 stars are far apart"


def test_who_flags_the_same_does_not_disagree() -> None:
    assert decisions(votes(a="pick", b="pick"), Policy()).column("disagree").to_pylist() == [False]
    assert decisions(votes(a="pick", b="reject"), Policy()).column("disagree").to_pylist() == [True]


# In a run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    opened = begin(str(tmp_path))
    finish(opened)
    return opened


def marked(run: Run, number: int, n: int = 0, value: str = "pick") -> MarksObject:
    """Marks on an image of the run as it is now."""
    fingerprint, image_id = run.record.fingerprint_at_first, f"{number}_00"
    each = Mark(image_id, run.hashes()[image_id], "flag", value, 1)  # type: ignore[arg-type]
    return MarksObject(fingerprint, "anna", "s1", n, (each,))


def test_a_run_gives_its_marks_and_decisions(run: Run) -> None:
    assert run.marks.equals(MARKS_SCHEMA.empty_table())
    assert run.decisions().equals(DECISIONS_SCHEMA.empty_table())
    store_marks(run.store, marked(run, 2))
    store_marks(run.store, marked(run, 3, n=1, value="reject"))
    table = open_run(run.url).marks
    assert table.schema.equals(MARKS_SCHEMA)
    rows = table.select(["reviewer", "image_id", "field", "value", "current"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("anna", "2_00", "flag", "pick", True),
        ("anna", "3_00", "flag", "reject", True),
    ]
    decided = run.decisions("all").select(["image_id", "flag"]).to_pylist()
    assert [tuple(row.values()) for row in decided] == [("2_00", "pick"), ("3_00", "reject")]


def test_a_run_that_has_grown_keeps_its_marks(run: Run) -> None:
    """Its fingerprint changes with each edition; that at its start does not."""
    store_marks(run.store, marked(run, 2))
    grown = Run(run.store, replace(run.record, editions=()))
    assert grown.marks.num_rows == 1
    assert run.record.fingerprint_at_first == run.record.fingerprint


def test_ignored_objects_are_warned_of(run: Run) -> None:
    store_marks(run.store, marked(run, 2))
    run.store.create("review/marks/anna/s1-9.json", b"{")
    with pytest.warns(MarksWarning, match=r"review/marks/anna/s1-9.json is ignored: not JSON"):
        assert run.marks.num_rows == 1


def test_the_parquet_file_spares_reading_the_objects_it_has(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_marks(run.store, marked(run, 2))
    run.store.create("review/marks/anna/s1-9.json", b"{")
    first = MergedMarks(run.store, run.record.fingerprint_at_first)
    first.refresh()
    first.write(run.hashes())
    assert pq.read_table(f"{run.url}/{MARKS_FILE}").column("value").to_pylist() == ["pick"]
    store_marks(run.store, marked(run, 3, n=1))
    read: list[str] = []
    plain = Store.read_if_any
    monkeypatch.setattr(
        Store, "read_if_any", lambda self, path: (read.append(path), plain(self, path))[1]
    )
    second = MergedMarks(run.store, run.record.fingerprint_at_first)
    second.refresh()
    assert read == [MARKS_FILE, "review/marks/anna/s1-1.json"]
    assert {key[1] for key in second.counted} == {"2_00", "3_00"}
    assert second.problems == first.problems
    assert len(first.problems) == 1


@pytest.mark.parametrize("damage", ["bytes", "an object has gone", "another run"])
def test_a_parquet_file_that_cannot_be_used_is_not(run: Run, damage: str) -> None:
    for n in range(2):
        store_marks(run.store, marked(run, n, n))
    fingerprint = run.record.fingerprint_at_first
    found = MergedMarks(run.store, fingerprint)
    found.refresh()
    found.write(run.hashes())
    expected = 2
    match damage:
        case "bytes":
            run.store.put(MARKS_FILE, run.store.read(MARKS_FILE)[:-9])
        case "an object has gone":
            run.store.delete("review/marks/anna/s1-1.json")
            expected = 1
        case "another run":
            MergedMarks(run.store, "b" * 64).write({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.marks.num_rows == expected


def test_an_image_that_was_made_again_says_that_it_changed(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    commit(run, 0, [made(run, n) for n in range(4)])
    stale = replace(marked(run, 1).marks[0], sha256=sha(7))
    store_marks(run.store, replace(marked(run, 1), marks=(stale,)))
    assert run.marks.column("current").to_pylist() == [False]
    assert run.decisions().num_rows == 0

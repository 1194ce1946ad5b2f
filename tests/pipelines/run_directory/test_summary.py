"""Totals of commits: added up, kept in footers and in one index, and never out of date."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import BEGIN, begin, failed, finish, made

from nightpress.pipelines.run_directory import summary_index
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    commit_sizes,
    metadata_part,
    read_commit,
    read_summary,
    recommit_shard,
    seal_commit,
    shard_path,
)
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.summary import PAUSE_S, Summary
from nightpress.pipelines.run_directory.summary_index import (
    MAX_UPDATE_SHARE,
    SUMMARY_INDEX,
    UPDATE_S,
    pause_after,
    read_totals,
    summary_index_kept,
    write_summary_index,
)
from nightpress.pipelines.storage import Store

FENCE = FencingToken(1, "mine")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three shards; row 1 of the second one has failed."""
    found = begin(str(tmp_path))
    finish(found)
    return found


def from_rows(run: Run, shard: int) -> Summary:
    return Summary.of(read_commit(run.store, shard))


def test_the_footer_of_a_commit_holds_the_totals_of_its_rows(run: Run) -> None:
    sizes = commit_sizes(run.store)
    assert list(sizes) == [0, 1, 2]
    for shard, num_bytes in sizes.items():
        assert read_summary(run.store, shard, num_bytes) == from_rows(run, shard)
    assert from_rows(run, 1).num_failed == 1


def test_the_totals_of_a_part_of_another_program_are_read_from_its_rows(run: Run) -> None:
    part = read_commit(run.store, 1)
    pq.write_table(part.replace_schema_metadata(None), Path(run.url, shard_path(1)))
    assert read_summary(run.store, 1, commit_sizes(run.store)[1]) == from_rows(run, 1)
    assert read_summary(run.store, 1, 100) == from_rows(run, 1)  # replaced since it was listed


intervals = st.lists(
    st.tuples(st.floats(0, 10 * PAUSE_S), st.floats(0, 2 * PAUSE_S)).map(
        lambda each: (each[0], each[0] + each[1])
    ),
    max_size=8,
)


@given(st.lists(intervals, max_size=4))
def test_totals_do_not_depend_on_how_the_rows_are_divided(shards: list[list[tuple]]) -> None:
    singles = [Summary(sampling=(each,)) for shard in shards for each in shard]
    by_shard = [Summary.total(Summary(sampling=(each,)) for each in shard) for shard in shards]
    assert Summary.total(by_shard) == Summary.total(singles)


def test_longer_gaps_than_a_pause_are_not_active_time() -> None:
    near = Summary(sampling=((0.0, 1.0),)), Summary(sampling=((1.0 + PAUSE_S, 100.0),))
    far = Summary(sampling=((200.0, 210.0),))
    total = Summary.total([far, *near])
    assert total.sampling == ((0.0, 100.0), (200.0, 210.0))
    assert total.active_s == 110.0


def test_a_long_time_of_scoring_is_active_time(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    late = BEGIN + 3 * PAUSE_S

    def totals(scoring_s: float | None) -> Summary:
        records = [made(run, n, scoring_s=scoring_s) for n in range(2)]
        records += [made(run, n, started_at=late, scoring_s=scoring_s) for n in range(2, 4)]
        return Summary.of(metadata_part(records, pa.table({"image_id": [0] * 4})))

    assert totals(None).active_s == 2.0 + 2.0
    assert totals(1.4 * PAUSE_S).active_s == pytest.approx(3 * PAUSE_S + 2.0 + 2.8 * PAUSE_S)


def test_parts_of_older_versions_have_no_time_of_scoring(run: Run) -> None:
    rows = read_commit(run.store, 1)
    older = rows.drop_columns(["scoring_s"])
    assert Summary.of(older) == Summary.of(rows)
    carried = older.append_column("scoring_s", pa.array(["a text"] * len(older)))
    assert Summary.of(carried) == Summary.of(rows)


def test_indexed_totals_are_read_without_opening_a_commit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, progress = read_totals(run.store), run.progress()
    write_summary_index(run.store, before)
    monkeypatch.setattr(Store, "read_part", None)
    assert read_totals(run.store) == before
    assert run.progress() == progress


@pytest.mark.parametrize("data", [b"", b"{", b"[[1, 2]]", b'{"a": 1}', b'[[0, 1, {"num_ok": 1}]]'])
def test_an_index_that_cannot_be_read_is_ignored(run: Run, data: bytes) -> None:
    before = read_totals(run.store)
    run.store.put(SUMMARY_INDEX, data)
    assert read_totals(run.store) == before


def test_every_rewrite_of_a_commit_is_noticed(run: Run) -> None:
    """A rewritten commit is longer than before, even when its rows are fewer or the same."""
    small = made(run, 5, started_at=BEGIN)

    def noticed() -> None:
        after = commit_sizes(run.store)
        assert after[1] > sizes[-1][1]
        assert read_totals(run.store)[1].summary == from_rows(run, 1)
        sizes.append(after)
        write_summary_index(run.store, read_totals(run.store))

    sizes = [commit_sizes(run.store)]
    write_summary_index(run.store, read_totals(run.store))
    amend_commit(run.store, 1, {1: small})
    noticed()
    amend_commit(run.store, 1, {1: failed(run, 5)})
    noticed()
    seal_commit(run.store, 1, FENCE)
    noticed()
    recommit_shard(run.store, 1, read_commit(run.store, 1).slice(0, 1))
    noticed()


def test_commits_that_the_index_does_not_know_are_read_from_their_footers(run: Run) -> None:
    totals = read_totals(run.store)
    write_summary_index(run.store, {0: totals[0]})
    assert read_totals(run.store) == totals


def test_the_index_is_updated_while_a_run_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with summary_index_kept(run.store, update_s=0.01):
        while run.store.size(SUMMARY_INDEX) is None:
            pass
    monkeypatch.setattr(summary_index, "read_summary", None)
    assert len(read_totals(run.store)) == 3


def test_totals_that_are_known_are_not_read_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_totals(run.store)
    write_summary_index(run.store, known)
    for name in ("read", "read_part", "read_if_any"):
        monkeypatch.setattr(Store, name, None)
    assert read_totals(run.store, known) == known


def test_the_longer_an_update_takes_the_longer_the_pause_after_it() -> None:
    assert pause_after(0.1) == UPDATE_S
    assert 10.0 / pause_after(10.0) == MAX_UPDATE_SHARE

"""The worklist: whatever fails how often, every shard ends once and only poison is set aside."""

import math
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given, settings

from nightpress.jobs.dispatch.shard_queue import LOSSES_PER_ATTEMPT, Piece, ShardQueue
from nightpress.pipelines.records import FailureType

KILLED = FailureType.WORKER_KILLED


def worklist(*sizes: int, max_attempts: int = 3) -> ShardQueue:
    return ShardQueue(range(len(sizes)), lambda shard: sizes[shard], max_attempts)


def rows(piece: Piece) -> set[int]:
    """The rows that are tried."""
    return set(range(piece.start, piece.stop)) - {row.row for row in piece.set_aside}


def work_off(
    work: ShardQueue, poison: dict[int, set[int]]
) -> tuple[dict[int, Piece], Counter[int]]:
    """Do everything; a piece with poison in it crashes. The commits, and crashes by shard."""
    commits: dict[int, Piece] = {}
    crashes: Counter[int] = Counter()
    while not work.is_finished:
        piece = work.take()
        if rows(piece) & poison.get(piece.shard, set()):
            crashes[piece.shard] += 1
            assert work.crashed(piece, KILLED, "it died")
        elif work.done(piece):
            assert piece.shard not in commits
            commits[piece.shard] = piece
    return commits, crashes


def test_without_trouble_each_shard_is_handed_out_whole_and_in_order() -> None:
    work = worklist(4, 4, 2)
    pieces = [work.take() for _ in range(3)]
    assert [(p.shard, p.start, p.stop, p.attempt, p.commits) for p in pieces] == [
        (0, 0, 4, 1, True),
        (1, 0, 4, 1, True),
        (2, 0, 2, 1, True),
    ]
    assert not work.is_finished
    assert all(work.done(piece) for piece in pieces)
    assert work.is_finished


def test_one_crash_blames_nobody() -> None:
    work = worklist(8)
    piece = work.take()
    assert work.crashed(piece, KILLED, "once")
    again = work.take()
    assert (again.start, again.stop, again.attempt, again.commits) == (0, 8, 2, True)
    assert work.done(again)


def test_a_row_that_always_kills_stands_alone_after_logarithmically_many_crashes() -> None:
    for size in (1, 2, 7, 64, 1000):
        for bad in {0, size // 2, size - 1}:
            commits, crashes = work_off(worklist(size), {0: {bad}})
            assert [row.row for row in commits[0].set_aside] == [bad]
            assert commits[0].set_aside[0].error_type == KILLED
            assert crashes[0] <= 4 + math.ceil(math.log2(size))


def test_a_row_that_stands_alone_is_not_blamed_for_one_death() -> None:
    work = worklist(4)
    while (piece := work.take()).num_rows > 1:
        assert work.crashed(piece, KILLED, "a neighbour, or nobody")
    assert work.crashed(piece, KILLED, "by chance")
    again = work.take()
    assert (again.start, again.num_rows, again.attempt) == (piece.start, 1, piece.attempt + 1)
    work.done(again)
    commits, _ = work_off(work, {})
    assert not commits[0].set_aside


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    max_attempts=st.integers(1, 4),
    data=st.data(),
)
@settings(deadline=None)
def test_exactly_the_poison_is_set_aside_wherever_it_lies(
    sizes: list[int], max_attempts: int, data: st.DataObject
) -> None:
    poison = {
        shard: data.draw(st.sets(st.integers(0, size - 1), max_size=4))
        for shard, size in enumerate(sizes)
    }
    commits, crashes = work_off(worklist(*sizes, max_attempts=max_attempts), poison)
    assert set(commits) == set(range(len(sizes)))
    for shard, size in enumerate(sizes):
        assert {row.row for row in commits[shard].set_aside} == poison[shard]
        most = max_attempts + len(poison[shard]) * (3 + math.ceil(math.log2(size)))
        assert crashes[shard] <= most


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    max_attempts=st.integers(1, 4),
    data=st.data(),
)
@settings(deadline=None)
def test_exactly_the_poison_is_set_aside_though_a_dying_process_tells_nothing(
    sizes: list[int], max_attempts: int, data: st.DataObject
) -> None:
    """An actor has two pieces in hand, and wherever one of them is innocent, it is blamed."""
    poison = {
        shard: data.draw(st.sets(st.integers(0, size - 1), max_size=2))
        for shard, size in enumerate(sizes)
    }
    work, set_aside = worklist(*sizes, max_attempts=max_attempts), {}
    while not work.is_finished:
        in_hand = [work.take()]
        if not in_hand[0].alone and (second := work.take_beside()) is not None:
            in_hand.append(second)
        ends = [bool(rows(piece) & poison[piece.shard]) for piece in in_hand]
        if not any(ends):
            for piece in in_hand:
                if work.done(piece):
                    set_aside[piece.shard] = {row.row for row in piece.set_aside}
            continue
        blamed = in_hand.pop(ends.index(min(ends)))
        for piece in in_hand:
            work.give_back(replace(piece, alone=True))
        assert work.crashed(blamed, KILLED, "it died")
    assert set_aside == poison


@given(data=st.data())
@settings(deadline=None)
def test_under_any_mixture_of_troubles_every_shard_ends_once(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    work = worklist(*sizes)
    flying: list[Piece] = []
    ended: Counter[int] = Counter()
    troubles = 0
    while not work.is_finished:
        if work and (not flying or data.draw(st.booleans())):
            flying.append(work.take())
            continue
        piece = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        kinds = ["done", "crash", "loss", "back", "copy"] if troubles < 40 else ["done"]
        troubles += 1
        match data.draw(st.sampled_from(kinds)):
            case "done":
                ended[piece.shard] += work.done(piece)
            case "crash" | "loss" as kind:
                goes_on = (
                    work.crashed(piece, KILLED, "it died") if kind == "crash" else work.lost(piece)
                )
                if not goes_on:
                    work.close(piece.shard)
                    ended[piece.shard] += 1
            case "back":
                work.give_back(piece)
            case "copy" if piece.commits:
                flying += [piece, piece.again()]
            case _:
                flying.append(piece)
    assert ended == Counter(range(len(sizes)))


def test_lost_nodes_are_forgiven_but_not_for_ever() -> None:
    work = worklist(4, max_attempts=2)
    for _ in range(LOSSES_PER_ATTEMPT * 2):
        piece = work.take()
        assert piece.commits
        assert work.lost(piece)
    assert [work.take().commits for _ in range(2)] == [False, False]


def test_what_was_left_is_handed_out_again_first() -> None:
    work = worklist(4, 4)
    first = work.take()
    work.give_back(first)
    assert work.take() == first


def test_a_copy_that_comes_second_counts_nothing() -> None:
    work = worklist(4)
    piece = work.take()
    copy = piece.again()
    assert work.done(copy)
    assert not work.done(piece)
    assert work.crashed(piece, KILLED, "late")
    assert work.is_finished


def test_a_commit_that_never_succeeds_is_given_up() -> None:
    work = worklist(2, max_attempts=2)
    given_up = False
    while not given_up:
        piece = work.take()
        if piece.commits:
            given_up = not work.crashed(piece, KILLED, "always")
        else:
            work.done(piece)
    work.close(0)
    assert work.is_finished

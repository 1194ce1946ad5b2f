"""The activities of a worker add up to its lifetime."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.shards.timeline import MAX_PAUSES, Activity, Span, Timeline


@given(st.lists(st.tuples(st.sampled_from(Activity), st.floats(0, 1e6)), max_size=30))
def test_spans_follow_each_other_and_add_up(doings: list[tuple[Activity, float]]) -> None:
    now = 1000.0
    told: list[Span] = []
    timeline = Timeline("here:1", max_spans=100, on_span=told.append, clock=lambda: now)
    for activity, seconds in doings:
        timeline.switch(activity)
        now += seconds
    spent = timeline.spent()
    assert abs(sum(spent.seconds.values()) - (now - 1000.0)) < 1e-6 * now
    assert list(spent.spans) == told
    for earlier, later in pairwise(told):
        assert abs(earlier.began + earlier.seconds - later.began) < 1e-6 * now


def test_the_sums_count_spans_that_are_not_kept() -> None:
    now, told = 0.0, list[Span]()
    timeline = Timeline("here:1", max_spans=2, on_span=told.append, clock=lambda: now)
    for _ in range(10):
        for activity in (Activity.BUSY, Activity.OUTPUT):
            timeline.switch(activity)
            now += 1.0
    spent = timeline.spent()
    assert (spent.seconds[Activity.BUSY], spent.seconds[Activity.OUTPUT]) == (10.0, 10.0)
    assert list(spent.spans) == told[:2]
    assert spent.num_dropped == len(told[2:]) > 0


def test_by_default_no_spans_are_kept() -> None:
    timeline = Timeline("here:1")
    timeline.switch(Activity.BUSY)
    assert timeline.spent().spans == ()


def test_a_pause_lasts_from_the_end_of_a_batch_to_the_start_of_the_next() -> None:
    now = 0.0
    timeline = Timeline("here:1", clock=lambda: now)
    for activity, seconds in (
        (Activity.INPUT, 100.0),  # before the first batch
        (Activity.BUSY, 1.0),
        (Activity.COMPILING, 30.0),  # in the middle of it
        (Activity.BUSY, 1.0),
        (Activity.OUTPUT, 0.25),
        (Activity.BUSY, 1.0),
        (Activity.OUTPUT, 0.5),
        (Activity.INPUT, 0.125),
        (Activity.COMPILING, 1.0),
        (Activity.BUSY, 1.0),
        (Activity.INPUT, 100.0),  # after the last
    ):
        timeline.switch(activity)
        now += seconds
        timeline.spent()  # asking changes nothing
    assert timeline.spent().between_batches_s == (0.25, 0.625)


def test_only_the_latest_pauses_are_kept() -> None:
    now = 0.0
    timeline = Timeline("here:1", clock=lambda: now)
    for pause in range(MAX_PAUSES + 5):
        timeline.switch(Activity.BUSY)
        timeline.switch(Activity.OUTPUT)
        now += pause
    timeline.switch(Activity.BUSY)
    kept = timeline.spent().between_batches_s
    assert len(kept) == MAX_PAUSES
    assert (kept[0], kept[-1]) == (5.0, MAX_PAUSES + 4.0)


def test_waiting_for_output_counts_as_waiting_for_scores_while_an_image_is_scored() -> None:
    clock = iter(float(second) for second in range(100))
    timeline = Timeline("here:1", max_spans=10, clock=lambda: next(clock))
    timeline.switch(Activity.BUSY)
    timeline.note_scoring(True)  # beside the sampling: nobody waits
    timeline.switch(Activity.OUTPUT)
    timeline.note_scoring(False)
    timeline.note_scoring(True)
    timeline.switch(Activity.INPUT)
    timeline.note_scoring(False)
    assert [span.activity for span in timeline.spent().spans] == [
        Activity.LOADING,
        Activity.BUSY,
        Activity.SCORING,
        Activity.OUTPUT,
        Activity.SCORING,
        Activity.INPUT,
    ]

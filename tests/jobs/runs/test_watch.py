"""What stops a start, and with which error."""

from nightpress.jobs.dispatch.limits import StopReason
from nightpress.jobs.errors import STOPPED, RunStopped, StoppedOnRequest, exit_code
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.watch import Watch
from nightpress.pipelines.shards.events import BatchDone, BatchSplit, DrawsJudged

REJECTED = DrawsJudged(0, 80, failed=(("clip > 1", 80),), rows=(("a", 80, 0),))
FAILED = BatchDone(0, num_ok=0, num_failed=3, num_sampled=0)


def test_too_many_rejected_draws_stop_a_start_that_the_same_command_resumes() -> None:
    watch = Watch(None, "70%")
    assert watch.reason_to_stop is None
    told = list(watch.following([REJECTED]))
    reason = watch.reason_to_stop
    assert isinstance(reason, StopReason)
    error = reason.as_error()
    assert type(error) is RunStopped
    assert exit_code(error) == STOPPED
    assert str(error) == (
        "stopped: 80 of 80 draws were rejected, 80 by clip > 1, and gates.max_rejected is 70%; "
        "with a higher limit the same command resumes"
    )
    assert [type(each) for each in told] == [DrawsJudged, Message, Message]


def test_too_many_failures_stop_a_start_with_a_text_that_no_repetition_mends() -> None:
    watch = Watch(2, "70%")
    assert list(watch.following([FAILED])) == [FAILED]
    reason = watch.reason_to_stop
    assert isinstance(reason, str)
    assert reason.startswith("3 of 3 images failed")


def test_a_wanted_stop_is_no_trouble() -> None:
    assert type(StopReason("the deadline is near").as_error()) is StoppedOnRequest


def test_what_is_to_be_said_of_batches_follows_their_events() -> None:
    split = BatchSplit(0, None, "512x512-guided", 4, 4, 2, "full", did_not_fit=True)
    told = list(Watch(None).following([split, split]))
    assert [type(each) for each in told] == [BatchSplit, Message, BatchSplit]

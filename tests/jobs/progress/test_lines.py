"""The progress of a run: plain lines in a pipe, one live line on a terminal."""

import io

from rich.console import Console

from nightpress.jobs.progress.displays import Live, Plain
from nightpress.jobs.progress.events import (
    ActorJoined,
    ActorLost,
    Event,
    Message,
    Planned,
    ShardRetried,
)
from nightpress.jobs.progress.lines import RunProgressText, display_for, event_line, progress_line
from nightpress.jobs.progress.tally import Tally
from nightpress.pipelines.shards.events import BatchDone, ShardDone

EVENTS: list[Event] = [
    Planned(num_images=1632, num_shards=102, num_done=0),
    ActorJoined("gpu-1", 1),
    BatchDone(0, 4, 0, 4),
    ShardDone(0, 3, 1),
    ActorLost("gpu-1", 0, "the node is gone"),
    ShardRetried(1, 1, "the node is gone"),
]


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    display = display_for(console)
    assert isinstance(display, Live if terminal else Plain)
    with display:
        for event in EVENTS:
            display.show(event)
    return stream.getvalue()


def test_a_pipe_gets_plain_lines() -> None:
    text = shown(terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "1,632 images in 102 shards" in text
    assert "warning: lost an actor on gpu-1 (the node is gone); 0 actors left" in text
    assert text.splitlines()[-1] == "4 / 1,632 images · 1 failed · 0 actors"


def test_a_terminal_gets_a_moving_line_with_notable_events_above_it() -> None:
    text = shown(terminal=True)
    assert "\x1b[" in text
    assert "4 / 1,632 images" in text
    assert "warning: shard 1, attempt 1 failed: the node is gone" in text


def test_a_plain_display_does_not_print_every_batch() -> None:
    stream = io.StringIO()
    with Plain(Console(file=stream), RunProgressText(), every_s=3600) as display:
        display.show(EVENTS[0])
        for shard in range(50):
            display.show(BatchDone(shard, 4, 0, 4))
    assert len(stream.getvalue().splitlines()) == 3


def test_before_a_run_is_planned_there_is_no_progress_line() -> None:
    progress = RunProgressText()
    assert progress.add(ActorJoined("gpu-1", 1)) is not None
    assert progress.line() == ""
    progress.add(EVENTS[0])
    progress.add(BatchDone(0, 4, 0, 4))
    assert progress.share() == (4, 1632)


def test_a_line_that_has_not_changed_is_not_printed_again() -> None:
    stream = io.StringIO()
    with Plain(Console(file=stream), RunProgressText(), every_s=0) as display:
        for event in (EVENTS[0], *[BatchDone(0, 0, 0, 0)] * 3):
            display.show(event)
    assert len(stream.getvalue().splitlines()) == 2


def test_the_line_shows_progress_rate_time_left_failures_and_actors() -> None:
    now = iter([0.0, 11.0, *[34.0] * 9])
    tally = Tally(clock=lambda: next(now))
    tally.add(Planned(num_images=100, num_shards=10, num_done=0))
    tally.add(ActorJoined("a", 2))
    tally.add(BatchDone(0, 2, 0, 2, batch_s=2.0))
    tally.add(BatchDone(1, 48, 1, 48, batch_s=20.0))
    assert progress_line(tally) == (
        "51 / 100 images · 2.00 images/s · 24 s left · 1 failed · 2 actors"
    )


def test_a_resumed_run_says_how_much_is_already_done() -> None:
    text = event_line(Planned(num_images=100, num_shards=10, num_done=42))
    assert text == "resuming: 42 of 100 images are already committed"


def test_a_warning_is_marked() -> None:
    assert event_line(Message("look out", warning=True)) == "warning: look out"
    assert event_line(Message("by the way")) == "by the way"


def test_a_shard_that_is_given_up_is_not_said_to_be_tried_again() -> None:
    line = event_line(ShardRetried(3, 7, "its process died", is_given_up=True))
    assert line == (
        "warning: shard 3, attempt 7 failed: its process died; no row is tried again; an actor "
        "scores what is stored, and commits"
    )

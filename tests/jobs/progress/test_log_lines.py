"""Events as lines of JSON, and the output of another process as such lines."""

import io
import json
from typing import Any

from nightpress.jobs.progress.events import ActorJoined, ActorLost, Message, Planned
from nightpress.jobs.progress.log_lines import JsonLines, LineWrapper, log_line
from nightpress.pipelines.shards.events import BatchDone, ShardDone


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_is_an_object_with_time_level_and_message() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as display:
        display.show(Planned(num_images=8, num_shards=2, num_done=0))
        display.show(ActorJoined("node-1", 1))
        display.show(ActorLost("node-1", 0, 'it was "killed"\nby the kernel'))
        display.show(ShardDone(0, num_ok=3, num_failed=1))
        display.show(Message("look out", warning=True))
    found = lines_of(stream)
    assert [(each["level"], each["event"]) for each in found] == [
        ("info", "planned"),
        ("info", "actor_joined"),
        ("warning", "actor_lost"),
        ("info", "shard_done"),
        ("warning", "message"),
        ("info", "progress"),
    ]
    assert all(each["time"] and each["message"] for each in found)
    assert found[2]["reason"] == 'it was "killed"\nby the kernel'
    assert found[4]["message"] == "look out"
    assert (found[5]["num_done"], found[5]["num_images"], found[5]["num_failed"]) == (4, 8, 1)


def test_progress_comes_every_few_seconds_and_batches_have_no_line() -> None:
    times = iter((0.0, 1.0, 2.0, 9.0, 11.5))
    stream = io.StringIO()
    display = JsonLines(stream, every_s=10.0, clock=lambda: next(times))
    display.show(Planned(num_images=80, num_shards=2, num_done=0))
    batch = BatchDone(0, num_ok=1, num_failed=0, num_sampled=1, batch_s=0.1)
    for _ in range(4):
        display.show(batch)
    assert log_line(batch) is None
    assert [each["event"] for each in lines_of(stream)] == ["planned", "progress", "progress"]


def test_the_output_of_a_job_becomes_lines_in_whatever_pieces_it_comes() -> None:
    stream = io.StringIO()
    wrapper = LineWrapper(stream)
    for piece in ('{"level": "info", "mess', 'age": "a"}\nplain te', "xt\n\n[1]\nno end"):
        wrapper(piece)
    wrapper.close()
    found = lines_of(stream)
    assert [each["message"] for each in found] == ["a", "plain text", "[1]", "no end"]
    assert [each.get("source") for each in found] == [None, "job", "job", "job"]

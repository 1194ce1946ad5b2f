"""A run's events as lines of JSON: those of the run's log, and those of `--log-format json`."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from nightpress.jobs.progress.displays import PLAIN_EVERY_S, Clock
from nightpress.jobs.progress.events import (
    ActorJoined,
    ActorLost,
    Event,
    Message,
    Planned,
    RowSetAside,
    ShardRetried,
)
from nightpress.jobs.progress.lines import event_line, progress_line
from nightpress.jobs.progress.tally import Tally
from nightpress.pipelines.shards.events import ShardDone

NAMES: dict[type, str] = {
    Planned: "planned",
    ActorJoined: "actor_joined",
    ActorLost: "actor_lost",
    ShardRetried: "shard_retried",
    RowSetAside: "row_set_aside",
    ShardDone: "shard_done",
}
"""Event -> its name in a line. Batches have no line: there may be several in a second."""

WARNINGS = (ActorLost, ShardRetried, RowSetAside)


def log_line(event: Event) -> tuple[str, dict[str, Any]] | None:
    """The name and the values of an event; None if it is not worth a line."""
    if isinstance(event, Message):
        return "message", {"level": level_of(event), "message": event.text}
    name = NAMES.get(type(event))
    return None if name is None else (name, asdict(event))


def level_of(event: Event) -> str:
    """`info` or `warning`."""
    is_warning = isinstance(event, WARNINGS) or (isinstance(event, Message) and event.warning)
    return "warning" if is_warning else "info"


def stderr_line(level: str, message: str, **values: Any) -> str:
    """One line for stderr."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "level": level, "message": message, **values}, default=str)


class Writable(Protocol):
    """What lines are written to, such as `sys.stderr`."""

    def write(self, text: str, /) -> object:
        """Write text."""
        ...

    def flush(self) -> object:
        """Pass on what was written."""
        ...


class JsonLines:
    """A display that prints a line of JSON for each event, and one every few seconds."""

    def __init__(
        self, stream: Writable, every_s: float = PLAIN_EVERY_S, clock: Clock | None = None
    ) -> None:
        self._stream, self._tally = stream, Tally()
        self._clock = clock or self._tally.clock
        self._every_s, self._next_at = every_s, self._clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._print_progress()

    def show(self, event: Event) -> None:
        """Print the event if it is worth a line, or the progress if it is time for that."""
        self._tally.add(event)
        line = log_line(event)
        if line is not None:
            name, values = line
            text = event_line(event) or name.replace("_", " ")
            self._print(level_of(event), text.removeprefix("warning: "), name, values)
        elif (now := self._clock()) >= self._next_at:
            self._next_at = now + self._every_s
            self._print_progress()

    def _print_progress(self) -> None:
        tally = self._tally
        if not tally.num_images:
            return
        values = {
            "num_images": tally.num_images,
            "num_done": tally.num_done,
            "num_failed": tally.num_failed,
            "num_actors": tally.num_actors,
            "images_per_s": tally.images_per_s,
            "left_s": tally.left_s,
        }
        self._print("info", progress_line(tally), "progress", values)

    def _print(self, level: str, text: str, name: str, values: dict[str, Any]) -> None:
        others = {key: value for key, value in values.items() if key not in ("level", "message")}
        self._stream.write(stderr_line(level, text, event=name, **others) + "\n")
        self._stream.flush()


class LineWrapper:
    """Writes pieces of another process's output as lines of JSON; lines that are JSON stay."""

    def __init__(self, stream: Writable) -> None:
        self._stream, self._rest = stream, ""

    def __call__(self, text: str) -> None:
        """Write the lines that are whole with this piece."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._stream.write(_as_json(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Write a last line that did not end."""
        if self._rest:
            self("\n")


def _as_json(line: str) -> str:
    try:
        is_object = isinstance(json.loads(line), dict)
    except ValueError:
        is_object = False
    return line if is_object else stderr_line("info", line, source="job")

"""The progress display of a training: plain lines in a pipe, a live line on a terminal."""

import io
from datetime import UTC, datetime

from rich.console import Console

from nightpress.jobs.progress.training import TrainingProgressText, display_for, event_line
from nightpress.pipelines.training.events import (
    CheckpointSaved,
    DataReady,
    Finished,
    ImagesRead,
    LatentsCached,
    Resumed,
    SamplesWritten,
    StepDone,
    TrainingEvent,
)
from nightpress.pipelines.training.metrics import StepMetrics


def step(number: int, loss: float = 0.5, rate: float = 16.0) -> StepDone:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    row = StepMetrics(number, number * 16, loss, {}, 1e-4, 0.5, rate, float(number), at)
    return StepDone(row, max_train_steps=1000)


EVENTS: list[TrainingEvent] = [
    DataReady(200, 1, ("a[1].png: the file is empty",), ("one class only",)),
    LatentsCached(64, 200),
    step(10),
    CheckpointSaved(10, "checkpoints/step-00000010.safetensors", 2_000_000),
    SamplesWritten(10, "samples/step-00000010.png"),
    step(40),
    Finished(1000, "model"),
]


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    with display_for(Console(file=stream, force_terminal=terminal, width=160)) as display:
        for event in EVENTS:
            display.show(event)
    return stream.getvalue()


def test_a_pipe_gets_plain_lines() -> None:
    text = shown(terminal=False)
    assert "\x1b" not in text
    assert "warning: one class only" in text
    assert "a[1].png: the file is empty" in text
    assert text.splitlines()[-1] == (
        "step 40 / 1,000 · loss 0.5 · 16.0 images/s · 16 min 00 s left · checkpoint 10 · "
        "samples/step-00000010.png"
    )


def test_a_terminal_gets_a_live_line_and_messages_above_it() -> None:
    text = shown(terminal=True)
    assert "\x1b[" in text
    assert "a[1].png: the file is empty" in text
    assert "step 40 / 1,000" in text


def test_images_read_are_counted_until_the_data_is_ready() -> None:
    progress = TrainingProgressText()
    assert progress.add(ImagesRead(2000)) is None
    progress.add(ImagesRead(1000))  # from another machine
    assert progress.line() == "2,000 images read"
    assert progress.share() == (0, 0)
    progress.add(DataReady(3000, 0, ()))
    assert progress.line() == ""


def test_before_the_first_step_the_encoded_images_are_counted() -> None:
    progress = TrainingProgressText()
    assert progress.line() == ""
    progress.add(LatentsCached(64, 200))
    assert progress.line() == "64 / 200 images encoded"
    assert progress.share() == (64, 200)
    progress.add(step(1))
    assert progress.share() == (1, 1000)


def test_the_loss_is_smoothed() -> None:
    progress = TrainingProgressText()
    progress.add(step(1, loss=1.0))
    progress.add(step(2, loss=0.0))
    assert "loss 0.4737" in progress.line()  # 0.9 / (0.9 + 1)


def test_a_loss_that_is_not_finite_is_shown_until_the_next_one() -> None:
    progress = TrainingProgressText()
    progress.add(step(1, loss=1.0))
    progress.add(step(2, loss=float("nan")))
    assert "loss nan" in progress.line()
    progress.add(step(3, loss=0.0))
    assert "loss 0.4737" in progress.line()


def test_a_resumed_training_names_its_checkpoint() -> None:
    progress = TrainingProgressText()
    assert progress.add(Resumed(500)) == "resuming from step 500"
    progress.add(step(510))
    assert "checkpoint 500" in progress.line()


def test_the_first_ten_bad_images_are_named_and_the_others_counted() -> None:
    text = event_line(DataReady(100, 25, tuple(f"{n}.png: broken" for n in range(20))))
    assert text is not None
    assert "9.png: broken" in text
    assert "10.png" not in text
    assert text.splitlines()[-1] == "  and 15 more"

"""What a run says about batches that could not be sampled as a whole."""

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.batch_notes import BatchNotes
from nightpress.pipelines.shards.events import BatchSplit, ShardLeft

KIND = "512x512-guided"


def test_each_smaller_size_of_a_kind_is_said_once() -> None:
    notes = BatchNotes()
    assert list(notes.add(ShardLeft(3))) == []
    [said] = notes.add(BatchSplit(3, KIND, 8, 4, "CUDA out of memory", did_not_fit=True))
    assert said == Message(
        "batch.size: a batch of 8 images of 512x512-guided did not fit in memory; from now on they "
        "have 4: CUDA out of memory",
        warning=True,
    )
    again = BatchSplit(5, KIND, 8, 4, "CUDA out of memory", did_not_fit=True)  # of another actor
    assert list(notes.add(again)) == []
    assert len(list(notes.add(BatchSplit(5, KIND, 4, 2, "full", did_not_fit=True)))) == 1
    assert list(notes.lines()) == []


def test_a_batch_that_fails_is_said_at_once_and_all_are_counted_at_the_end() -> None:
    notes = BatchNotes()
    [said] = notes.add(BatchSplit(3, KIND, 4, 1, "RuntimeError: first", did_not_fit=False))
    assert said == Message(
        "a batch of 4 images could not be sampled, so its images are sampled one at a time: "
        "RuntimeError: first",
        warning=True,
    )
    assert list(notes.lines()) == []
    assert list(notes.add(BatchSplit(4, KIND, 4, 1, "other", did_not_fit=False))) == []
    [last] = notes.lines()
    assert last.text.startswith("2 batches could not be sampled as a whole")
    assert last.text.endswith("The first error: RuntimeError: first")

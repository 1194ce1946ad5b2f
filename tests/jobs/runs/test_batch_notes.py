"""What a run says about batches that could not be sampled as a whole."""

from dataclasses import replace

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.batch_notes import BatchNotes
from nightpress.pipelines.shards.events import BatchSplit, ShardLeft

SPLIT = BatchSplit(3, None, "512x512-guided", 8, 8, 4, "CUDA out of memory", did_not_fit=True)
FAILED = replace(SPLIT, batch_size=8, num_images=3, size=1, error="first", did_not_fit=False)


def test_each_smaller_size_of_a_kind_is_said_once() -> None:
    notes = BatchNotes()
    assert list(notes.add(ShardLeft(3))) == []
    [said] = notes.add(SPLIT)
    assert said == Message(
        "batch.size: a batch of 8 (512x512-guided) did not fit in memory; from now on such batches "
        "have 4 images: CUDA out of memory",
        warning=True,
    )
    assert list(notes.add(replace(SPLIT, shard=5))) == []  # of another actor
    [smaller] = notes.add(replace(SPLIT, batch_size=4, num_images=4, size=2))
    assert "a batch of 4 (512x512-guided)" in smaller.text
    assert list(notes.lines()) == []


def test_a_short_batch_counts_as_what_it_was_padded_to() -> None:
    [said] = BatchNotes().add(replace(SPLIT, num_images=3))
    assert "a batch of 8 (512x512-guided)" in said.text


def test_sizes_are_said_for_each_model() -> None:
    notes = BatchNotes()
    [small] = notes.add(replace(SPLIT, model="small", batch_size=4, size=2))
    [large] = notes.add(replace(SPLIT, model="large"))
    assert "(512x512-guided by model small)" in small.text
    assert "(512x512-guided by model large)" in large.text


def test_a_batch_that_fails_is_said_at_once_and_all_are_counted_at_the_end() -> None:
    notes = BatchNotes()
    [said] = notes.add(FAILED)
    assert said == Message(
        "a batch of 8 could not be sampled, so its 3 images are sampled one at a time: first",
        warning=True,
    )
    assert list(notes.lines()) == []
    assert list(notes.add(replace(FAILED, error="other"))) == []
    [last] = notes.lines()
    assert last.text.startswith("2 batches could not be sampled as a whole")
    assert last.text.endswith("The first error: first")

"""What a run says about thumbnails that could not be made."""

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.thumb_notes import ThumbNotes
from nightpress.pipelines.shards.events import ShardDone


def test_the_first_failure_is_said_at_once_and_all_at_the_end() -> None:
    notes = ThumbNotes()
    done = ShardDone(3, num_ok=7, num_failed=0)
    assert list(notes.add(done)) == []
    assert list(notes.lines()) == []
    [first] = notes.add(done.with_thumbs(2, "MemoryError: no room"))
    assert first == Message(
        "review.thumbs: no thumbnails of 2 images, which stay: MemoryError: no room", warning=True
    )
    assert list(notes.add(done.with_thumbs(1, "again"))) == []
    [last] = notes.lines()
    assert last.text == "review.thumbs: no thumbnails of 3 images; nightpress review makes them"

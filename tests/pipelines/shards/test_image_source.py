"""How much may wait to be stored, and that images are dealt with in as many threads as it takes."""

import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from support.fakes.fake_runs import FakeSampler, prepare, work_on

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.shards.batching import PlannedClip, planned_images
from nightpress.pipelines.shards.image_source import (
    PENDING_BATCHES,
    PENDING_BYTES,
    PENDING_S,
    PendingBatch,
    pixel_bytes,
    waits_too_long,
)
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.storage import Store


def pending(number: int, seconds: float, num_bytes: int = 0) -> list[PendingBatch]:
    return [PendingBatch([], seconds, num_bytes)] * number


def test_two_batches_may_always_wait_however_long_they_took_and_however_large_they_are() -> None:
    assert PENDING_BATCHES == 2
    assert not waits_too_long(pending(2, 1000.0, 2 * PENDING_BYTES))


def test_a_third_batch_waits_only_if_all_took_no_longer_than_two_seconds() -> None:
    assert not waits_too_long(pending(3, PENDING_S / 3))
    assert not waits_too_long(pending(8, PENDING_S / 8))
    assert waits_too_long(pending(3, PENDING_S / 2))


def test_many_short_batches_wait_only_as_long_as_their_pixels_fit_in_memory() -> None:
    assert not waits_too_long(pending(8, 0.0, PENDING_BYTES // 8))
    assert waits_too_long(pending(9, 0.0, PENDING_BYTES // 8))


def test_a_batch_is_done_when_all_of_its_images_are() -> None:
    first, second = Future[ImageRecord](), Future[ImageRecord]()
    batch = PendingBatch([first, second])
    first.set_exception(ValueError("it has failed, which is an end too"))
    assert not batch.is_done
    second.set_exception(ValueError("this one as well"))
    assert batch.is_done


def test_the_pixels_of_a_clip_are_those_of_all_frames(tmp_path: Path) -> None:
    _, _, rows = prepare(tmp_path, ["a walk"])
    image = planned_images(rows)[0]
    assert pixel_bytes(image) == 3 * image.width * image.height
    clip = type(image)(**{**vars(image), "clip": PlannedClip(16, 8.0)})
    assert pixel_bytes(clip) == 16 * pixel_bytes(image)


@pytest.mark.parametrize("at_once", [1, 11])
def test_as_many_images_are_stored_at_once_as_wait_for_the_store(
    tmp_path: Path, at_once: int
) -> None:
    """A store that answers only when so many requests are there would stop fewer threads."""
    arrived = threading.Barrier(at_once)

    class Together(Store):
        def create(self, path: str, data: bytes) -> bool:
            if path.startswith("images"):
                arrived.wait(20)
            return super().create(path, data)

    store, record, rows = prepare(tmp_path, [f"picture {n}" for n in range(11)])
    runner = ShardRunner(Together(store.url), record, FakeSampler(), "here:1")  # type: ignore[arg-type]
    list(runner.run(work_on(rows), rows))
    runner.close()
    assert store.present([image.file for image in planned_images(rows)]) == {
        image.file for image in planned_images(rows)
    }

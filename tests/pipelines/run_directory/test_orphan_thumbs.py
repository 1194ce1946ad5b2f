"""Objects of `thumbs/` that show no image any more are orphans; the others never are."""

import json
from pathlib import Path
from typing import cast

from support.fakes.fake_runs import finished_run

from nightpress.pipelines.image_files.atlas import thumb_of_file
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.orphans import delete_thumbs, orphan_thumbs
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import (
    THUMBS_FOLDER,
    digest_of,
    is_atlas,
    read_indexes,
    read_thumbs,
    store_atlas,
    store_index,
)
from nightpress.pipelines.run_directory.verify import orphan_images
from nightpress.pipelines.storage import READ_THREADS, Store


def run_with_thumbs(tmp_path: Path) -> Run:
    prompts = [f"picture {n}" for n in range(6)]
    return Run(*finished_run(tmp_path, prompts, review={"thumbs": True}))


def add_stale(run: Run) -> list[str]:
    """An atlas and an index of an image with other bytes than now."""
    thumb = thumb_of_file(run.store.read("images/00000000_00.png"))
    atlas = store_atlas(run.store, 0, {5: ("00000000_00", "e" * 64)}, {5: thumb})
    return sorted([atlas.path, store_index(run.store, 0, [atlas])])


def test_what_shows_images_of_the_run_is_kept(tmp_path: Path) -> None:
    run = run_with_thumbs(tmp_path)
    assert len(run.store.list(THUMBS_FOLDER)) == 4
    assert orphan_thumbs(run) == []


def test_thumbnails_of_images_that_were_made_again_are_orphans(tmp_path: Path) -> None:
    run = run_with_thumbs(tmp_path)
    before = run.store.list(THUMBS_FOLDER)
    stale = add_stale(run)
    run.store.create("thumbs/notes.txt", b"mine")
    assert orphan_thumbs(run) == stale
    assert delete_thumbs(run, FencingToken(1, "mine")) == stale
    assert run.store.list(THUMBS_FOLDER) == {**before, "thumbs/notes.txt": 4}


def test_an_atlas_that_a_sound_index_names_is_kept_beside_a_damaged_one(tmp_path: Path) -> None:
    run = run_with_thumbs(tmp_path)
    [damaged, kept] = [path for path in run.store.list(THUMBS_FOLDER) if not is_atlas(path)]
    run.store.put(damaged, run.store.read(damaged)[:-3])
    orphans = orphan_thumbs(run)
    assert damaged in orphans
    assert kept not in orphans
    assert len(orphans) == 2, "with the index its atlas"
    assert read_thumbs(run.store).problems == {damaged: "it is not what was written"}


def test_nothing_is_an_orphan_where_a_newer_version_has_written(tmp_path: Path) -> None:
    run = run_with_thumbs(tmp_path)
    add_stale(run)
    newer = json.dumps({"format_version": 2, "atlases": {}}).encode()
    run.store.create(f"thumbs/shard-00000-{digest_of(newer)}.json", newer)
    assert orphan_thumbs(run) == []


def test_thumbs_and_marks_are_no_orphaned_images(tmp_path: Path) -> None:
    run = run_with_thumbs(tmp_path)
    run.store.create("review/marks/anna/s1-0.json", b"{}")
    assert orphan_images(run) == []


class CountingStore:
    """A store that counts the indexes that were read, and how many more than were looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.num_read = self.num_looked_at = self.most_ahead = 0

    def read_if_any(self, path: str) -> bytes | None:
        """Read, and note how far ahead that is."""
        self.num_read += 1
        self.most_ahead = max(self.most_ahead, self.num_read - self.num_looked_at)
        return self._store.read_if_any(path)


def test_indexes_are_read_a_few_ahead_however_many_there_are(tmp_path: Path) -> None:
    run = run_with_thumbs(tmp_path)
    (index, *_) = [path for path in run.store.list(THUMBS_FOLDER) if not is_atlas(path)]
    counting = CountingStore(run.store)
    for path, read in read_indexes(cast("Store", counting), [index] * 1_000):
        counting.num_looked_at += 1
        assert path == index
        assert isinstance(read, tuple)
    assert counting.num_looked_at == 1_000
    assert 1 < counting.most_ahead <= 6 * READ_THREADS

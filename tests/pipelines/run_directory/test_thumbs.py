"""An index says which image is in which cell, and which clip is in which strip."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightpress.pipelines.image_files.atlas import Thumb
from nightpress.pipelines.run_directory.thumbs import (
    StripPlace,
    ThumbPlace,
    digest_of,
    places_of,
    read_thumbs,
    store_atlas,
    store_index,
    store_strips,
)
from nightpress.pipelines.storage import Store

STILL = ("a_00", "a" * 64)
CLIPS = {0: ("b_00", "b" * 64), 3: ("c_00", "c" * 64)}


def thumbs(num: int, shade: int = 0) -> list[Thumb]:
    return [np.full((12, 16, 3), shade + 10 * n, np.uint8) for n in range(num)]


def stored(store: Store) -> tuple[str, str]:
    """Paths of an atlas of strips, and of the index that names it beside one of cells."""
    strips = store_strips(
        store, 7, {place: (clip, thumbs(5 + place, place)) for place, clip in CLIPS.items()}
    )
    cells = store_atlas(store, 7, {4: STILL}, {4: thumbs(1)[0]})
    return strips.path, store_index(store, 7, [cells, strips])


def test_an_index_with_strips_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path, _ = stored(store)
    found = read_thumbs(store)
    assert found.strips == {
        CLIPS[0]: StripPlace(path, 0, 5),
        CLIPS[3]: StripPlace(path, 48, 8),
    }
    assert list(found.places) == [STILL]
    assert found.problems == {}
    assert found.named[path].cells == {}
    assert found.named[path].images == set(CLIPS.values())


def test_an_index_without_strips_is_written_and_read_as_before(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    atlas = store_atlas(store, 2, {9: STILL}, {9: thumbs(1)[0]})
    index = store_index(store, 2, [atlas])
    assert store.read(index).decode() == (
        f'{{"format_version":1,"shard":2,"atlases":[{{"file":"{atlas.path}",'
        f'"num_bytes":{atlas.num_bytes},"cells":[[9,"a_00","{"a" * 64}"]]}}]}}\n'
    )
    found = read_thumbs(store)
    assert (found.places, found.strips) == ({STILL: ThumbPlace(atlas.path, 9)}, {})


@pytest.mark.parametrize(
    "strips",
    [
        [[60, 5, "b_00", "b" * 64]],
        [[-1, 5, "b_00", "b" * 64]],
        [[0, 17, "b_00", "b" * 64]],
        [[0, 0, "b_00", "b" * 64]],
        [[0, 5, "b_00"]],
        {"0": 5},
    ],
)
def test_an_index_with_impossible_strips_is_not_used(tmp_path: Path, strips: Any) -> None:
    store = Store(str(tmp_path))
    _, index = stored(store)
    values = json.loads(store.read(index))
    values["atlases"][1]["strips"] = strips
    data = json.dumps(values).encode()
    store.delete(index)
    wrong = f"thumbs/shard-00007-{digest_of(data)}.json"
    store.create(wrong, data)
    found = read_thumbs(store)
    assert (found.places, found.strips) == ({}, {})
    assert found.unknown == {wrong}
    assert found.problems[wrong].startswith("not an index of thumbnails of this version")


def test_an_atlas_of_strips_that_is_cut_or_missing_is_said_if_a_clip_lacks_it(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    path, _ = stored(store)
    store.put(path, store.read(path)[:-9])
    assert read_thumbs(store).problems[path].endswith(" bytes instead of " + found_bytes(store))
    store.delete(path)
    found = read_thumbs(store)
    assert found.strips == {}
    assert found.problems_of({CLIPS[3]}) == {path: "it is missing"}
    assert found.problems_of({STILL, ("b_00", "e" * 64)}) == {}, "no clip of it is asked for"
    found.strips.update(dict.fromkeys(CLIPS.values(), StripPlace("thumbs/other.webp", 0, 2)))
    assert found.problems_of(set(CLIPS.values())) == {}, "all have other strips"


def found_bytes(store: Store) -> str:
    [atlas] = [each for each in read_thumbs(store).named.values() if each.strips]
    return f"{atlas.num_bytes:,}"


def test_some_thumbnails_are_found_by_reading_the_indexes_of_their_shards_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    atlases = {}
    for shard in range(6):
        cells = {cell: (f"{shard}_{cell:02d}", f"{cell:064d}") for cell in range(3)}
        pictures = dict(enumerate(thumbs(3, shade=20 * shard)))
        atlases[shard] = store_atlas(store, shard, cells, pictures)
        store_index(store, shard, [atlases[shard]])
    store.create("thumbs/notes.txt", b"mine")
    store.put(atlases[4].path, b"cut")
    asked = {1: {("1_02", f"{2:064d}"), ("1_00", "e" * 64)}, 4: {("4_00", f"{0:064d}")}, 9: {STILL}}
    read: list[str] = []
    read_if_any = Store.read_if_any

    def counted(self: Store, path: str) -> bytes | None:
        read.append(path)
        return read_if_any(self, path)

    monkeypatch.setattr(Store, "read_if_any", counted)
    assert places_of(store, asked) == {("1_02", f"{2:064d}"): ThumbPlace(atlases[1].path, 2)}
    assert [path[:18] for path in read] == ["thumbs/shard-00001", "thumbs/shard-00004"]


def test_a_run_without_thumbnails_has_no_places(tmp_path: Path) -> None:
    assert places_of(Store(str(tmp_path)), {0: {STILL}}) == {}

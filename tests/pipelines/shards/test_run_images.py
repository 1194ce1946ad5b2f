"""Images of earlier runs as pictures: found through their metadata, checked against their hash."""

import hashlib
from pathlib import Path

import pytest
from support.fakes.fake_runs import finished_run

from nightpress.pipelines.errors import InputChanged, InputMissing, StoreError
from nightpress.pipelines.inputs.references import RunImage
from nightpress.pipelines.planning import PictureFacts
from nightpress.pipelines.planning.index import INDEX_FOLDER
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.reader import open_run
from nightpress.pipelines.shards import run_images
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Store

PROMPTS = ["a", "b", "nan", "c", "d", "e"]


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
def test_every_image_is_read_by_its_id_as_its_run_recorded_it(tmp_path: Path, packing: str) -> None:
    store, record = finished_run(tmp_path, PROMPTS, shard_size=2, packing=packing)
    runs = EarlierRuns(f"{tmp_path}/runs/edit", {})
    by_url = f"run://{store.url}/"
    found = 0
    for shard in range(record.layout.num_shards):
        for row in read_commit(store, shard).to_pylist():
            if row["status"] == "ok":
                for name in ("run://night/", by_url):
                    data = runs.read(RunImage.parse(f"{name}{row['image_id']}"))
                    assert hashlib.sha256(data).hexdigest() == row["sha256"]
                found += 1
            else:
                with pytest.raises(InputMissing, match=r"^the image failed there: NonFinite: "):
                    runs.read(RunImage("night", row["image_id"]))
    assert found == 5


def test_bytes_that_are_not_those_of_the_run_are_refused(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a"])
    row = read_commit(store, 0).to_pylist()[0]
    store.put(row["file"], b"another picture")
    runs = EarlierRuns(f"{tmp_path}/runs/edit", {})
    with pytest.raises(InputChanged, match=r"not those that its run recorded: sha256 [0-9a-f]{12}"):
        runs.read(RunImage("night", row["image_id"]))
    store.delete(row["file"])
    with pytest.raises(InputMissing, match="not found"):
        runs.read(RunImage("night", row["image_id"]))


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a", "b"])
    runs = EarlierRuns(f"{tmp_path}/runs/edit", {})
    for image_id in ("none_00", "no id", "00000000_77"):
        with pytest.raises(InputMissing, match="has committed no image"):
            runs.read(RunImage("night", image_id))
    with pytest.raises(InputMissing, match="no run here"):
        runs.read(RunImage("other", "a_00"))
    with pytest.raises(InputMissing, match=r"there is no protocol nosuch://"):
        runs.read(RunImage("nosuch://bucket/runs/night", "a_00"))
    with pytest.raises(InputMissing, match="a run cannot use its own images"):
        EarlierRuns(store.url, {}).read(RunImage("night", "a_00"))


def test_an_earlier_run_that_is_damaged_costs_only_the_rows_that_use_it(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a", "b"])
    image = RunImage("night", "00000000_00")
    path = tmp_path / "runs" / "night" / read_commit(store, 0).to_pylist()[0]["file"]
    path.unlink()
    path.mkdir()
    with pytest.raises(InputMissing, match="Is a directory"):
        EarlierRuns(f"{tmp_path}/runs/edit", {}).read(image)
    store.put("metadata/shard-00000.parquet", b"damaged")
    runs = EarlierRuns(f"{tmp_path}/runs/edit", {})
    with pytest.raises(InputMissing, match=r"shard-00000.parquet is damaged"):
        runs.read(image)
    assert "shard-00000.parquet is damaged" in str(runs.recorded([image])[image])


def test_a_store_that_fails_while_an_earlier_run_is_read_is_the_stores_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path, ["a"])

    def fail(*arguments: object) -> bytes:
        raise StoreError("keeps failing") from TimeoutError()

    monkeypatch.setattr(run_images, "image_bytes", fail)
    with pytest.raises(StoreError, match="keeps failing"):
        EarlierRuns(f"{tmp_path}/runs/edit", {}).read(RunImage("night", "00000000_00"))


def test_a_large_run_is_opened_once_and_its_commits_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = finished_run(tmp_path, [f"p{n}" for n in range(40)], shard_size=8)
    read: list[str] = []
    original = Store.read

    def counted(self: Store, path: str) -> bytes:
        read.append(path)
        return original(self, path)

    monkeypatch.setattr(Store, "read", counted)
    runs = EarlierRuns(f"{tmp_path}/runs/edit", {})
    for _ in range(2):
        for number in range(40):
            runs.read(RunImage("night", f"{number:08d}_00"))
    assert [path for path in read if path == "run.json"] == ["run.json"]
    assert sum(path.startswith("metadata") for path in read) == record.layout.num_shards == 5


def test_without_an_index_every_commit_is_looked_into(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a", "b", "c"], shard_size=1)
    for path in store.list(INDEX_FOLDER):
        if path.endswith(".npy"):
            store.delete(path)
    runs = EarlierRuns(f"{tmp_path}/runs/edit", {})
    assert runs.read(RunImage("night", "00000002_00"))


def test_what_a_run_has_recorded_is_known_without_reading_its_images(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a", "nan", "b"], shard_size=1)
    row = open_run(store.url).row("00000002_00")
    assert row is not None
    store.delete(row["file"])
    found = EarlierRuns(f"{tmp_path}/runs/next", {}).recorded(
        images := [
            RunImage("night", "00000002_00"),
            RunImage(store.url, "00000002_00"),
            RunImage("night", "00000001_00"),
            RunImage("night", "x_00"),
            RunImage("none", "00000000_00"),
            RunImage("next", "00000000_00"),
        ]
    )
    facts = PictureFacts(row["sha256"], row["width"], row["height"])
    assert [found[image] for image in images[:2]] == [facts, facts]
    assert str(found[images[2]]).startswith("the image failed there: NonFinite: ")
    assert [found[image] for image in images[3:]] == [
        f"{store.url} has committed no image 'x_00'",
        f"{tmp_path}/runs/none: no run here (run.json is missing)",
        "a run cannot use its own images",
    ]

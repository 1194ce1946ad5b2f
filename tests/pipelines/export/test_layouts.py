"""The layouts, read by the programs that they are for."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.exports import SPLIT, finished_run, ids_of, spec_of, written
from support.made_runs import colour

from nightpress.pipelines import Run
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.export.layouts import diffusiondb, hf_parquet, imagefolder, webdataset
from nightpress.pipelines.export.layouts.hf_parquet import row_groups
from nightpress.pipelines.export.layouts.part import (
    ExportedImage,
    PartKey,
    flat_name,
    safe_name,
)
from nightpress.pipelines.export.shard import chunks

KEY = PartKey("train", 0, 12)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finished_run(tmp_path / "press")


def first_pixel(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image.convert("RGB"))[0, 0].tolist())


@pytest.mark.parametrize("metadata", ["full", "minimal", "none"])
@pytest.mark.parametrize("layout", ["hf-parquet", "imagefolder"])
def test_datasets_loads_every_split_with_one_line(
    run: Run, tmp_path: Path, layout: str, metadata: str
) -> None:
    import datasets

    spec = spec_of(
        tmp_path, run.url, layout=layout, split=SPLIT, metadata=metadata, caption="no {topic}"
    )
    summary = written(spec)
    read = datasets.load_dataset(spec.url, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == dict(summary.num_images)
    for rows in read.values():
        assert isinstance(rows.features["image"], datasets.Image)
        for row in rows:
            number = int(row["caption"].removeprefix("no topic "))
            assert first_pixel(row["image"]) == colour(number)
            assert metadata == "none" or row["seed"] == number


def test_an_empty_split_is_left_out_of_what_datasets_reads(run: Run, tmp_path: Path) -> None:
    import datasets

    split = {"by": "id", "validation": "0.001%", "test": "20%"}
    spec = spec_of(tmp_path, run.url, split=split)
    summary = written(spec)
    assert "validation" not in summary.num_images
    read = datasets.load_dataset(spec.url, cache_dir=str(tmp_path / "cache"))
    assert set(read) == {"train", "test"}
    assert "validation" not in Path(spec.url, "README.md").read_text().split("---")[1]


@pytest.mark.filterwarnings("ignore:.*WebDataset:UserWarning")
def test_webdataset_reads_pictures_captions_and_columns(tmp_path: Path) -> None:
    import webdataset as wds

    runs = [finished_run(tmp_path / "press", name).url for name in ("a", "b")]
    split = SPLIT | {"leaks": "keep"}
    spec = spec_of(tmp_path, runs, layout="webdataset", split=split, caption="{topic}")
    summary = written(spec)
    keys: list[str] = []
    for split_name, num_images in summary.num_images.items():
        tars = sorted(map(str, Path(spec.url).glob(f"data/{split_name}-*.tar")))
        samples = list(wds.WebDataset(tars, shardshuffle=False).decode("pil"))
        assert len(samples) == num_images
        for sample in samples:
            assert first_pixel(sample["png"]) == colour(sample["json"]["seed"])
            assert sample["txt"] == f"topic {sample['json']['seed']}"
        keys += [sample["__key__"] for sample in samples]
    assert len(set(keys)) == len(keys) == 18


def test_kohya_folders_hold_pairs_of_images_and_captions(run: Run, tmp_path: Path) -> None:
    """sd-scripts read every image right in a folder `<repeats>_<name>`, and its `.txt`."""
    spec = spec_of(tmp_path, run.url, layout="kohya", split=SPLIT, caption="{topic}")
    summary = written(spec)
    for split, num_images in summary.num_images.items():
        folders = list(Path(spec.url, "data", split).iterdir())
        assert all(re.fullmatch(r"1_set-0-\d{5}-[0-9a-f]{16}", each.name) for each in folders)
        pictures = [path for folder in folders for path in folder.glob("*.png")]
        assert len(pictures) == num_images
        for path in pictures:
            number = int(path.name.partition("_")[0])
            assert path.with_suffix(".txt").read_text() == f"topic {number}\n"
            assert first_pixel(Image.open(path)) == colour(number)
            names = pq.read_table(path.parent / "metadata.parquet").column("file_name")
            assert path.name in names.to_pylist()


def samples_of(tar: Path) -> list[dict[str, Any]]:
    """The samples of a tar as webdataset groups them, in bytes."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with tar.open("rb") as stream:
        return list(group_by_keys(tar_file_expander([{"url": str(tar), "stream": stream}])))


def test_img2dataset_shards_have_a_tar_a_table_and_counts(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, layout="img2dataset", caption="{topic}")
    written(spec)
    tars = sorted(Path(spec.url).glob("data/train/*.tar"))
    samples = [sample for tar in tars for sample in samples_of(tar)]
    tables = [pq.read_table(tar.with_suffix(".parquet")) for tar in tars]
    for tar, table in zip(tars, tables, strict=True):
        counts = json.loads(Path(f"{tar.with_suffix('')}_stats.json").read_text())
        assert counts["successes"] == counts["count"] == len(table)
    rows = pa.concat_tables(tables).to_pylist()
    for sample, row in zip(samples, rows, strict=True):
        assert sample["__key__"] == json.loads(sample["json"])["key"] == row["key"]
        assert sample["txt"].decode() == row["caption"] == f"topic {row['seed']}"
        assert (row["status"], row["width"], row["original_width"]) == ("success", 16, 16)
        assert first_pixel(Image.open(io.BytesIO(sample["png"]))) == colour(row["seed"])
    assert len({row["key"] for row in rows}) == len(rows) == 9


def test_a_damaged_table_of_a_diffusiondb_part_is_named() -> None:
    path = "diffusiondb/part-000001/table.parquet"
    with pytest.raises(Damaged, match=f"{path}: the table of a part is damaged"):
        diffusiondb.part_table(path, b"PAR1")


def test_diffusiondb_parts_have_settings_and_one_table(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, layout="diffusiondb")
    written(spec)
    table = pq.read_table(Path(spec.url, "metadata.parquet"))
    assert table.schema.names == diffusiondb.TABLE.names
    rows = table.to_pylist()
    assert sorted(row["seed"] for row in rows) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    for row in rows:
        folder = Path(spec.url, f"data/part-{row['part_id']:06d}")
        settings = json.loads((folder / f"{folder.name}.json").read_text())
        assert settings[row["image_name"]] == {
            **{"p": "a cat", "se": row["seed"], "c": 4.5, "st": 20, "sa": "k_euler"}
        }
        assert first_pixel(Image.open(folder / row["image_name"])) == colour(row["seed"])
        assert (row["sampler"], row["step"], row["width"]) == (3, 20, 16)


def images(*names: str) -> list[ExportedImage]:
    return [ExportedImage(name, name.encode(), f"caption of {name}") for name in names]


def table(number: int, **columns: list[Any]) -> pa.Table:
    return pa.table(columns or {"seed": list(range(number))})


@pytest.mark.parametrize("layout", [hf_parquet, imagefolder, webdataset])
def test_equal_content_gives_equal_objects_and_other_content_other_names(layout: Any) -> None:
    part = layout.write(KEY, images("a.png", "b/c.png"), table(2))
    assert layout.write(KEY, images("a.png", "b/c.png"), table(2)) == part
    others = [
        layout.write(KEY, images("a.png", "b/d.png"), table(2)),
        layout.write(KEY, images("a.png", "b/c.png"), table(2, seed=[0, 2])),
    ]
    names = {path for path, _ in part.objects}
    for other in others:
        assert names.isdisjoint(path for path, _ in other.objects)


@pytest.mark.parametrize("name", ["a.png", "b/c.png", ".a.png", "__b/c.png", "a%2Fb.png"])
def test_safe_names_are_different_and_seen_by_readers(name: str) -> None:
    for safe in (safe_name(name), flat_name(name)):
        assert not any(part.startswith((".", "__")) for part in safe.split("/"))
    assert "/" not in flat_name(name)


def test_safe_names_stay_apart() -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", ".a", "%2Ea", "__a", "%5F_a"]
    assert len({safe_name(name) for name in names}) == len(names)
    assert len({flat_name(name) for name in names}) == len(names)


def test_parts_and_row_groups_hold_a_bounded_number_of_bytes() -> None:
    assert chunks([3, 3, 3, 9, 1], 6) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert chunks([], 6) == []
    assert row_groups([]) == []
    assert row_groups([1] * 250) == [(0, 100), (100, 200), (200, 250)]
    assert row_groups([20 << 20] * 3) == [(0, 1), (1, 2), (2, 3)]


def test_a_large_shard_gives_several_parts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightpress.pipelines.export import shard

    monkeypatch.setattr(shard, "PART_BYTES", 1)
    spec = spec_of(tmp_path, run.url)
    written(spec)
    assert len(list(Path(spec.url).glob("data/*.parquet"))) == 9
    assert len(ids_of(spec.url)) == 9


def test_parquet_parts_have_row_groups_of_at_most_a_hundred_images() -> None:
    names = [f"{n}.png" for n in range(150)]
    ((_, data),) = hf_parquet.write(KEY, images(*names), table(150)).objects
    file = pq.ParquetFile(io.BytesIO(data))
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [100, 50]
    assert file.read().column("seed").to_pylist() == list(range(150))

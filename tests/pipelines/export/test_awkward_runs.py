"""Runs whose ids, column names and captions some reader takes for something else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.exports import (
    AWKWARD_CAPTIONS,
    AWKWARD_IDS,
    awkward_run,
    files_of,
    rows_of,
    spec_of,
    written,
)
from support.slow_cases import slow_except

from nightpress.pipelines.export.columns import exported_schema
from nightpress.pipelines.export.image_names import id_names
from nightpress.pipelines.export.layouts.part import flat_name, safe_name
from nightpress.pipelines.export.layouts.registry import DATA_FILES, WRITERS
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.manifest.types import one_chunk

SPLIT = {"by": "id", "test": "30%", "leaks": "keep"}
LAYOUTS = sorted(set(WRITERS) - {"preference", "diffusiondb"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("press")
    return [awkward_run(folder, "a").url, awkward_run(folder, "b", format="jpeg").url]


def export(runs: list[str], tmp_path: Path, **keys: Any) -> ExportSpec:
    spec = spec_of(tmp_path, runs, **{"split": SPLIT, "caption": "{words}"} | keys)
    assert written(spec).total == 2 * len(AWKWARD_IDS)
    return spec


def number_of(image: Image.Image) -> int:
    """The number of an image by its colour."""
    return round(int(np.asarray(image.convert("RGB"))[0, 0, 0]) / 10)


@pytest.mark.parametrize("metadata", slow_except(["full", "minimal", "none"], "full"))
@pytest.mark.parametrize("layout", sorted(set(DATA_FILES) - {"preference"}))
def test_datasets_reads_every_picture_and_every_letter_of_its_caption(
    runs: list[str], tmp_path: Path, layout: str, metadata: str
) -> None:
    import datasets

    spec = export(runs, tmp_path, layout=layout, metadata=metadata)
    read = datasets.load_dataset(spec.url, cache_dir=str(tmp_path / "cache"))
    assert set(read) == {"train", "test"}
    rows = [row for rows in read.values() for row in rows]
    found = []
    for row in rows:
        image = row["image"] if "image" in row else row["png"] or row["jpg"]
        found.append(number_of(image))
        assert (row["caption"] if "caption" in row else row["txt"]) == AWKWARD_CAPTIONS[found[-1]]
        if metadata != "none":
            columns = row.get("json", row)
            assert columns["late"] == (1.5 if found[-1] >= 12 else None)
            assert columns["scores.clip"] == found[-1]
            assert columns["manifest_scores.clip"] == "of scores.clip"
            assert columns["id"] == AWKWARD_IDS[found[-1]]
    assert sorted(found) == sorted([*range(16)] * 2)


def read_caption(path: Path) -> str:
    """The caption of an image as sd-scripts read it."""
    with path.with_suffix(".txt").open(encoding="utf-8") as file:
        lines = file.readlines()
    assert len(lines) > 0
    return lines[0].strip()


def test_sd_scripts_read_captions_of_several_lines_and_of_none(
    runs: list[str], tmp_path: Path
) -> None:
    spec = export(runs, tmp_path, layout="kohya")
    paths = [path for path in Path(spec.url).glob("data/*/*/*") if path.suffix in (".png", ".jpg")]
    assert len(paths) == 2 * len(AWKWARD_IDS)
    for path in paths:
        with Image.open(path) as image:
            assert read_caption(path) == " ".join(AWKWARD_CAPTIONS[number_of(image)].split())


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")
@pytest.mark.parametrize(
    "layout", slow_except(["hf-parquet", "imagefolder", "img2dataset"], "imagefolder")
)
def test_mlcroissant_reads_columns_of_any_name(
    runs: list[str], tmp_path: Path, layout: str
) -> None:
    import mlcroissant

    spec = export(runs, tmp_path, layout=layout)
    described = mlcroissant.Dataset(jsonld=f"{spec.url}/croissant.json")
    assert not described.metadata.ctx.issues.errors
    for split in ("train", "test"):
        for record in described.records(split):
            place = AWKWARD_IDS.index(record[f"{split}/id"].decode())
            assert record[f"{split}/caption"].decode() == AWKWARD_CAPTIONS[place]
            assert record[f"{split}/a_b.c_d"] == b"of a/b.c d"
            assert record[f"{split}/new_line"] == b"of new\nline"
            assert record[f"{split}/new_line-2"] == b"of new line"


@pytest.mark.parametrize("layout", slow_except(LAYOUTS, "hf-parquet", "webdataset"))
def test_no_carried_column_is_lost(runs: list[str], tmp_path: Path, layout: str) -> None:
    spec = export(runs, tmp_path, layout=layout)
    said = json.dumps(json.loads(Path(spec.url, "export.json").read_text())["columns"])
    table = Path(spec.url, "stats.parquet")
    names = set(pq.read_table(table).column("column").to_pylist())
    for name in ("url", "key", "own_file_name", "file_name", "image", "chosen", "Style"):
        assert {name, f"manifest_{name}", f"manifest_{name}_"} & names, said


def test_names_of_a_layout_are_left_to_it() -> None:
    import pyarrow as pa

    names = ("url", "file_name", "b_file_name", "rejected_id", "scores.clip", "text")
    schema = pa.schema([pa.field(name, pa.string()) for name in names])

    def of(layout: Any) -> list[str]:
        return exported_schema([schema], ["clip"], "minimal", layout).names[2:]

    assert of("img2dataset") == [
        *("manifest_url", "file_name", "b_file_name", "rejected_id", "manifest_scores.clip"),
        *("text", "scores.clip"),
    ]
    assert of("kohya")[:3] == ["url", "manifest_file_name_", "manifest_b_file_name_"]
    assert of("preference")[3] == "manifest_rejected_id"


def test_every_file_has_a_name_that_file_systems_take_and_keep_apart(
    runs: list[str], tmp_path: Path
) -> None:
    spec = export(runs, tmp_path, layout="imagefolder")
    parts = [path.split("/") for path in files_of(spec.url)]
    assert len({"/".join(each).casefold() for each in parts}) == len(parts)
    assert all(len(name.encode()) < 250 for each in parts for name in each)
    assert not any(set(name) & set('\\<>:"|?*') for each in parts for name in each)


def test_ids_that_are_names_stay_as_they_are() -> None:
    import pyarrow as pa

    plain = ["a", "b c_00", "ünï", "漢字_01"]
    assert id_names(pa.array(plain)) == plain
    changed = id_names(pa.array(["A", "a", "../x", "100%", "l" * 300, "con", "a?"]))
    assert len({name.casefold() for name in changed}) == 7
    assert all(len(name) < 80 and "%" not in name and "/" not in name for name in changed)
    assert id_names(pa.array(["A"])) == ["A"]


def test_long_names_are_cut_and_stay_apart() -> None:
    names = [f"{'a/' * 150}{n}.png" for n in range(3)]
    assert len({flat_name(name) for name in names}) == 3
    assert all(len(flat_name(name)) <= 240 and flat_name(name).endswith(".png") for name in names)
    assert safe_name(names[0]) == names[0]


def test_ids_are_in_the_rows_as_they_are(runs: list[str], tmp_path: Path) -> None:
    spec = export(runs, tmp_path)
    assert {row["id"] for row in rows_of(spec.url)} == set(AWKWARD_IDS)
    assert one_chunk(pq.read_table(next(Path(spec.url).glob("data/*"))).column("id"))

"""The layouts by name: how a part of each is written, and how its images are read back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nightpress.pipelines.export.layouts import (
    diffusiondb,
    hf_parquet,
    imagefolder,
    img2dataset,
    kohya,
    preference,
    webdataset,
)
from nightpress.pipelines.export.layouts.part import DATA, ExportedImage, Part, PartKey
from nightpress.pipelines.export.layouts.tar_features import tar_features

Writer = Callable[[PartKey, Sequence[ExportedImage], pa.Table], Part]

WRITERS: Mapping[str, Writer] = {
    "hf-parquet": hf_parquet.write,
    "imagefolder": imagefolder.write,
    "webdataset": webdataset.write,
    "img2dataset": img2dataset.write,
    "kohya": kohya.write,
    "diffusiondb": diffusiondb.write,
    "preference": preference.write,
}

READERS: Mapping[str, Callable[[bytes], Iterator[tuple[str, bytes]]]] = {
    "preference": preference.members
}
"""Layouts whose objects are not read as packs are: name and bytes of each image in one."""

DATA_FILES = {
    "hf-parquet": f"{DATA}/{{split}}-*.parquet",
    "preference": f"{DATA}/{{split}}-*.parquet",
    "imagefolder": f"{DATA}/{{split}}/**",
    "webdataset": f"{DATA}/{{split}}-*.tar",
    "img2dataset": f"{DATA}/{{split}}/*.tar",
}
"""Layouts that `datasets` reads, with the pattern that a README gives it for a split."""


@dataclass(frozen=True)
class LayoutFiles:
    """The files of a split, as patterns with `{split}`."""

    table: str
    """Parquet files with a row for each image; empty if the layout has none."""
    images: tuple[str, str]
    """The files with the images and their kind; empty if the tables hold the images."""
    columns: pa.Schema | None = None
    """The columns of the tables, if they are not those of the export."""
    image_columns: tuple[str, ...] = ()
    """The columns of the tables that hold images."""


FILES: Mapping[str, LayoutFiles] = {
    "hf-parquet": LayoutFiles(f"{DATA}/{{split}}-*.parquet", ("", ""), image_columns=("image",)),
    "preference": LayoutFiles(
        f"{DATA}/{{split}}-*.parquet", ("", ""), image_columns=("chosen", "rejected")
    ),
    "imagefolder": LayoutFiles(
        f"{DATA}/{{split}}/*/metadata.parquet", (f"{DATA}/{{split}}/*/*", "image/*")
    ),
    "webdataset": LayoutFiles("", (f"{DATA}/{{split}}-*.tar", "application/x-tar")),
    "img2dataset": LayoutFiles(
        f"{DATA}/{{split}}/*.parquet", (f"{DATA}/{{split}}/*.tar", "application/x-tar")
    ),
    "kohya": LayoutFiles(
        f"{DATA}/{{split}}/*/metadata.parquet", (f"{DATA}/{{split}}/*/*", "image/*")
    ),
    "diffusiondb": LayoutFiles(
        f"{diffusiondb.TABLE_STEM}*.parquet",
        (f"{DATA}/part-*/*", "image/*"),
        columns=diffusiondb.TABLE,
    ),
}


def given_columns(layout: str, columns: pa.Schema) -> pa.Schema:
    """The columns beside images and captions that a layout makes of those of an export."""
    if layout == "preference":
        return preference.columns(columns)
    if layout == "img2dataset":
        return pa.schema([f for f in img2dataset.columns(columns) if f.name != "caption"])
    return columns


def features(layout: str, suffixes: Sequence[str], columns: pa.Schema) -> list[dict[str, Any]]:
    """What a README tells `datasets` about the columns; empty if the files tell it themselves.

    Args:
        suffixes: those of the names of the images in their runs.
        columns: of the export.
    """
    if layout == "webdataset":
        return tar_features(suffixes, columns)
    if layout == "img2dataset":
        short = dict.fromkeys(map(img2dataset.suffix_of, suffixes))
        return tar_features(tuple(short), img2dataset.columns(columns))
    return []


def data_files(layout: str, splits: Sequence[str]) -> list[dict[str, Any]]:
    """What a README tells `datasets` about the files; empty if it does not read the layout."""
    pattern = DATA_FILES.get(layout)
    if pattern is None:
        return []
    return [{"split": split, "path": pattern.format(split=split)} for split in splits]

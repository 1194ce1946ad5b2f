"""The layouts by name: how a part of each is written, and how its images are read back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from nightpress.pipelines.export.layouts import (
    diffusiondb,
    hf_parquet,
    imagefolder,
    img2dataset,
    kohya,
    webdataset,
)
from nightpress.pipelines.export.layouts.part import DATA, ExportedImage, Part, PartKey

Writer = Callable[[PartKey, Sequence[ExportedImage], pa.Table], Part]

WRITERS: Mapping[str, Writer] = {
    "hf-parquet": hf_parquet.write,
    "imagefolder": imagefolder.write,
    "webdataset": webdataset.write,
    "img2dataset": img2dataset.write,
    "kohya": kohya.write,
    "diffusiondb": diffusiondb.write,
}

DATA_FILES = {
    "hf-parquet": f"{DATA}/{{split}}-*.parquet",
    "imagefolder": f"{DATA}/{{split}}/**",
    "webdataset": f"{DATA}/{{split}}-*.tar",
    "img2dataset": f"{DATA}/{{split}}/*.tar",
}
"""Layouts that `datasets` reads, with the pattern that a README gives it for a split."""


def data_files(layout: str, splits: Sequence[str]) -> list[dict[str, Any]]:
    """What a README tells `datasets` about the files; empty if it does not read the layout."""
    pattern = DATA_FILES.get(layout)
    if pattern is None:
        return []
    return [{"split": split, "path": pattern.format(split=split)} for split in splits]

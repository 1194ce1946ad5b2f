"""What an export must not tell is in none of its files, compressed and embedded places included."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import made_runs
from support.exports import SPLIT, begin_with, files_of, spec_of, written
from support.slow_cases import slow_except

from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines import Run, open_run
from nightpress.pipelines.export.layouts.registry import WRITERS
from nightpress.pipelines.export.record import EXPORT_FILE
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.records import FailureType, ImageFacts

SEED = 778899001122
SECRETS = ("SECRETPROMPT", "SECRETNEGATIVE", "SECRETMODEL", "SECRETLORA", "SECRETWORKER")


def secret_facts(number: int) -> ImageFacts:
    return replace(
        made_runs.FACTS,
        image_id=f"{number}_00",
        id=str(number),
        prompt=f"SECRETPROMPT {number}",
        negative_prompt="SECRETNEGATIVE",
        seed=SEED + number,
        model="s3://SECRETMODEL/x",
        loras=(LoraInfo("SECRETLORA", "a" * 64, 1.0),),
    )


def secret_run(folder: Path, format_: str) -> Run:
    """Eight images and a failed one, whose names, facts and errors are secrets."""
    images = {"format": format_, "file_name": "{prompt}/{image_id}." + SUFFIXES[format_]}
    run = begin_with(folder, "run", 8, images=images)
    for shard in range(2):
        records = []
        for number in range(shard * 4, shard * 4 + 4):
            facts = secret_facts(number)
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
            data = encode(pixels, facts, run.spec.images)
            file = f"images/{facts.prompt}/{facts.image_id}.{SUFFIXES[format_]}"
            run.store.create(file, data)
            record = replace(
                made_runs.made(run, number),
                facts=facts,
                worker="SECRETWORKER",
                file=file,
                sha256=hashlib.sha256(data).hexdigest(),
                num_bytes=len(data),
            )
            if number == 6:
                error = "SECRETPROMPT could not be sampled"
                record = replace(
                    record,
                    **{"status": "failed", "error_type": FailureType.NON_FINITE, "error": error},
                    **{"file": None, "sha256": None, "num_bytes": None},
                )
            records.append(record)
        made_runs.commit(run, shard, records)
    return open_run(run.url)


SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def told(path: str, data: bytes) -> Iterator[tuple[str, str]]:
    """(where, text) of everything in a file that a reader may see."""
    yield path, path
    yield path, data.decode("latin-1")
    if data.startswith(b"PAR1"):
        file = pq.ParquetFile(io.BytesIO(data))
        yield f"{path}: schema", f"{file.schema_arrow} {file.schema_arrow.metadata}"
        for row in file.read().to_pylist():
            for name, value in row.items():
                if isinstance(value, dict) and "bytes" in value:
                    yield from told(f"{path}: {value['path']}", value["bytes"])
                yield f"{path}: {name}", str(value)
    elif path.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                yield from told(f"{path}: {member.name}", stream.read())
    elif path.endswith(tuple(SUFFIXES.values())):
        with Image.open(io.BytesIO(data)) as image:
            yield f"{path}: info", f"{image.info} {dict(image.getexif())}"


@pytest.mark.parametrize("metadata", slow_except(["minimal", "none"], "minimal"))
@pytest.mark.parametrize(
    ("layout", "format_"),
    [
        *(("hf-parquet", format_) for format_ in SUFFIXES),
        *((layout, "png") for layout in sorted(set(WRITERS) - {"preference", "hf-parquet"})),
    ],
)
def test_no_byte_tells_a_secret(tmp_path: Path, layout: str, format_: str, metadata: str) -> None:
    if (layout, metadata) == ("diffusiondb", "none"):
        pytest.skip("DiffusionDB has the settings of every image")
    run = secret_run(tmp_path / "press", format_)
    split = None if layout == "diffusiondb" else SPLIT | {"leaks": "near"}
    spec = spec_of(
        tmp_path, run.url, layout=layout, split=split, metadata=metadata, caption="number {id}"
    )
    assert written(spec).total == 7
    secrets = (*SECRETS, str(SEED)[:10]) if metadata == "none" else SECRETS
    for path, data in files_of(spec.url).items():
        for where, text in told(path, data):
            assert not [secret for secret in secrets if secret in text], where


def test_the_search_finds_secrets_where_they_are(tmp_path: Path) -> None:
    run = secret_run(tmp_path / "press", "png")
    spec = spec_of(tmp_path, run.url, layout="webdataset", metadata="full", caption="{id}")
    written(spec)
    files = files_of(spec.url)
    found = {
        secret
        for path, data in files.items()
        if path != EXPORT_FILE
        for where, text in told(path, data)
        for secret in (*SECRETS, str(SEED)[:10])
        if secret in text
    }
    assert found == {*SECRETS, str(SEED)[:10]}

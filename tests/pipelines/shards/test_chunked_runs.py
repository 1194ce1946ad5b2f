"""Runs of prompts with weights and several chunks: batches, bits, records, reproductions."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from support import tiny_models
from support.conditioned_runs import run_of
from support.plans import MODEL, job, planned, write

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines import Run
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.manifest.row_problems import RowProblems
from nightpress.pipelines.manifest.row_reader import RowReader
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.planning.checking import scan_all
from nightpress.pipelines.planning.prompt_lengths import estimated_chunks
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.shards.batching import batches, counted, planned_images
from nightpress.pipelines.shards.reproduce import reproduce

READING = {"long": "chunks", "weights": "a1111", "clip_skip": 1}
LONG = "a red fox, asleep under two trees, " * 4
ROWS: list[dict[str, Any]] = [
    {"id": f"{n:02d}", "prompt": prompt, "negative_prompt": negative, "seed": n}
    for n, (prompt, negative) in enumerate(
        [
            ("a (red:1.4) fox", ""),
            (LONG, "blur"),
            ("two ships", f"(hats:1.2), {LONG}"),
            ("7", ""),
            ("a BREAK b", ""),
            (LONG + LONG, ""),
            ("a [dim] fox", "hats"),
        ]
    )
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelInfo, LoadedModel]:
    folder = tiny_models.save("sd", tmp_path_factory.mktemp("sd"), centred=False)
    spec = ModelSpec(source=str(folder), prompts=PromptsSpec(**READING))
    return describe(folder, spec), load(folder, spec, "cpu")


@pytest.fixture
def make(model: tuple[ModelInfo, LoadedModel]) -> Callable[..., Run]:
    """Folder, rows and keys of the job -> a whole run of a tiny model that reads chunks."""

    def run(folder: Path, rows: list[dict[str, Any]], **values: Any) -> Run:
        info, loaded = model
        section = {"source": info.source, "prompts": READING}
        return run_of(folder, loaded, info, rows, model=section, **values)

    return run


def hashes(run: Run) -> dict[str, str]:
    table = run.metadata.to_table()
    assert table["status"].to_pylist() == ["ok"] * len(table)
    return dict(zip(table["id"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def test_the_bits_of_a_row_are_those_that_it_has_alone_and_in_any_order(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    whole = hashes(make(tmp_path / "whole", ROWS))
    backwards = make(tmp_path / "back", ROWS[::-1], batch={"size": 2, "shard_size": 2})
    assert hashes(backwards) == whole
    for row in ROWS[1:4]:
        assert hashes(make(tmp_path / row["id"], [row])) == {row["id"]: whole[row["id"]]}
    assert not any(shard.findings for shard in verify(make(tmp_path / "third", ROWS)))


def test_a_batch_has_images_of_one_number_of_chunks(
    make: Callable[..., Run], model: tuple[ModelInfo, LoadedModel], tmp_path: Path
) -> None:
    run = make(tmp_path, ROWS, batch={"size": 4, "shard_size": 16})
    images = planned_images(read_shard(run.store, run.record.layout, 0))
    sampler = Sampler(model[1], 4)
    images = counted(images, sampler.num_chunks)
    cut = list(batches(images, lambda image: 4))
    assert [{image.num_chunks for image in batch} for batch in cut] == [{1}, {2}, {4}]
    assert [len(batch) for batch in cut] == [3, 3, 1]


def test_how_prompts_were_read_is_recorded_and_makes_the_image_again(
    make: Callable[..., Run], model: tuple[ModelInfo, LoadedModel], tmp_path: Path
) -> None:
    run = make(tmp_path, ROWS)
    text = '{"clip_skip":1,"long":"chunks","weights":"a1111"}'
    assert set(run.metadata.to_table()["prompt_reading"].to_pylist()) == {text}
    row = run.row("01_00")
    assert row is not None
    data = run.store.read(row["file"])
    facts = read_facts(data)
    assert facts is not None
    assert PromptsSpec.from_text(facts.prompt_reading) == PromptsSpec(**READING)
    assert b"Clip skip: 2," in data
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    comparison, _ = reproduce(data, facts, model[1], run.record.spec.images)
    assert comparison.same_file


def test_the_textual_inversions_that_prompts_name_are_recorded(tmp_path: Path) -> None:
    folder, file = tiny_models.save("sd", tmp_path / "sd"), tmp_path / "cat.safetensors"
    save_file({"emb_params": torch.ones(3, 16)}, file)
    section = {"source": str(folder), "embeddings": [{"source": str(file), "token": "<cat>"}]}
    spec = ModelSpec.model_validate(section)
    files = ModelFiles.locate(spec, {})
    assert files.adapters.embeddings == (file,)
    info, rows = (
        files.describe(spec),
        [{"id": "0", "prompt": "a <cat>"}, {"id": "1", "prompt": "b"}],
    )
    run = run_of(tmp_path / "run", files.load(spec, "cpu"), info, rows, model=section)
    table = run.metadata.to_table().sort_by("id")
    (used,) = info.embeddings
    assert table["textual_inversions"].to_pylist() == [[asdict(used)], []]
    row = run.row("0_00")
    assert row is not None
    facts = read_facts(run.store.read(row["file"]))
    assert facts is not None
    assert facts.textual_inversions == (used,)
    assert not any(shard.findings for shard in verify(run))
    other = replace(info, embeddings=(replace(used, sha256="0" * 64),))
    (change,) = run.record.changes(run.record.spec, other, "cpu")
    assert change.field == "model.embeddings: sha256 of <cat>"
    assert replace(run.record, model=other).fingerprint != run.record.fingerprint
    missing = ModelSpec.model_validate({"embeddings": [str(tmp_path / "none.pt")]})
    with pytest.raises(ModelError, match=r"embedding '.*none\.pt': no such file or folder"):
        ModelFiles.locate(missing, {})


def test_the_keys_join_the_identity_of_a_run_only_when_they_decide_pixels(tmp_path: Path) -> None:
    def identity(**prompts: Any) -> dict[str, Any]:
        found: dict[str, Any] = job(tmp_path, tmp_path, model={"prompts": prompts}).identity()
        return dict(found["model"])

    without = identity()
    assert "prompts" not in without
    assert identity(long="cut", weights="literal") == without
    assert identity(**READING) == without | {"prompts": READING}
    changes = job(tmp_path, tmp_path).changes(
        job(tmp_path, tmp_path, model={"prompts": {"clip_skip": 1}})
    )
    assert [str(each) for each in changes] == ["model.prompts.clip_skip: None -> 1"]


def test_the_plan_puts_prompts_of_about_equal_length_together(tmp_path: Path) -> None:
    rows = [{"prompt": "word " * (n * 37 % 300)} for n in range(1, 200)]
    path = write(tmp_path / "m.jsonl", rows)
    spec = job(tmp_path, path, model={"prompts": {"long": "chunks"}}, batch={"shard_size": 8})
    _, table = planned(spec, MODEL, 8)
    lengths = [len(prompt.split()) * 1.15 // 75 for prompt in table["prompt"].to_pylist()]
    full = [set(lengths[start : start + 8]) for start in range(0, 160, 8)]
    assert all(len(each) == 1 for each in full)
    assert sorted(table["prompt"].to_pylist()) == sorted(row["prompt"] for row in rows)


def test_negative_prompts_count_only_where_there_is_guidance(tmp_path: Path) -> None:
    long = "word " * 200
    rows = [
        {"prompt": "a", "negative_prompt": long, "guidance_scale": 1.0},
        {"prompt": "a", "negative_prompt": long, "guidance_scale": 2.0},
        {"prompt": "a BREAK b", "negative_prompt": "", "guidance_scale": 2.0},
    ]
    path = write(tmp_path / "m.parquet", rows)
    spec = job(tmp_path, path)
    reader = RowReader(spec, MODEL, resolve_columns(spec, scan_all(spec)))
    read = reader.read(pq.read_table(path), 0, RowProblems(str(path), 0))
    assert estimated_chunks(read, "StableDiffusionPipeline").tolist() == [1, 4, 2]

"""What a person takes away from a run with pictures: metadata, files, checks, images made again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support import tiny_models
from support.conditioned_runs import ROWS, run_of

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import Run
from nightpress.pipelines.errors import InputChanged, InputError, InputMissing, StoreMissing
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.commit import read_commit, shard_path
from nightpress.pipelines.run_directory.comparison import wrong_conditioning
from nightpress.pipelines.run_directory.verify import Damage, verify
from nightpress.pipelines.run_directory.verify_inputs import InputsVerified, verify_inputs
from nightpress.pipelines.shards.recorded_inputs import recorded_inputs
from nightpress.pipelines.shards.reproduce import Reproduction, reproduce

PASSES = [{"scale": 1.5, "strength": 0.5, "num_inference_steps": 4}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, ModelInfo]:
    torch.set_num_threads(1)
    folder = tiny_models.save("sd", tmp_path_factory.mktemp("sd"))
    spec = ModelSpec(source=str(folder))
    return load(folder, spec, "cpu"), describe(folder, spec)


@pytest.fixture
def run(tmp_path: Path, model: tuple[LoadedModel, ModelInfo]) -> Run:
    return run_of(tmp_path, *model)


def original(run: Run, image_id: str) -> tuple[bytes, ImageFacts]:
    row = run.row(image_id)
    assert row is not None
    data = image_bytes(run.store, row)
    facts = read_facts(data)
    assert facts is not None
    return data, facts


def again(run: Run, image_id: str, model: LoadedModel, root: str | None = None) -> Reproduction:
    data, facts = original(run, image_id)
    inputs = recorded_inputs(facts, run, root, may_read=False, options={})
    return reproduce(data, facts, model, run.spec.images, inputs)[0]


def checked(run: Run) -> InputsVerified:
    return verify_inputs(run, InputReader(run.spec.inputs, {}))


def test_metadata_says_what_made_each_image(run: Run) -> None:
    names = ["id", "mode", "strength", "canvas", "controlnets", "references", "inputs", "passes"]
    rows = {row.pop("id"): row for row in run.metadata.to_table(columns=names).to_pylist()}
    none = {"canvas": None, "controlnets": [], "references": [], "passes": []}
    assert rows["text"] == {"mode": "text", "strength": None, "inputs": []} | none
    assert (rows["image"]["mode"], rows["image"]["strength"]) == ("image", 0.6)
    assert [each["role"] for each in rows["mask"]["inputs"]] == ["init_image", "mask_image"]
    assert "mode" not in original(run, "text_00")[1].as_dict()


def test_carried_columns_with_the_names_of_these_columns_get_others(
    tmp_path: Path, model: tuple[LoadedModel, ModelInfo]
) -> None:
    names = ("mode", "inputs", "canvases", "references", "controlnets", "passes", "conditioning")
    run = run_of(tmp_path, *model, [ROWS[1] | {name: f"my {name}" for name in names}])
    (row,) = run.metadata.to_table().to_pylist()
    assert row["canvases"] == "my canvases"
    others = [name for name in names if name != "canvases"]
    assert [row[f"manifest_{name}"] for name in others] == [f"my {name}" for name in others]
    assert row["mode"] == "image"
    assert [shard.findings for shard in verify(run)] == [()]


def test_every_image_is_made_again_to_the_bit(
    run: Run, model: tuple[LoadedModel, ModelInfo]
) -> None:
    assert all(again(run, f"{row['id']}_00", model[0]).same_file for row in ROWS)


def test_an_image_with_passes_is_larger_and_made_again_to_the_bit(
    tmp_path: Path, model: tuple[LoadedModel, ModelInfo]
) -> None:
    run = run_of(tmp_path, *model, ROWS[:2], passes=PASSES)
    assert [shard.findings for shard in verify(run)] == [()]
    for image_id in ("text_00", "image_00"):
        row = run.row(image_id)
        assert row is not None
        assert run.image(image_id).size == (row["width"], row["height"]) == (24, 24)
        assert [each["from_width"] for each in row["passes"]] == [16]
        assert again(run, image_id, model[0]).same_file


@pytest.mark.parametrize(
    ("row", "column", "wrong"),
    [
        ("image", "mode", "inpaint"),
        ("image", "strength", 0.5),
        ("text", "canvas", [0, 8, 0, 0]),
        ("mask", "controlnets", [{"name": "depth", "sha256": "a" * 64, "scale": 1.0}]),
        ("text", "references", [{"name": "style", "sha256": "a" * 64, "scale": 1.0}]),
        ("mask", "inputs", []),
        (
            "image",
            "inputs",
            [{"role": "init_image", "url": "b.png", "sha256": None, "fit": "cover"}],
        ),
        (
            "text",
            "passes",
            [PASSES[0] | dict.fromkeys(("from_width", "from_height", "width", "height"), 8)],
        ),
    ],
)
def test_verify_finds_metadata_that_the_plan_does_not_ask_for(
    run: Run, row: str, column: str, wrong: Any
) -> None:
    part = read_commit(run.store, 0)
    rows = part.to_pylist()
    next(each for each in rows if each["id"] == row)[column] = wrong
    pq.write_table(part.from_pylist(rows, part.schema), Path(run.url, shard_path(0)))
    ((finding,),) = [shard.findings for shard in verify(run)]
    assert finding.damage is Damage.METADATA
    assert f"column {column}: " in finding.text
    assert "but the plan has" in finding.text


def test_verify_names_a_controlnet_of_the_plan_that_the_run_does_not_have(run: Run) -> None:
    unknown = Conditioning("text+control", controls=("depth",), control_scales=(1.0,))
    part, planned = read_commit(run.store, 0), read_shard(run.store, run.record.layout, 0)
    texts = pa.array([unknown.as_text()] * len(planned))
    position = planned.schema.get_field_index("conditioning")
    changed = planned.set_column(position, "conditioning", texts)
    assert wrong_conditioning(part, changed, run.record.model, "cover") == (
        "row 0, column conditioning of the plan: there is no adapter 'depth'; the model has: none"
    )


def test_inputs_are_read_once_and_none_has_changed(run: Run) -> None:
    assert checked(run) == InputsVerified(num_inputs=2, num_images=2)


def test_inputs_that_have_changed_or_vanished_are_named_by_image(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    (tmp_path / "mask.png").unlink()
    found = checked(run).findings
    assert {(each.image_id, each.role, each.found is None) for each in found} == {
        ("image_00", "init_image", False),
        ("mask_00", "init_image", False),
        ("mask_00", "mask_image", True),
    }
    lines = sorted(str(each) for each in found)
    assert lines[0].startswith("image_00: init_image photo.png: changed: sha256 ")
    assert "mask_00: mask_image mask.png: cannot be read: " in lines[2]
    assert all("\n" not in line for line in lines)
    assert [shard.findings for shard in verify(run)] == [()]


def test_an_image_whose_input_has_changed_is_not_made_again(
    run: Run, tmp_path: Path, model: tuple[LoadedModel, ModelInfo]
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    with pytest.raises(InputChanged) as caught:
        again(run, "image_00", model[0])
    recorded = original(run, "image_00")[1].inputs[0].sha256
    assert str(caught.value).startswith("init_image photo.png: its sha256 is ")
    assert str(caught.value).endswith(f"but the image was made from {(recorded or '')[:12]}")
    (tmp_path / "photo.png").unlink()
    with pytest.raises(InputMissing, match=r"init_image photo\.png: "):
        again(run, "image_00", model[0])


def test_pictures_that_have_moved_are_read_from_another_root(
    run: Run, tmp_path: Path, model: tuple[LoadedModel, ModelInfo]
) -> None:
    (tmp_path / "moved").mkdir()
    (tmp_path / "photo.png").rename(tmp_path / "moved/photo.png")
    assert again(run, "image_00", model[0], str(tmp_path / "moved")).same_file


def test_an_image_without_its_run_names_places_that_are_read_only_on_request(
    run: Run, tmp_path: Path, model: tuple[LoadedModel, ModelInfo]
) -> None:
    data, facts = original(run, "image_00")
    with pytest.raises(InputError, match="only --read-inputs reads those that it names itself"):
        recorded_inputs(facts, None, str(tmp_path), may_read=False, options={})
    inputs = recorded_inputs(facts, None, str(tmp_path), may_read=True, options={})
    assert reproduce(data, facts, model[0], run.spec.images, inputs)[0].same_file


def test_a_run_that_has_lost_its_plan_is_no_help(
    run: Run, model: tuple[LoadedModel, ModelInfo]
) -> None:
    data, facts = original(run, "image_00")
    Path(run.url, "plan/part-00000.parquet").unlink()
    with pytest.raises(StoreMissing, match="plan/part-00000"):
        recorded_inputs(facts, run, None, may_read=False, options={})
    inputs = recorded_inputs(facts, run, None, may_read=True, options={})
    assert reproduce(data, facts, model[0], run.spec.images, inputs)[0].same_file


@pytest.mark.parametrize(
    "forged",
    [
        lambda facts: replace(facts, image_id="other_00"),
        lambda facts: replace(facts, strength=0.9),
        lambda facts: replace(facts, inputs=(replace(facts.inputs[0], url="/etc/passwd"),)),
    ],
)
def test_an_image_that_its_run_did_not_make_so_counts_as_one_without_a_run(
    run: Run, forged: Callable[[ImageFacts], ImageFacts]
) -> None:
    facts = forged(original(run, "image_00")[1])
    with pytest.raises(InputError, match="no folder above it has a run whose plan names them"):
        recorded_inputs(facts, run, None, may_read=False, options={})

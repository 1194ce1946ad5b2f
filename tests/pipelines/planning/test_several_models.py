"""Plans of several models: each row is planned as in a job with its model alone."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plans import MODEL, images_by_id, job, planned, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import ManifestError, SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import column_uses
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    cut_into_shards,
    plan_part,
    rewrite_plan_part,
    select_images,
    units,
    write_plan,
)
from nightpress.pipelines.planning.again_rows import check_rows_again
from nightpress.pipelines.planning.growth_comparison import compare_growth
from nightpress.pipelines.planning.model_comparison import compared_prompts
from nightpress.pipelines.planning.parents import find_parents
from nightpress.pipelines.storage import Store

LARGE = replace(
    MODEL,
    source="/m/large",
    fingerprint="a" * 64,
    pipeline="StableDiffusion3Pipeline",
    size_multiple=16,
    width=256,
    height=256,
    num_inference_steps=28,
    guidance_scale=7.0,
    samplers=("flow-euler",),
    takes_negative_prompt=False,
    own_sampler="flow-euler",
)
INFOS = {"small": MODEL, "large": LARGE}
MODELS = [{"name": "small"}, {"name": "large", "source": "/m/large"}]
ALONE: dict[str, dict[str, Any]] = {"small": {}, "large": {"model": "/m/large"}}


def several(folder: Path, manifest: Path, **values: Any) -> RunSpec:
    return job(folder, manifest, **({"models": MODELS} | values))


def problems(spec: RunSpec, infos: dict[str, ModelInfo] | None = None) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        check(spec, infos or INFOS)
    return [str(each) for each in caught.value.problems]


ROWS = [
    {"id": f"r{n}", "prompt": f"number {n % 7}", "model": ("small", "large")[n * n % 5 % 2]}
    | ({"scene": "night"} if n % 3 else {"scene": None})
    for n in range(23)
]


def test_each_model_is_planned_as_if_it_were_alone(tmp_path: Path) -> None:
    """In every column but the shard and the name of the model."""
    spec = several(tmp_path, write(tmp_path / "m.jsonl", ROWS), batch={"shard_size": 4})
    layout, plan = planned(spec, INFOS, 2)  # type: ignore[arg-type]
    for name, alone in ALONE.items():
        own = [
            {k: v for k, v in row.items() if k != "model"} for row in ROWS if row["model"] == name
        ]
        folder = tmp_path / name
        folder.mkdir()
        spec = job(folder, write(folder / "m.jsonl", own), batch={"shard_size": 4}, **alone)
        _, expected = planned(spec, INFOS[name], 2)
        of_model = plan.filter(pc.equal(plan.column("model_name"), name))
        without = "shard", "model_name"
        assert images_by_id(of_model, *without) == images_by_id(expected, "shard")
        order = of_model.column("image_id").to_pylist()
        assert order == expected.column("image_id").to_pylist()
    assert layout.num_images == len(ROWS)
    assert layout.num_rows == len(ROWS)


@settings(max_examples=25)
@given(
    names=st.lists(st.sampled_from(["small", "large", "third"]), min_size=1, max_size=40),
    shard_size=st.integers(1, 9),
    part_images=st.integers(1, 12),
)
def test_a_shard_has_one_model_and_those_of_a_model_stay_together(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], shard_size: int, part_images: int
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    rows = [{"prompt": f"p{n}", "model": name} for n, name in enumerate(names)]
    models = [*MODELS, {"name": "third"}]
    spec = several(
        folder, write(folder / "m.csv", rows), models=models, batch={"shard_size": shard_size}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MAX_PART_IMAGES", part_images)
        layout, plan = planned(spec, INFOS | {"third": MODEL}, 2)  # type: ignore[arg-type]
    by_shard = [
        set(plan.filter(pc.equal(plan.column("shard"), n)).column("model_name").to_pylist())
        for n in range(layout.num_shards)
    ]
    assert by_shard == [{layout.model_of(n)} for n in range(layout.num_shards)]
    order = [layout.model_of(n) for n in range(layout.num_shards)]
    known = [model["name"] for model in models if model["name"] in names]
    assert list(dict.fromkeys(order)) == known
    assert sum(one != other for one, other in pairwise(order)) < len(known)
    assert sorted(plan.column("id").to_pylist()) == [f"{n:08d}" for n in range(len(names))]
    assert layout.num_rows == len(names)
    assert PlanLayout.from_dict(layout.as_dict()) == layout


def test_a_model_has_its_own_defaults_before_those_of_the_job(tmp_path: Path) -> None:
    models = [MODELS[0], MODELS[1] | {"sampling": {"width": 512, "num_inference_steps": 9}}]
    rows = [{"prompt": "a", "model": "small"}, {"prompt": "b", "model": "large"}]
    rows.append({"prompt": "c", "model": "large", "width": 64})  # type: ignore[dict-item]
    manifest = write(tmp_path / "m.jsonl", rows)
    spec = several(tmp_path, manifest, models=models, sampling={"width": 320, "height": 160})
    _, plan = planned(spec, INFOS)  # type: ignore[arg-type]
    found = {
        row["prompt"]: (row["width"], row["height"], row["num_inference_steps"])
        for row in plan.to_pylist()
    }
    assert found == {"a": (320, 160, 20), "b": (512, 160, 9), "c": (64, 160, 9)}


def test_a_row_with_an_unknown_model_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "model": "small"}, {"prompt": "b", "model": "lrage"}]
    manifest = write(tmp_path / "m.csv", rows)
    (problem,) = problems(several(tmp_path, manifest))
    assert problem == (
        f"{manifest}, line 3, column model: the job has no model 'lrage'; did you mean 'large'? "
        "its models are: small, large"
    )


def test_a_row_without_a_model_is_refused_unless_one_is_the_default(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "model": "large"}, {"prompt": "b", "model": ""}]
    manifest = write(tmp_path / "m.csv", rows)
    (problem,) = problems(several(tmp_path, manifest))
    assert problem.endswith(
        "line 3, column model: the row names no model; choose one of: small, large, or set "
        "default: true for one of models"
    )
    models = [MODELS[0] | {"default": True}, MODELS[1]]
    _, plan = planned(several(tmp_path, manifest, models=models), INFOS)  # type: ignore[arg-type]
    assert plan.column("model_name").to_pylist() == ["small", "large"]


@pytest.mark.parametrize("models", [[MODELS[0]], [MODELS[1], MODELS[0] | {"default": True}]])
def test_a_manifest_without_the_column_takes_the_only_model_or_the_default(
    tmp_path: Path, models: list[dict[str, Any]]
) -> None:
    spec = several(tmp_path, write(tmp_path / "m.csv", [{"prompt": "a"}]), models=models)
    _, plan = planned(spec, INFOS)  # type: ignore[arg-type]
    assert plan.column("model_name").to_pylist() == ["small"]


def test_without_the_column_and_a_default_every_row_is_refused(tmp_path: Path) -> None:
    spec = several(tmp_path, write(tmp_path / "m.csv", [{"prompt": "a"}, {"prompt": "b"}]))
    assert len(problems(spec)) == 2


def test_a_row_is_held_against_what_its_own_model_takes(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "model": "small", "width": 264, "negative_prompt": "grey"},
        {"prompt": "b", "model": "large", "width": 264, "negative_prompt": "grey"},
        {"prompt": "c", "model": "large", "width": 256, "scheduler": "euler"},
        {"prompt": "d", "model": "large", "width": 256, "lora": "ink"},
        {"prompt": "e", "model": "small", "width": 256, "lora": "ink"},
    ]
    models = [MODELS[0] | {"row_loras": ["/l/ink.safetensors"]}, MODELS[1]]
    spec = several(tmp_path, write(tmp_path / "m.jsonl", rows), models=models)
    found = problems(spec)
    assert [text.partition(": ")[0].split(", ", 1)[1] for text in found] == [
        "line 2, column width",
        "line 2, column negative_prompt",
        "line 3, column scheduler",
        "line 4, column lora",
    ] or [text.partition(": ")[0].split(", ", 1)[1] for text in found] == [
        "line 2, column negative_prompt",
        "line 2, column width",
        "line 3, column scheduler",
        "line 4, column lora",
    ]


def test_loras_of_several_models_keep_their_names_and_scales(tmp_path: Path) -> None:
    ink = {"source": "/l/ink.safetensors", "scale": 0.5}
    models = [
        MODELS[0] | {"row_loras": ["/l/clay.safetensors", ink]},
        MODELS[1] | {"row_loras": [{"source": "/l/chalk.safetensors", "scale": 0.25}]},
    ]
    rows = [
        {"prompt": "a", "model": "small", "lora": "ink"},
        {"prompt": "b", "model": "large", "lora": "chalk"},
        {"prompt": "c", "model": "large", "lora": None},
    ]
    spec = several(tmp_path, write(tmp_path / "m.jsonl", rows), models=models)
    layout, plan = planned(spec, INFOS)  # type: ignore[arg-type]
    found = {row["prompt"]: (row["lora"], row["lora_scale"]) for row in plan.to_pylist()}
    assert found == {"a": ("ink", 0.5), "b": ("chalk", 0.25), "c": (None, None)}
    counted = {(each.model, each.settings.lora): each.num_images for each in layout.batches}
    assert counted == {("small", "ink"): 1, ("large", "chalk"): 1, ("large", None): 1}


def test_a_default_that_does_not_suit_a_model_is_told_with_its_name(tmp_path: Path) -> None:
    models = [MODELS[0], MODELS[1] | {"sampling": {"width": 264}}]
    spec = several(tmp_path, write(tmp_path / "m.csv", ROWS), models=models)
    with pytest.raises(SpecError, match=r"models\.large: sampling\.width: 264 is not a multiple"):
        check(spec, INFOS)


def test_names_are_compared_across_models_and_may_hold_the_model(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "model": name, "scene": "night"} for name in INFOS]
    manifest = write(tmp_path / "m.csv", rows)
    (problem,) = problems(several(tmp_path, manifest, images={"file_name": "{scene}.png"}))
    assert "file name 'images/night.png' is already used by" in problem
    names = {"file_name": "{model_name}/{scene}.png"}
    _, plan = planned(several(tmp_path, manifest, images=names), INFOS)  # type: ignore[arg-type]
    assert plan.column("file").to_pylist() == ["images/small/night.png", "images/large/night.png"]
    again = write(tmp_path / "n.csv", [*rows, rows[1]])
    (problem,) = problems(several(tmp_path, again, images=names))
    assert "file name 'images/large/night.png' is already used by" in problem


def test_ids_are_unique_across_models(tmp_path: Path) -> None:
    rows = [{"id": "one", "prompt": "a", "model": name} for name in INFOS]
    (problem,) = problems(several(tmp_path, write(tmp_path / "m.csv", rows)))
    assert "id 'one' is already used by" in problem


def test_a_carried_column_may_not_have_the_name_of_the_models_column(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "model": "small", "model_name": "x"}]
    (problem,) = problems(several(tmp_path, write(tmp_path / "m.csv", rows)))
    assert "columns.model names model, whose values are stored under this name" in problem


def test_a_column_of_another_name_may_hold_the_models_or_codes_for_them(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "ckpt": 1}, {"prompt": "b", "ckpt": 2}]
    column = {"column": "ckpt", "values": {"1": "small", "2": "large"}}
    manifest = write(tmp_path / "m.jsonl", rows)
    spec = several(tmp_path, manifest, columns={"model": column})
    layout, plan = planned(spec, INFOS)  # type: ignore[arg-type]
    assert plan.column("model_name").to_pylist() == ["small", "large"]
    uses = {use.name: use for use in column_uses(spec, layout.files)}
    assert (uses["ckpt"].settings, uses["ckpt"].stored_as) == (("model",), "model_name")


def test_a_job_with_one_model_carries_the_column_as_ever(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.csv", [{"prompt": "a", "model": "phone x"}]))
    layout, plan = planned(spec)
    assert plan.column("manifest_model").to_pylist() == ["phone x"]
    assert "model_name" not in plan.column_names
    assert "model" not in layout.as_dict()["parts"][0]
    assert not {"model", "batch_sizes"} & {*layout.as_dict(), *layout.as_dict()["batches"][0]}


def test_each_model_is_sorted_for_its_own_batch_size(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "model": model, "width": 64 + 64 * (n % 2)}
        for model in INFOS
        for n in range(7)
    ]
    spec = several(tmp_path, write(tmp_path / "m.jsonl", rows), batch={"shard_size": 7})
    sizes = {"small": 3, "large": 2}
    layout = cut_into_shards(spec, check(spec, INFOS), 3, sizes)
    assert PlanLayout.from_dict(layout.as_dict()).batch_sizes == sizes
    store = Store(spec.url)
    list(write_plan(spec, INFOS, layout, store))
    for name, model in ALONE.items():
        own = [{k: v for k, v in row.items() if k != "model"} for row in rows]
        own = [row for row, all_of in zip(own, rows, strict=True) if all_of["model"] == name]
        folder = tmp_path / name
        folder.mkdir()
        alone = job(folder, write(folder / "m.jsonl", own), batch={"shard_size": 7}, **model)
        _, expected = planned(alone, INFOS[name], sizes[name])
        part = next(part for part in layout.parts if part.model == name)
        found = pa.parquet.read_table(f"{spec.output}/run/{part.path}")
        assert found.column("prompt").to_pylist() == expected.column("prompt").to_pylist()


def test_a_part_that_is_written_again_has_the_same_bytes(tmp_path: Path) -> None:
    spec = several(tmp_path, write(tmp_path / "m.csv", ROWS))
    layout, _ = planned(spec, INFOS)  # type: ignore[arg-type]
    store = Store(spec.url)
    before = {part.path: store.read(part.path) for part in layout.parts}
    for part in layout.parts:
        store.put(part.path, b"damaged")
        rewrite_plan_part(spec, INFOS, layout, store, part.first_shard)
    assert {part.path: store.read(part.path) for part in layout.parts} == before
    assert len(before) == 2


def test_another_model_in_a_row_changes_its_image(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", ROWS)
    spec = several(tmp_path, manifest)
    layout, _ = planned(spec, INFOS)  # type: ignore[arg-type]
    assert compare_growth(spec, INFOS, layout, Store(spec.url)).num_same == len(ROWS)
    other = "small" if ROWS[4]["model"] == "large" else "large"
    write(manifest, [*ROWS[:4], ROWS[4] | {"model": other}, *ROWS[5:], ROWS[5] | {"id": "new"}])
    growth = compare_growth(spec, INFOS, layout, Store(spec.url))
    assert (growth.num_same, len(growth.changed), len(growth.came)) == (len(ROWS) - 1, 1, 1)
    assert f"model_name '{ROWS[4]['model']}' -> '{other}'" in growth.examples[0]


def test_a_campaign_crosses_prompts_with_models(tmp_path: Path) -> None:
    """No template need have the model, and two models of a prompt are no duplicates."""
    (tmp_path / "c.campaign.yaml").write_text(
        "prompt: a ${animal}\naxes:\n  animal: [cat, dog]\n"
        "  model: [small, large]\nseed_by: [animal]\n"
    )
    _, plan = planned(several(tmp_path, tmp_path / "c.campaign.yaml"), INFOS)  # type: ignore[arg-type]
    seeds = {(row["prompt"], row["model_name"]): row["seed"] for row in plan.to_pylist()}
    assert seeds.keys() == {(f"a {animal}", name) for animal in ("cat", "dog") for name in INFOS}
    assert seeds["a cat", "small"] == seeds["a cat", "large"] != seeds["a dog", "small"]


def test_prompts_are_compared_over_all_models_that_have_them(tmp_path: Path) -> None:
    rows = [
        {"id": f"{prompt}{model}", "prompt": prompt, "model": model}
        for prompt in "abcde"
        for model in INFOS
        if (prompt, model) != ("b", "large")
    ]
    spec = several(tmp_path, write(tmp_path / "m.csv", rows))
    layout = check(spec, INFOS)
    found = compared_prompts(spec, INFOS, layout, 6)
    assert found.prompts == ("a", "d", "e")
    assert list(found.cells()) == [
        (prompt, model, f"{prompt}{model}_00") for prompt in "ade" for model in INFOS
    ]
    every = compared_prompts(spec, INFOS, layout, 100)
    assert ("b", "large", None) in every.cells()
    assert len(every.prompts) == 5


def test_a_choice_by_model_shows_each_of_them(tmp_path: Path) -> None:
    spec = several(tmp_path, write(tmp_path / "m.csv", ROWS))
    chosen = select_images(spec, INFOS, check(spec, INFOS), 2, ["model"])
    assert sorted(chosen.column("model_name").to_pylist()) == ["large", "small"]


def test_images_that_are_made_again_keep_their_model_and_its_name_in_their_files(
    tmp_path: Path,
) -> None:
    rows = [{"id": f"a-{name}", "prompt": "a", "model": name} for name in INFOS]
    names = {"file_name": "{model_name}/{image_id}.png"}
    spec = several(tmp_path, write(tmp_path / "m.csv", rows), images=names)
    layout, _ = planned(spec, INFOS)  # type: ignore[arg-type]
    store = Store(spec.url)
    found = find_parents(store, layout, ["a-small", "a-large"], 1)
    again = check_rows_again(spec, INFOS, layout, store, found.parents, 1, {})
    kept = again.kept(store, "editions/0001-rows-")
    parts = [plan_part(spec, INFOS, kept, number) for number in range(len(kept.parts))]
    files = [name for part in parts for name in part.column("file").to_pylist()]
    assert sorted(files) == ["images/large/a-large_01.png", "images/small/a-small_01.png"]

"""Files become manifests and jobs that nightpress plans, and nothing is lost without a note."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_elsewhere import (
    changed,
    plain_graph,
    png_with,
    webp_with_graph,
    with_user_comment,
)
from support.made_runs import FACTS as MADE
from support.plans import MODEL, planned

from nightpress.pipelines.errors import ManifestError, StoreDenied, StoreMissing
from nightpress.pipelines.image_files.importing.importer import ImportedImages, import_images
from nightpress.pipelines.image_files.importing.jobs import BRACKETS
from nightpress.pipelines.image_files.importing.made_image import UnreadableImage
from nightpress.pipelines.image_files.importing.reading import SUFFIXES, read_made_image
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check

FACTS = replace(MADE, image_id="0_00", id="0")

TEXT = (
    "a castle\nNegative prompt: blur,\nlow quality\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: "
    "{seed}, Size: 64x64, Model: {model}, Version: v1.10.1"
)


def text(seed: int = 1, model: str = "dream", more: str = "") -> str:
    return TEXT.format(seed=seed, model=model).replace(", Version", f"{more}, Version")


def folder_of(path: Path, **files: bytes | str) -> Path:
    """A folder with files; in their names, `__` stands for a point."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (path / name.replace("__", ".")).write_bytes(data)
    return path


def imported(folder: Path, name: str = "out.csv", **options: Any) -> ImportedImages:
    return import_images(str(folder), str(folder.parent / name), **options)


def rows_of(result: ImportedImages, number: int = 0) -> list[dict[str, Any]]:
    url = result.manifests[number].manifest
    if url.endswith(".parquet"):
        rows: list[dict[str, Any]] = pq.read_table(url).to_pylist()
        return rows
    if url.endswith(".jsonl"):
        return [json.loads(line) for line in Path(url).read_text("utf-8").splitlines()]
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return list(pyarrow.csv.read_csv(url, parse_options=options).to_pylist())


def job_of(result: ImportedImages, number: int = 0) -> dict[str, Any]:
    values = yaml.safe_load(Path(result.manifests[number].job).read_text("utf-8"))
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_becomes_a_manifest_in_every_format(tmp_path: Path, suffix: str) -> None:
    folder = folder_of(
        tmp_path / "in",
        a__png=png_with(parameters=text(1)),
        b__jpg=with_user_comment(text(2), "JPEG"),
        c__webp=with_user_comment(text(3), "WEBP", "utf-16-le"),
        d__txt=text(4),
    )
    result = imported(folder, f"out{suffix}")
    assert [each.num_rows for each in result.manifests] == [4]
    assert (result.notes, result.not_read) == (None, ())
    rows = rows_of(result)
    assert [(row["id"], row["seed"]) for row in rows] == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert {row["negative_prompt"] for row in rows} == {"blur,\nlow quality"}
    assert {row["source_model"] for row in rows} == {"dream"}
    assert rows[0]["source_file"].endswith("/in/a.png")
    assert job_of(result)["model"]["source"] == "dream"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_imported_is_planned_as_it_was_read(tmp_path: Path, suffix: str) -> None:
    folder = folder_of(tmp_path / "in", a__png=png_with(parameters=text(7)), b__txt=text(2**50))
    spec = RunSpec.from_file(imported(folder, f"out{suffix}").manifests[0].job)
    _, plan = planned(spec, MODEL)
    assert {row["id"]: row["seed"] for row in plan.to_pylist()} == {"a": 7, "b": 2**50}
    for row in plan.to_pylist():
        assert (row["prompt"], row["negative_prompt"]) == ("a castle", "blur,\nlow quality")
        assert (row["width"], row["height"], row["guidance_scale"]) == (64, 64, 7.0)
        assert (row["scheduler"], row["num_inference_steps"]) == ("ddim", 20)


def test_images_of_several_models_are_several_jobs_the_largest_first(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "in",
        a__png=png_with(parameters=text(1, "anime")),
        b__png=png_with(parameters=text(2, "photo")),
        c__png=png_with(parameters=text(3, "photo")),
    )
    result = imported(folder)
    found = [(Path(each.job).name, each.num_rows, each.model) for each in result.manifests]
    assert found == [("out.yaml", 2, "photo"), ("out-2.yaml", 1, "anime")]
    one = imported(folder, "one.csv", model="builtin")
    assert [(each.num_rows, each.model) for each in one.manifests] == [(3, "builtin")]
    assert [row["source_model"] for row in rows_of(one)] == ["anime", "photo", "photo"]


def test_one_lora_is_a_column_and_several_are_the_jobs(tmp_path: Path) -> None:
    def with_loras(tags: str) -> bytes:
        return png_with(parameters=text().replace("a castle", f"a castle {tags}"))

    folder = folder_of(
        tmp_path / "in",
        a__png=with_loras("<lora:ink:0.7>"),
        b__png=with_loras("<lora:gold:0.5>"),
        c__png=with_loras(""),
        d__png=with_loras("<lora:ink:0.7> <lora:gold:0.5>"),
    )
    result = imported(folder, loras="loras/")
    rows = rows_of(result)
    assert [row["lora"] or None for row in rows] == ["ink", "gold", None]
    assert [row["lora_scale"] for row in rows] == [0.7, 0.5, None]
    assert job_of(result)["model"]["row_loras"] == [
        {"source": "loras/ink.safetensors", "name": "ink", "scale": 1.0},
        {"source": "loras/gold.safetensors", "name": "gold", "scale": 1.0},
    ]
    assert job_of(result, 1)["model"]["loras"] == [
        {"source": "loras/ink.safetensors", "name": "ink", "scale": 0.7},
        {"source": "loras/gold.safetensors", "name": "gold", "scale": 0.5},
    ]


def test_a_second_pass_and_another_clip_skip_need_a_job_of_their_own(tmp_path: Path) -> None:
    hires = ", Denoising strength: 0.5, Hires upscale: 2, Hires steps: 10"
    folder = folder_of(
        tmp_path / "in",
        a__png=png_with(parameters=text(1)),
        b__png=png_with((128, 128), parameters=text(2, more=hires)),
        c__png=png_with(parameters=text(3, more=", Clip skip: 2")),
    )
    result = imported(folder)
    assert len(result.manifests) == 3
    jobs = [job_of(result, number) for number in range(3)]
    passes = [{"scale": 2.0, "strength": 0.5, "num_inference_steps": 20}]
    assert [job.get("passes") for job in jobs].count(passes) == 1


def test_weights_are_read_by_the_job_or_noted(tmp_path: Path) -> None:
    weighted = text(1).replace("a castle", "a (red:1.3) castle")
    result = imported(folder_of(tmp_path / "in", a__png=png_with(parameters=weighted)))
    prompts = job_of(result)["model"]["prompts"]
    said = [str(note) for note in result.images[0].notes]
    if prompts["weights"] == "literal":
        assert said == ["left out: weights: brackets and weights in its prompts are taken as text"]
    else:
        assert (prompts["weights"], said) == ("a1111", [])
    assert BRACKETS.search(weighted)
    assert check(RunSpec.from_file(result.manifests[0].job), MODEL).num_images == 1


def test_a_size_that_the_row_would_not_give_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", a__png=png_with((256, 256), parameters=text()))
    assert [str(note) for note in imported(folder).images[0].notes] == [
        "differs: size: the image has 256 x 256 pixels, that of the row 64 x 64"
    ]


def test_graphs_in_png_webp_and_json_are_read(tmp_path: Path) -> None:
    graph = plain_graph(**{"5": changed(plain_graph()["5"], width=64, height=64)})
    folder = folder_of(
        tmp_path / "in",
        a__png=png_with(prompt=json.dumps(graph), workflow='{"nodes": []}'),
        b__webp=webp_with_graph(graph),
        c__json=json.dumps(graph),
    )
    result = imported(folder)
    assert [row["prompt"] for row in rows_of(result)] == ["a glass bottle on a beach"] * 3
    assert [image.notes for image in result.images] == [()] * 3


def test_parameters_count_before_a_graph_and_that_is_said(tmp_path: Path) -> None:
    data = png_with(parameters=text(5), prompt=json.dumps(plain_graph()))
    result = imported(folder_of(tmp_path / "in", a__png=data))
    assert rows_of(result)[0]["seed"] == 5
    assert [str(note) for note in result.images[0].notes] == [
        "differs: source: its parameters are read, not its graph of ComfyUI"
    ]
    broken = png_with((512, 768), parameters="nothing", prompt=json.dumps(plain_graph()))
    other = imported(folder_of(tmp_path / "other", a__png=broken), "other.csv")
    assert rows_of(other)[0]["seed"] == 156680208700286


def test_an_image_and_the_text_beside_it_are_one_row(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "in",
        a__png=png_with(parameters=text(1)),
        a__txt=text(1),
        b__jpg=with_user_comment("", "JPEG"),
        b__txt=text(2),
        c__md="notes",
        _d__png=png_with(parameters=text(3)),
    )
    folder_of(tmp_path / "in" / "_old", e__png=png_with(parameters=text(4)))
    result = imported(folder)
    assert [(row["id"], row["seed"]) for row in rows_of(result)] == [("a", 1), ("b", 2)]
    assert result.not_read == ()
    passed = {Path(each.file).name: each.reason for each in result.passed_over}
    assert passed == {
        "a.txt": "the image beside it says how it was made",
        "b.jpg": "the text beside it says how it was made",
        "c.md": "not one of .png .jpg .jpeg .webp .txt .json",
        "_d.png": "its name, or that of its folder, begins with _ or .",
        "e.png": "its name, or that of its folder, begins with _ or .",
    }


def test_ids_of_files_with_one_name_get_numbers(tmp_path: Path) -> None:
    data = png_with(parameters=text())
    folder = folder_of(tmp_path / "in", a__png=data)
    folder_of(tmp_path / "in" / "more", a__png=data, A__jpg=with_user_comment(text(), "JPEG"))
    assert sorted(row["id"] for row in rows_of(imported(folder))) == ["A-2", "a", "a-3"]


def test_importing_again_after_the_first_time_reads_the_same_files(tmp_path: Path) -> None:
    bad = png_with()
    folder = folder_of(tmp_path / "in", a__png=png_with(parameters=text()), b__png=bad)
    first = import_images(str(folder), f"{folder}/out.csv")
    assert first.notes is not None
    second = import_images(str(folder), f"{folder}/again.csv")
    assert (second.images[0].id, len(second.images)) == ("a", 1)
    assert [each.file for each in second.not_read] == [each.file for each in first.not_read]


def test_files_that_say_nothing_are_listed_with_the_reason(tmp_path: Path) -> None:
    whole = png_with(parameters=text())
    folder = folder_of(
        tmp_path / "in",
        good__png=whole,
        cut__png=whole[: len(whole) // 3],
        damaged__png=whole[:20] + b"\0" * 200,
        empty__png=b"",
        bare__webp=with_user_comment("", "WEBP"),
        long__txt="x" * (17 * 2**20),
        other__png=png_with(invokeai_metadata="{}"),
        prose__txt="a fox",
        utf__txt=b"\xff\xfe\xff\xd8",
        graph__json=json.dumps(plain_graph())[:-5],
    )
    result = imported(folder)
    assert [image.id for image in result.images] == ["good"]
    reasons = {Path(each.file).name: each.reason for each in result.not_read}
    nothing = "it has no metadata of A1111, ComfyUI or nightpress"
    assert reasons["bare.webp"] == nothing
    assert reasons["other.png"] == f"{nothing}; it has: invokeai_metadata"
    assert reasons["empty.png"] == "not a PNG, WebP, JPEG or MP4 file"
    assert reasons["long.txt"] == "it has 17,825,792 bytes; at most 16,777,216 are read"
    assert reasons["prose.txt"].startswith("its text has no line of settings")
    assert reasons["graph.json"].startswith("its graph is broken JSON")
    assert set(reasons) == {
        *("cut.png", "damaged.png", "empty.png", "bare.webp", "long.txt", "other.png"),
        *("prose.txt", "utf.txt", "graph.json"),
    }
    assert all("\n" not in reason for reason in reasons.values())
    assert result.notes is not None
    noted = json.loads(Path(result.notes).read_text("utf-8"))
    assert [each["file"] for each in noted["not_read"]] == [each.file for each in result.not_read]


def test_a_model_that_no_image_names_is_asked_for_and_never_another(tmp_path: Path) -> None:
    unnamed = text().replace("Model: dream", "Model hash: 45dee52b")
    folder = folder_of(tmp_path / "in", a__png=png_with(parameters=unnamed))
    result = imported(folder)
    assert result.manifests[0].model == "unnamed-model"
    assert [str(note) for note in result.images[0].notes] == [
        "left out: model: the image does not name it; set model in the job; its hash is 45dee52b"
    ]
    too_long = text(model="x" * 5000)
    other = imported(folder_of(tmp_path / "long", a__png=png_with(parameters=too_long)), "b.csv")
    assert other.manifests[0].model == "unnamed-model"
    assert [str(note) for note in other.images[0].notes] == [
        f"left out: model: no job can have the name {'x' * 60!r}"
    ]


def test_an_image_without_a_prompt_is_not_read(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "in",
        a__txt=text().removeprefix("a castle\n"),
        b__txt=text().replace("a castle", "<lora:ink:1>"),
        c__txt=text(),
    )
    result = imported(folder)
    assert [image.id for image in result.images] == ["c"]
    why = "it has no prompt, or an empty one, which no manifest can have"
    assert [each.reason for each in result.not_read] == [why, why]


def test_forged_facts_of_nightpress_are_refused_in_one_line(tmp_path: Path) -> None:
    facts = FACTS.as_dict()
    forged = {
        "fine": {},
        "dtype": {"dtype": "float99"},
        "passes": {"passes": [{"scale": "x"}]},
        "speed": {"speed": "{"},
        "size": {"batch_size": -1},
        "prompt": {"prompt": 7},
        "model": {"model": ["a"]},
        "inputs": {"inputs": [{"role": 3, "url": 4, "sha256": 5, "fit": 6}]},
        "half": {"prompt": "\ud800"},
    }
    folder = tmp_path / "in"
    folder.mkdir()
    for name, change in forged.items():
        data = png_with((16, 16), nightpress=json.dumps(facts | change))
        (folder / f"{name}.png").write_bytes(data)
    result = imported(folder)
    assert "0_00" in [image.id for image in result.images]
    reasons = {Path(each.file).stem: each.reason for each in result.not_read}
    assert {"dtype", "passes", "speed", "size", "half"} <= reasons.keys()
    assert all("\n" not in reason for reason in reasons.values())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.sampled_from(SUFFIXES))
def test_any_file_is_read_or_refused_in_words(data: bytes, suffix: str) -> None:
    for content in (data, TEXT.encode() + data, b'{"1": ' + data, data + TEXT.encode()):
        with contextlib.suppress(UnreadableImage):
            made = read_made_image(f"a{suffix}", content)
            assert made.settings["prompt"].strip()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
INPUTS = sorted({key for each in plain_graph().values() for key in each["inputs"]})
LINKS = st.tuples(st.sampled_from("3456789"), st.integers(0, 2)).map(list)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from("3456789"),
            st.sampled_from(
                sorted({key for each in plain_graph().values() for key in each["inputs"]})
            ),
        ),
        JSON | LINKS,
        max_size=5,
    )
)
def test_any_change_of_a_graph_is_read_or_refused_in_words(changes: dict[Any, Any]) -> None:
    graph = plain_graph()
    for (name, key), value in changes.items():
        graph[name]["inputs"][key] = value
    with contextlib.suppress(UnreadableImage):
        made = read_made_image("a.json", json.dumps(graph).encode())
        assert all(isinstance(value, str | int | float) for value in made.settings.values())


def test_nothing_is_written_if_no_file_says_anything(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", a__png=png_with(), b__txt="a fox")
    with pytest.raises(ManifestError, match=r"a\.png: it has no metadata") as caught:
        imported(folder)
    assert len(caught.value.problems) == 2
    with pytest.raises(ManifestError, match=r"no file ends in \.png"):
        imported(folder_of(tmp_path / "md", a__md="x"))
    with pytest.raises(StoreMissing):
        imported(tmp_path / "missing")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "md"}


@pytest.mark.parametrize("taken", ["out.csv", "out.yaml", "out.notes.json"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    folder = folder_of(tmp_path / "in", a__png=png_with(parameters=text()), b__png=png_with())
    (tmp_path / taken).write_text("mine")
    with pytest.raises(StoreDenied, match="this file is there already; name another"):
        imported(folder)
    assert (tmp_path / taken).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"in", taken}


def test_a_job_whose_files_name_no_run_can_have_gets_another_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", a__png=png_with(parameters=text()))
    result = imported(folder, "my best ones.csv")
    assert job_of(result)["name"] == "my-best-ones"
    assert RunSpec.from_file(result.manifests[0].job).name == "my-best-ones"

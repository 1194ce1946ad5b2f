"""`nightpress import` of images: what it prints, its exit codes, and that plan goes on."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.made_elsewhere import png_with

from nightpress.jobs.cli import command

TEXT = (
    "a castle\nSteps: 20, Sampler: {sampler}, CFG scale: 7, Seed: 1, Size: 128x128, Model: dream, "
    "VAE: kl.pt, Version: v1.10.1"
)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["import", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    for name, sampler in (("a", "DDIM"), ("b", "Euler a"), ("c", "DPM++ 2M SDE Heun")):
        text = TEXT.format(sampler=sampler)
        (made / f"{name}.png").write_bytes(png_with((128, 128), parameters=text))
    return made


def test_it_prints_what_was_left_out_and_what_to_do_next(folder: Path) -> None:
    result = invoke("made", "-o", "out.csv", "--model", "builtin")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "left out:\n"
        "  VAE: kl.pt (a.png, b.png, c.png)\n"
        "  sampler: sampler 'DPM++ 2M SDE Heun' of other programs has no equal here; the nearest: "
        "dpmsolver-sde, dpmsolver++ (c.png)\n"
        "wrote out.csv, 3 rows, and out.yaml\n"
        "wrote out.notes.json, what is said above for every file\n"
        "next: nightpress plan out.yaml\n"
    )
    planned = CliRunner().invoke(command, ["plan", "out.yaml"])
    assert planned.exit_code == 0, planned.output
    assert "euler-ancestral" in planned.stdout


def test_files_that_cannot_be_read_end_with_3_and_are_named(folder: Path) -> None:
    (folder / "d.png").write_bytes(png_with())
    result = invoke("made", "-o", "out.parquet")
    assert result.exit_code == 3
    assert f"not read:\n  {folder}/d.png: it has no metadata of A1111" in result.stdout
    assert "wrote out.parquet, 3 rows, and out.yaml (model: dream)\n" in result.stdout


def test_json_has_every_note_and_every_file(folder: Path) -> None:
    (folder / "d.png").write_bytes(b"")
    values = json.loads(invoke("made", "-o", "out.jsonl", "--json").stdout)
    assert values["num_rows"] == 3
    assert values["manifests"] == [
        {"manifest": "out.jsonl", "job": "out.yaml", "num_rows": 3, "model": "dream"}
    ]
    assert [each["reason"] for each in values["not_read"]] == ["not a PNG, WebP, JPEG or MP4 file"]
    assert values["images"][0]["notes"] == [{"kind": "left out", "what": "VAE", "detail": "kl.pt"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["made", "-o", "out.csv", "--leave-out"], "--leave-out is for word lists"),
        (["made", "-o", "out.csv", "--from", "swarmui"], "--from is for word lists"),
        (["made", "-o", "words", "--model", "x"], "--model is for images, whose output is a"),
        (["missing", "-o", "out.csv"], "missing"),
        (["made/a.png", "-o", "out.csv", "--storage", "x"], "--storage x: must be PROTOCOL.OP"),
    ],
)
def test_bad_usage_ends_with_2_and_nothing_is_written(
    folder: Path, arguments: list[str], message: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_a_folder_without_anything_to_import_ends_with_2(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(png_with())
    result = invoke("made", "-o", "out.csv")
    assert result.exit_code == 2
    assert result.stderr.count("it has no metadata of A1111, ComfyUI or nightpress") == 3
    assert not (folder.parent / "out.csv").exists()

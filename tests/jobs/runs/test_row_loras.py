"""LoRAs that rows name, from the manifest to the reproduction of an image."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from support import tiny_loras
from support.plans import MODEL
from support.run_files import hashes, read_metadata

from nightpress import jobs
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.jobs.cli import command
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.runs.shared import actor_factory
from nightpress.jobs.tuning.images import images_to_sample
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.loras import locate_loras

MakeSpec = Callable[..., RunSpec]

ROWS = 15


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def pipeline(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, local_files_only=True)


@pytest.fixture
def ink(tiny_model: Path, tmp_path: Path) -> Path:
    return tiny_loras.save(pipeline(tiny_model), tmp_path / "ink")


@pytest.fixture
def clay(tiny_model: Path, tmp_path: Path) -> Path:
    """A LoRA that also changes the text encoder."""
    return tiny_loras.save(pipeline(tiny_model), tmp_path / "clay", seed=1, with_text=True)


def row(number: int) -> dict[str, Any]:
    """A job whose rows mix two sizes, two samplers, and two LoRAs or none, one at two scales."""
    return {
        "id": f"{number:02}",
        "prompt": f"a picture of the number {number}",
        "seed": number,
        "width": 64 if number % 2 else 32,
        "scheduler": "ddim" if number // 2 % 2 else "euler",
        "lora": (None, "ink", "clay")[number % 3],
        "lora_scale": 0.5 if number in (1, 4) else None,
    }


def manifest(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    path = folder / f"{len(rows)}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


@pytest.fixture
def mixed(make_spec: MakeSpec, tiny_model: Path, tmp_path: Path, ink: Path, clay: Path) -> RunSpec:
    loras = [{"source": str(ink), "scale": 0.8}, str(clay)]
    return make_spec(
        model={"source": str(tiny_model), "row_loras": loras},
        manifest=manifest(tmp_path, [row(number) for number in range(ROWS)]),
    )


def write(path: Path, spec: RunSpec) -> str:
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return str(path)


@pytest.mark.usefixtures("local_ray")
def test_every_row_of_a_mixed_manifest_is_made_with_its_own_lora(
    mixed: RunSpec, make_spec: MakeSpec, tmp_path: Path, clay: Path
) -> None:
    assert jobs.run(mixed).num_ok == ROWS
    table = read_metadata(mixed)
    told = [[(each["name"], each["scale"]) for each in row] for row in table["loras"].to_pylist()]
    own = [[], [("ink", 0.8)], [("clay", 1.0)]]
    expected = [[("ink", 0.5)] if n in (1, 4) else own[n % 3] for n in range(ROWS)]
    assert told == expected
    for name in ("00_00", "04_00", "05_00"):
        image = Path(mixed.url, f"images/{name}.png")
        facts = read_facts(image.read_bytes())
        assert facts is not None
        assert [(each.name, each.scale) for each in facts.loras] == expected[int(name[:2])]
        again = nightpress("reproduce", str(image))
        assert again.exit_code == 0, again.output
        assert "bit-exact: the same file" in again.stdout
    assert nightpress("verify", mixed.url).exit_code == 0

    # Of rows without a LoRA, the very files of a job that has none.
    alone = [row(number) for number in range(0, ROWS, 3)]
    plain = make_spec(name="plain", manifest=manifest(tmp_path, alone))
    assert jobs.run(plain).num_ok == len(alone)
    ours = hashes(mixed)
    assert hashes(plain).items() <= ours.items()

    # What is missing is made again, to the same bytes.
    for path in (*Path(mixed.url, "metadata").iterdir(), *Path(mixed.url).glob("images/0[0-4]*")):
        path.unlink()
    assert jobs.run(mixed).num_ok == ROWS
    assert hashes(mixed) == ours

    # Another file under the same name is refused, by `run` and by `reproduce`.
    other = tiny_loras.save(pipeline(Path(mixed.model.source)), tmp_path / "other", seed=7)
    (clay / LORA_FILE).write_bytes((other / LORA_FILE).read_bytes())
    changed = nightpress("run", write(tmp_path / "job.yaml", mixed))
    assert changed.exit_code == 2
    assert "model.row_loras: sha256 of clay" in changed.stderr
    again = nightpress("reproduce", str(Path(mixed.url, "images/05_00.png")))
    assert again.exit_code == 2
    assert "LoRA 'clay': its sha256 is" in again.stderr
    assert nightpress("reproduce", str(Path(mixed.url, "images/04_00.png"))).exit_code == 0


def test_a_plan_shows_the_loras_of_rows(mixed: RunSpec, tmp_path: Path) -> None:
    shown = nightpress("plan", write(tmp_path / "job.yaml", mixed))
    assert shown.exit_code == 0, shown.output
    assert "ink at 0.8" in shown.stdout
    assert "clay at 1" in shown.stdout
    told = json.loads(nightpress("plan", str(tmp_path / "job.yaml"), "--json").stdout)
    counts = {(each["lora"], each["lora_scale"]) for each in told["batches"]}
    assert counts == {(None, None), ("ink", 0.8), ("ink", 0.5), ("clay", 1.0)}
    assert [each["name"] for each in told["model"]["row_loras"]] == ["ink", "clay"]


def test_a_row_that_names_a_lora_the_job_does_not_have_is_refused(
    mixed: RunSpec, tmp_path: Path
) -> None:
    rows = manifest(tmp_path, [row(1) | {"lora": "oil"}])
    path = write(tmp_path / "job.yaml", mixed)
    refused = nightpress("plan", path, "--set", f"manifest={rows}")
    assert refused.exit_code == 2
    assert "column lora: model.row_loras has no LoRA 'oil'; choose one of: ink, clay" in (
        refused.stderr
    )


def test_an_actor_with_a_different_lora_file_refuses_to_work(mixed: RunSpec, clay: Path) -> None:
    files = locate_loras(mixed.model)
    info = loading.describe(Path(mixed.model.source), mixed.model, files)
    actor = SamplerActor(mixed.model, {}, "cpu", 1)
    assert actor.describe().identity == info.identity
    (clay / LORA_FILE).write_bytes(files[0].read_bytes())
    with pytest.raises(ModelError, match=r"including the files of model\.row_loras"):
        SamplerActor(mixed.model, {}, "cpu", 1).load(info.identity, 4)


@pytest.mark.usefixtures("local_ray")
def test_a_lora_keeps_the_job_s_name_for_it_wherever_its_file_is(
    make_spec: MakeSpec, tiny_model: Path, ink: Path, tmp_path: Path
) -> None:
    (tmp_path / "linked").symlink_to(ink)
    spec = make_spec(model={"source": str(tiny_model), "row_loras": [str(tmp_path / "linked")]})
    assert [lora.label for lora in spec.model.row_loras] == ["linked"]
    (lora,) = actor_factory(spec).spec.row_loras
    assert (lora.label, Path(lora.source)) == ("linked", ink.resolve())


def test_images_for_tuning_share_the_most_frequent_lora(tmp_path: Path, mixed: RunSpec) -> None:
    rows = [row(n) | {"width": 32, "scheduler": "ddim", "lora_scale": None} for n in range(6)]
    usual = [row(n) | {"width": 32, "scheduler": "ddim", "lora": None} for n in range(6, 9)]
    plain = [each | {"lora_scale": None} for each in usual]
    for given, lora in (([*rows, rows[1] | {"id": "x"}], "ink"), ([*rows, *plain], None)):
        spec = mixed.model_copy(update={"manifest": manifest(tmp_path, given)})
        images = images_to_sample(spec, MODEL, 2, 2)
        assert [image.lora for image in images] == [lora, lora]

"""Packed runs on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.pipelines import open_run
from nightpress.pipelines.image_files.packing import member_of
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.commit import shard_path

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture
def spec(make_spec: MakeSpec) -> RunSpec:
    return make_spec(images={"packing": "webdataset"})


@pytest.fixture
def job(tmp_path: Path, spec: RunSpec) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return str(path)


def packs_of(spec: RunSpec) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(spec.url, "images").iterdir()}


def test_a_packed_run_is_made_damaged_verified_repaired_and_reproduced(
    job: str, spec: RunSpec, make_spec: MakeSpec
) -> None:
    plain = make_spec(name="plain")
    jobs.run(plain)
    assert nightpress("run", job).exit_code == 0
    assert hashes(spec) == hashes(plain)
    packs = packs_of(spec)
    assert sorted(map(str, packs)) == sorted(open_run(spec.url).packs)
    assert len(packs) < PROMPTS

    row = read_metadata(spec).to_pylist()[5]
    path = Path(spec.url, row["file"])
    wanted = Path(plain.url, "images", f"{row['image_id']}.png").read_bytes()
    assert member_of(str(path), packs[path], row["member"]) == wanted

    changed = nightpress("run", job, "--set", "images.packing=none")
    assert changed.exit_code == 2
    assert "images.packing" in changed.stderr
    harmed = bytearray(packs[path])
    harmed[row["member_offset"] + 50] ^= 1
    path.write_bytes(harmed)
    lost = next(each for each in packs if each != path)
    lost.unlink()
    Path(spec.url, shard_path(0)).write_bytes(b"no commit")
    orphan = path.with_name(f"shard-00000-{'0' * 16}{path.suffix}")
    orphan.write_bytes(b"of an attempt that never committed")
    found = nightpress("verify", job)
    assert found.exit_code == 3
    assert nightpress("verify", job, "--repair").exit_code == 0
    assert packs_of(spec) == packs | {orphan: orphan.read_bytes()}
    deleted = nightpress("verify", job, "--sweep")
    assert deleted.exit_code == 0, deleted.output
    assert f"images/{orphan.name}: no commit names it" in deleted.stdout
    assert packs_of(spec) == packs
    assert hashes(spec) == hashes(plain)

    again = nightpress("reproduce", f"{path}/{row['member']}")
    assert "bit-exact: the same file" in again.stdout, again.output
    nameless = nightpress("reproduce", str(path))
    assert nameless.exit_code == 2
    assert "this is a pack; append the name of an image in it: " in nameless.stderr
    unknown = nightpress("reproduce", f"{path}/nothing.png")
    assert unknown.exit_code == 2
    assert len(unknown.stderr.strip().splitlines()) == 1


def test_retry_leaves_a_pack_unchanged_if_its_row_fails_again(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    manifest = tmp_path / "guidance.csv"
    rows = [f"picture {n},{'3e38' if n == 2 else 3}" for n in range(6)]
    manifest.write_text("\n".join(["prompt,guidance_scale", *rows]))
    sampling = {"width": 64, "height": 64, "num_inference_steps": 2}
    spec = make_spec(manifest=str(manifest), sampling=sampling, images={"packing": "parquet"})
    jobs.run(spec)
    packs = packs_of(spec)
    result = nightpress("retry", spec.url, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["num_failed"] == 1
    assert packs_of(spec) == packs
    assert nightpress("verify", spec.url).exit_code == 0

"""Leases, retries, repairs and reproductions on the command line."""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from support.run_files import PROMPTS, files_of, hashes, read_metadata

from nightpress.jobs.cli import command
from nightpress.pipelines.errors import LeaseLost
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.lease import Lease, acquire
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture
def spec(make_spec: MakeSpec) -> RunSpec:
    return make_spec()


@pytest.fixture
def job(tmp_path: Path, spec: RunSpec) -> str:
    return job_file(tmp_path, spec)


def job_file(folder: Path, spec: RunSpec) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return str(path)


@pytest.fixture
def other_start(spec: RunSpec) -> Iterator[Lease]:
    """The lease of another process that works on the run."""
    lease = acquire(Store(spec.url), heartbeat_s=0.2)
    yield lease
    lease.release()


def test_a_second_start_exits_5_and_names_the_process_that_holds_the_run(
    job: str, other_start: Lease
) -> None:
    result = nightpress("run", job)
    assert result.exit_code == 5
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "process" in line
    assert "ago" in line
    assert "--take-over" in line


def test_a_takeover_stops_the_other_process_and_makes_the_images(
    job: str, spec: RunSpec, other_start: Lease
) -> None:
    assert nightpress("run", job, "--take-over").exit_code == 0
    assert len(hashes(spec)) == PROMPTS
    with pytest.raises(LeaseLost):
        other_start.fence.require(Store(spec.url))


def test_retry_makes_the_failed_rows_and_no_others(
    job: str, spec: RunSpec, finished: MakeSpec
) -> None:
    taken = Path(spec.url, "images/00000004_00.png")
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"somebody else's")
    assert nightpress("run", job).exit_code == 3
    again = nightpress("retry", job)
    assert again.exit_code == 3
    assert "0 ok now, 1 failed again" in again.stdout
    taken.unlink()
    before = files_of(spec)
    result = nightpress("retry", job, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["num_ok"] == 1
    after = files_of(spec)
    images = {name for name in after if name.startswith("images/")}
    assert {name for name in images if after[name] != before.get(name)} == {
        "images/00000004_00.png"
    }
    assert hashes(spec) == hashes(finished())
    (row,) = [row for row in read_metadata(spec).to_pylist() if row["id"] == "00000004"]
    assert row["attempts"] == 3
    assert "nothing to retry" in nightpress("retry", spec.url).stdout


@pytest.mark.chaos
def test_the_run_s_own_failure_limit_does_not_stop_a_retry(job: str, spec: RunSpec) -> None:
    taken = [Path(spec.url, f"images/{row:08d}_00.png") for row in (0, 9, 18)]
    taken[0].parent.mkdir(parents=True)
    for path in taken:
        path.write_bytes(b"somebody else's")
    assert nightpress("run", job, "--max-failures", "0").exit_code == 1
    assert nightpress("run", job).exit_code == 3
    again = nightpress("retry", spec.url)
    assert again.exit_code == 3, again.output
    assert "3 failed again" in again.stdout
    refused = nightpress("retry", job, "--max-failures", "many")
    assert refused.exit_code == 2
    assert "--max-failures" in refused.stderr
    for path in taken:
        path.unlink()
    assert nightpress("retry", job).exit_code == 0


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (flip_a_bit, "images/00000007_00.png"),
        (Path.unlink, "images/00000007_00.png"),
        (cut, shard_path(1)),
        (cut, "plan/part-00000.parquet"),
    ],
    ids=["flipped image", "missing image", "cut metadata", "cut plan"],
)
def test_verify_finds_damage_and_repairs_it_to_the_same_bytes(
    finished: MakeSpec, tmp_path: Path, harm: Callable[[Path], object], name: str
) -> None:
    spec = finished()
    assert nightpress("verify", job_file(tmp_path, spec)).exit_code == 0
    sums, whole = hashes(spec), Path(spec.url, name).read_bytes()
    harm(Path(spec.url, name))
    found = nightpress("verify", spec.url)
    assert found.exit_code == 3
    assert name in found.stdout
    repaired = nightpress("verify", spec.url, "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert hashes(spec) == sums
    if name != shard_path(1):  # whose times are those of the repair
        assert Path(spec.url, name).read_bytes() == whole
    assert nightpress("verify", spec.url).exit_code == 0


def test_orphans_are_listed_and_deleted_only_on_request(
    finished: MakeSpec,
) -> None:
    spec = finished()
    orphan = Path(spec.url, "images/old.png")
    orphan.write_bytes(b"old")
    listed = nightpress("verify", spec.url)
    assert listed.exit_code == 0
    assert "images/old.png: no commit names it" in listed.stdout
    assert orphan.exists()
    Path(spec.url, shard_path(0)).rename(Path(spec.url, "aside"))
    refused = nightpress("verify", spec.url, "--sweep")
    assert refused.exit_code == 2
    assert orphan.exists()
    Path(spec.url, "aside").rename(Path(spec.url, shard_path(0)))
    assert nightpress("verify", spec.url, "--sweep").exit_code == 0
    assert not orphan.exists()
    assert len(Store(spec.url).list("images")) == PROMPTS


def test_an_image_is_reproduced_bit_for_bit_from_its_embedded_metadata(
    finished: MakeSpec, tmp_path: Path
) -> None:
    spec = finished()
    image = Path(spec.url, "images/00000005_00.png")
    result = nightpress("reproduce", str(image))
    assert result.exit_code == 0, result.output
    assert "bit-exact: the same file" in result.stdout
    alone = tmp_path / "alone.png"
    alone.write_bytes(image.read_bytes())
    refused = nightpress("reproduce", str(alone))
    assert refused.exit_code == 2
    assert "--model" in refused.stderr
    named = nightpress("reproduce", str(alone), "--model", spec.model.source, "--json")
    assert named.exit_code == 0
    assert json.loads(named.stdout)["same_file"] is True


def test_the_difference_of_an_edited_image_is_measured(finished: MakeSpec) -> None:
    image = Path(finished().url, "images/00000005_00.png")
    with Image.open(image) as opened:
        info, pixels = opened.info["nightpress"], np.asarray(opened).copy()
    pixels[0, 0] ^= 64
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_itxt("nightpress", info)
    Image.fromarray(pixels).save(image, pnginfo=text)
    result = nightpress("reproduce", str(image))
    assert result.exit_code == 3
    assert "differs by at most 64 of 255" in result.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "not an image made by nightpress"),
        ({"width": "wide"}, "width"),
        ({"width": 10**9}, "width is 1000000000, but must be from 1 to 16384"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_an_image_with_unsound_metadata_is_refused_in_one_line(
    finished: MakeSpec, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    from PIL.PngImagePlugin import PngInfo

    spec = finished()
    with Image.open(Path(spec.url, "images/00000005_00.png")) as opened:
        facts = json.loads(opened.info["nightpress"])
    text, file = PngInfo(), io.BytesIO()
    if change:
        text.add_itxt("nightpress", json.dumps(facts | change))
    Image.new("RGB", (64, 64)).save(file, "PNG", pnginfo=text)
    path = tmp_path / "odd.png"
    path.write_bytes(file.getvalue())
    result = nightpress("reproduce", str(path), "--model", spec.model.source)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def failed_wholesale(
    make_spec: MakeSpec, folder: Path, num_rows: int, shard_size: int
) -> tuple[RunSpec, Result]:
    """A run in which every row fails, with `--max-failures 3`."""
    manifest = folder / "guidance.csv"
    manifest.write_text("prompt,guidance_scale\n" + "a,3e38\n" * num_rows)
    wholesale = make_spec(
        manifest=str(manifest),
        sampling={"width": 64, "height": 64, "num_inference_steps": 2},
        batch={"size": 2, "shard_size": shard_size},
    )
    path = folder / "wholesale.yaml"
    path.write_text(yaml.safe_dump(wholesale.as_dict()))
    return wholesale, nightpress("run", str(path), "--max-failures", "3")


def test_a_run_in_which_every_row_fails_is_stopped_early(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    wholesale, result = failed_wholesale(make_spec, tmp_path, num_rows=12, shard_size=2)
    assert result.exit_code == 1
    assert "max_failures is 3" in result.stderr
    failed = [row for row in read_metadata(wholesale).to_pylist() if row["status"] == "failed"]
    assert 3 < len(failed) < 12


def test_a_large_shard_in_which_every_row_fails_is_stopped_before_its_end(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    wholesale, result = failed_wholesale(make_spec, tmp_path, num_rows=300, shard_size=300)
    assert result.exit_code == 1
    stopped = re.search(r"(\d+) of \d+ images failed, and max_failures is 3", result.stderr)
    assert stopped is not None
    assert int(stopped[1]) < 30
    assert not Path(wholesale.url, shard_path(0)).exists()


@pytest.mark.parametrize("text", ["25:00", "yesterday", "2001-01-01T00:00"])
def test_a_deadline_that_is_not_a_time_is_refused(job: str, text: str) -> None:
    result = nightpress("run", job, "--deadline", text)
    assert result.exit_code == 2
    assert text in result.stderr

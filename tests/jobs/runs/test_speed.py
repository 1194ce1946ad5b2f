"""`model.speed` from job file to reproduction: recorded, restored, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.run_files import hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.jobs.dispatch.config import dispatch_config_of
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import acquire
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]
SPEED = {"deep_features": {"interval": 2, "branch": 1}, "channels_last": True}
RECORDED = '{"channels_last":true,"deep_features":{"branch":1,"interval":2}}'

pytestmark = pytest.mark.usefixtures("local_ray")


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def write(path: Path, spec: RunSpec) -> str:
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return str(path)


@pytest.fixture
def fast(make_spec: MakeSpec, tiny_model: Path) -> RunSpec:
    return make_spec(model={"source": str(tiny_model), "speed": SPEED})


def test_each_image_records_its_speed_settings_and_is_reproduced_with_them(
    fast: RunSpec, make_spec: MakeSpec, tmp_path: Path
) -> None:
    jobs.run(fast)
    assert set(read_metadata(fast).column("speed").to_pylist()) == {RECORDED}
    image = Path(fast.url, "images/00000005_00.png")
    facts = read_facts(image.read_bytes())
    assert facts is not None
    assert facts.speed == RECORDED
    alone = tmp_path / "alone.png"
    alone.write_bytes(image.read_bytes())
    again = nightpress("reproduce", str(alone), "--model", fast.model.source)
    assert again.exit_code == 0, again.output
    assert RECORDED in again.stdout
    assert "bit-exact: the same file" in again.stdout
    odd = nightpress("reproduce", str(asking_for_more(image, tmp_path)), "--model", "builtin")
    assert odd.exit_code == 2
    assert "invalid embedded metadata: speed: compile" in odd.stderr
    plain = make_spec(name="plain")
    jobs.run(plain)
    assert set(read_metadata(plain).column("speed").to_pylist()) == {None}
    assert hashes(plain).keys() == hashes(fast).keys()
    assert not set(hashes(plain).values()) & set(hashes(fast).values())


def asking_for_more(image: Path, folder: Path) -> Path:
    """An image whose metadata names speed settings that do not exist."""
    with Image.open(image) as opened:
        facts, size = json.loads(opened.info["nightpress"]), opened.size
    text = PngInfo()
    text.add_itxt("nightpress", json.dumps(facts | {"speed": '{"compile":"hard"}'}))
    Image.new("RGB", size).save(folder / "odd.png", "PNG", pnginfo=text)
    return folder / "odd.png"


def test_a_run_is_resumed_only_with_its_own_speed_settings(
    fast: RunSpec, make_spec: MakeSpec, tmp_path: Path
) -> None:
    jobs.run(fast)
    before = hashes(fast)
    changed = nightpress("run", write(tmp_path / "job.yaml", make_spec()))
    assert changed.exit_code == 2
    assert "model.speed.channels_last: True -> None" in changed.stderr
    assert nightpress("run", write(tmp_path / "job.yaml", fast)).exit_code == 0
    assert hashes(fast) == before


@pytest.mark.parametrize(("compiles", "watchdog_s"), [("regional", 77.0), (None, None)])
def test_compiling_a_batch_may_take_as_long_as_loading_the_model(
    make_spec: MakeSpec, compiles: str | None, watchdog_s: float | None
) -> None:
    spec = make_spec(
        model={"speed": {"compile": compiles}}, cluster={"load_timeout_s": 77.0, "actors": 1}
    )
    lease = acquire(Store(spec.url))
    try:
        assert dispatch_config_of(spec, lease, look_first=False).watchdog_s == watchdog_s
    finally:
        lease.release()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.speed.taylorseer_cache={}", "UNet2DConditionModel takes no cache in diffusers"),
        ("model.speed.deep_features.branch=9", "branch 9: this U-Net has 0 to"),
        ("model.speed.attention_backend=magic", "model.speed.attention_backend: 'magic'"),
        ("model.speed.chanels_last=true", "allowed here: attention_backend, channels_last"),
        ("model.speed.first_block_cache={}", "batch.size must be 1, not 4"),
    ],
)
def test_speed_settings_that_the_model_does_not_support_exit_2_and_write_nothing(
    fast: RunSpec, tmp_path: Path, override: str, words: str
) -> None:
    path = write(tmp_path / "job.yaml", fast)
    for subcommand in ("plan", "run"):
        refused = nightpress(subcommand, path, "--set", override)
        assert refused.exit_code == 2
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
        assert words in line
    assert not Path(fast.url).exists()

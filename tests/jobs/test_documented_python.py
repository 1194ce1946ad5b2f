"""The manuals' Python is run, line by line, on a local folder and on S3."""

import gc
from pathlib import Path
from typing import Any

import pytest
import test_docs
import yaml
from PIL import Image
from support.fakes.fake_runs import finished_run
from support.servers import Folder
from support.slow_cases import slow_except
from test_docs import Block

from nightpress.pipelines.storage import Store

PROMPTS = [f"a cat {number}" for number in range(42)]

BLOCKS = test_docs.in_language("python")


def block_with(*words: str) -> Block:
    """The one Python block of the manuals that contains some words."""
    (block,) = (each for each in BLOCKS if all(word in each.text for word in words))
    return block


READING = [
    (block_with("press.images()"), "none"),
    (block_with("import webdataset"), "webdataset"),
    (block_with("import datasets"), "parquet"),
]
RUNNING = [
    block_with('run(RunSpec.from_file("job.yaml"))'),
    block_with('RunSpec.from_file("cats.yaml", ["batch.size=8"])'),
]


def execute(block: Block, url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a block with `url` in place of its run directory; returns its variables."""
    monkeypatch.setattr(Image.Image, "show", lambda image: image.load())
    names: dict[str, Any] = {}
    text = block.text.replace('"press/first"', repr(url)).replace('"press/job"', repr(url))
    exec(compile(text, str(block), "exec"), names)
    return names


def reach(server: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the manual says to set for a store that is not Amazon's."""
    if server.options:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.options["s3"]["endpoint_url"])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset does not close its files
@pytest.mark.parametrize("run_url", slow_except(["local", "s3"], "local"), indirect=True)
@pytest.mark.parametrize(("block", "packing"), READING, ids=[str(block) for block, _ in READING])
def test_a_block_that_reads_a_run_works_as_it_stands(
    block: Block,
    packing: str,
    run_url: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, _ = finished_run(tmp_path / "made", PROMPTS, shard_size=20, packing=packing)
    reach(run_url, monkeypatch)
    store = Store(f"{run_url.url}/night")
    for path in made.list():
        assert store.create(path, made.read(path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = execute(block, store.url, monkeypatch)
    gc.collect()  # so that no later test is blamed for those files
    if "packs" in names:
        assert names["packs"]["train"]["prompt"][:] == PROMPTS
        assert names["packs"]["train"][0]["image"].size == (128, 96)
    else:
        printed = capsys.readouterr().out
        assert all(prompt in printed for prompt in PROMPTS)


@pytest.mark.parametrize("block", RUNNING, ids=str)
def test_a_block_that_runs_a_job_works_as_it_stands(
    block: Block,
    request: pytest.FixtureRequest,
    tiny_model: Path,
    local_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_on_s3 = block is RUNNING[0]
    folder = request.getfixturevalue("bucket") if is_on_s3 else Folder(str(tmp_path / "press"), {})
    reach(folder, monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("cats.csv").write_text("id,prompt\nc1,a cat\nc2,a dog\n")
    Path("prompts.txt").write_text("a cat\na dog\n")  # as `nightpress init` writes it, without ids
    job = {
        "output": folder.url,
        "model": str(tiny_model),
        "sampling": {"num_inference_steps": 1, "width": 32, "height": 32},
        "cluster": {"actors": 1},
        "storage": folder.options,
    }
    for name, manifest in (("job.yaml", "prompts.txt"), ("cats.yaml", "cats.csv")):
        Path(name).write_text(yaml.safe_dump(job | {"manifest": str(tmp_path / manifest)}))
    names = execute(block, "", monkeypatch)
    assert names["result"].num_ok == 2
    assert names["press"].url == names["result"].url

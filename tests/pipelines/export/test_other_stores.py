"""Exports in stores that ignore conditions of writes."""

from pathlib import Path

import pytest
from support import made_runs
from support.exports import SPLIT, files_of, finished_run, spec_of, written
from support.servers import Server
from support.slow_cases import slow_except

from nightpress.pipelines.run_directory.commit import amend_commit
from nightpress.pipelines.storage import Store


@pytest.mark.parametrize("layout", slow_except(["imagefolder", "diffusiondb"], "diffusiondb"))
def test_a_store_without_conditional_writes_holds_the_same_export(
    rclone_s3: Server, tmp_path: Path, layout: str
) -> None:
    run = finished_run(tmp_path / "press")
    split = None if layout == "diffusiondb" else SPLIT
    spec = spec_of(tmp_path, run.url, layout=layout, split=split)
    folder = rclone_s3.folder()
    store = Store(f"{folder.url}/set", folder.options).reading_back()
    assert written(spec, store).num_images == written(spec).num_images
    amend_commit(run.store, 1, {1: made_runs.made(run, 5)})
    store.put("data/half-written", b"")
    written(spec, store)
    written(spec)
    here = files_of(spec.url)
    assert set(store.list()) == set(here)
    for path in here.keys() - {"export.json", "summary.json", "croissant.json"}:  # with times
        assert store.read(path) == here[path], path

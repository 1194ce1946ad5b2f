"""Walks: clips of the built-in model from row to row, as a run with every guarantee."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightpress import jobs
from nightpress.jobs.runs.walk import WalkOptions, walk, walking_job
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ManifestError, SpecError
from nightpress.pipelines.image_files.clips import mp4
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.job.spec import RunSpec

JOB: dict[str, Any] = {
    "name": "cats",
    "sampling": {"num_inference_steps": 2},
    "batch": {"size": 2},
    "cluster": {"actors": 1},
    "seed": 4,
}


THREE = "prompt\na cat\na red fox face\na sun\n"


def job_of(folder: Path, rows: str = THREE, **values: Any) -> RunSpec:
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "rows.csv"
    manifest.write_text(rows)
    fixed = {"manifest": str(manifest), "output": str(folder / "runs")}
    return RunSpec.from_dict({**JOB, **fixed, **values})


def test_the_job_of_a_walk_is_a_job_of_clips_of_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job_of(tmp_path, images={"format": "jpeg", "quality": 80, "file_name": "{id}.v1.jpg"})
    made = walking_job(spec, WalkOptions(fps=12))
    assert made.name == "cats-walk"
    assert (made.images.format, made.images.quality) == ("mp4", None)
    assert made.images.template == "{id}.v1.mp4"
    assert (made.images.fps, made.sampling.num_frames) == (12, 24)
    monkeypatch.setattr(mp4, "find_spec", lambda name: None)
    assert walking_job(spec, WalkOptions()).images.format == "webp"
    kept = job_of(tmp_path, images={"format": "webp", "fps": 10}, sampling={"num_frames": 7})
    made = walking_job(kept, WalkOptions())
    assert (made.images.format, made.images.fps, made.sampling.num_frames) == ("webp", 10, 7)


@pytest.mark.parametrize("seed", [-1, 2**53])
def test_a_seed_that_is_none_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(SpecError, match=r"--to-seed: .* is not between 0"):
        walk(job_of(tmp_path), options=WalkOptions(to_seed=seed))


def test_a_seed_beside_rows_that_say_where_they_walk_is_refused(tmp_path: Path) -> None:
    spec = job_of(tmp_path, "prompt,to_prompt\na cat,a dog\n")
    with pytest.raises(SpecError, match="rows walk to, by to_prompt; leave out one of the two"):
        walk(spec, options=WalkOptions(to_seed=1))
    assert not (tmp_path / "runs").exists()


def test_a_mistake_in_a_row_is_told_with_the_file_of_the_job(tmp_path: Path) -> None:
    spec = job_of(tmp_path, "prompt,width\na cat,7\na dog,128\n")
    with pytest.raises(ManifestError, match=r"rows\.csv, line 2, column width"):
        walk(spec)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_walk_passes_through_the_images_of_its_job(tmp_path: Path) -> None:
    spec, said = job_of(tmp_path), list[str]()
    options = WalkOptions(num_frames=5, format="webp")
    result = walk(spec, lambda event: said.append(str(getattr(event, "text", ""))), options)
    assert (result.num_images, result.num_ok) == (2, 2)
    assert result.url.endswith("/cats-walk")
    assert "walk: 2 clips of 5 frames, as webp" in said[0]
    jobs.run(spec)
    stills = open_run(spec.url)
    clips = open_run(result.url)
    for number in range(2):
        row = clips.row(f"0000000{number}_00")
        assert row is not None
        frames = np.stack(list(frames_in(clips.store.read(row["file"]))))
        assert len(frames) == row["num_frames"] == 5
        for place, still in ((0, number), (-1, number + 1)):
            image = np.asarray(stills.image(f"0000000{still}_00"))
            assert np.array_equal(frames[place], image)
        assert len({frame.tobytes() for frame in frames}) == 5
    assert walk(spec, options=options).num_made == 0
    again = jobs.reproduce(clips, "00000001_00")
    assert (again.comparison.same_file, again.comparison.same_frames) == (True, True)


RUN = """
import sys
from nightpress.jobs.cli import command
sys.argv = ["nightpress", *sys.argv[1:]]
command()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_walk_killed_in_the_middle_of_a_clip_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    rows = "prompt\n" + "".join(f"a picture of the number {n}\n" for n in range(5))
    for name in ("killed", "whole"):
        spec = job_of(tmp_path / name, rows, images={"keep": ["first_frame"]})
        (tmp_path / f"{name}.yaml").write_text(json.dumps(spec.as_dict()))
    command = [sys.executable, "-c", RUN, "walk", "{}", "--num-frames", "16"]
    killed = [part.format(tmp_path / "killed.yaml") for part in command]
    images = tmp_path / "killed/runs/cats-walk/images"
    process = subprocess.Popen(killed, start_new_session=True, cwd=tmp_path)
    end = time.monotonic() + 500
    while not any(images.glob("*.mp4")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stored = len(list(images.glob("*.mp4")))
    assert 1 <= stored < 4, stored
    for name in ("killed", "whole"):
        line = [part.format(tmp_path / f"{name}.yaml") for part in command]
        subprocess.run(line, check=True, cwd=tmp_path)
    roots = [tmp_path / name / "runs/cats-walk/images" for name in ("killed", "whole")]
    names = sorted(path.name for path in roots[1].iterdir())
    assert len(names) == 8
    assert names == sorted(path.name for path in roots[0].iterdir())
    for name in names:
        assert (roots[0] / name).read_bytes() == (roots[1] / name).read_bytes()

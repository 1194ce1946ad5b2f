"""`nightpress score`: late scores by actors, on the command line and from Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support.run_files import PROMPTS, files_of, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.jobs.errors import ClusterError, UntrustedRun
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ScorerError, SpecError
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")

MOOD = """
class Mood:
    def score(self, image):
        return int(str(image.columns["mood"]).removeprefix("mood "))
"""


@pytest.fixture
def mood(tmp_path: Path) -> dict[str, Any]:
    """A scorer that reads the number of an image from its row."""
    (tmp_path / "mood.py").write_text(MOOD)
    return {"mood": {"scorer": f"{tmp_path}/mood.py:Mood"}}


def test_a_finished_run_is_scored_and_its_files_are_left_alone(
    finished: MakeSpec, mood: dict[str, Any]
) -> None:
    spec = finished()
    before = files_of(spec)
    result = jobs.score(spec.url, scores=mood)
    assert (result.num_images, result.num_scored) == (PROMPTS, PROMPTS)
    assert (result.num_missing, result.is_complete) == (0, True)
    after = files_of(spec)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("scores/") for name in set(after) - set(before))
    rows = open_run(spec.url).metadata.to_table(columns=["id", "scores"]).to_pylist()
    assert [dict(row["scores"])["mood"] for row in rows] == [int(row["id"]) for row in rows]
    again = jobs.score(spec.url, scores=mood)
    assert (again.num_scored, again.is_complete) == (0, True)
    assert files_of(spec) == after


def test_a_name_stands_for_one_scorer_and_texts_name_columns_that_are_there(
    finished: MakeSpec, mood: dict[str, Any], tmp_path: Path
) -> None:
    spec = finished()
    jobs.score(spec.url, scores=mood)
    (tmp_path / "mood.py").write_text(MOOD + "# another\n")
    with pytest.raises(SpecError, match=r"scores\.mood: .*give this one another name"):
        jobs.score(spec.url, scores=mood)
    text = {"text": {"scorer": "ocr", "expect": "{moood}"}}
    with pytest.raises(ScorerError, match=r"scores\.text\.expect: there is no column 'moood'"):
        jobs.score(spec.url, scores=text)


def test_a_scorer_that_could_not_be_loaded_leaves_its_name_free(
    finished: MakeSpec, mood: dict[str, Any], tmp_path: Path
) -> None:
    spec = finished()
    (tmp_path / "mood.py").write_text(MOOD + "\n    def __init__(self):\n        raise OSError\n")
    with pytest.raises((ClusterError, ScorerError)):
        jobs.score(spec.url, scores=mood)
    assert not [name for name in files_of(spec) if name.startswith("scores/")]
    (tmp_path / "mood.py").write_text(MOOD)
    assert jobs.score(spec.url, scores=mood).is_complete


def test_the_command_takes_a_file_and_says_what_it_did(
    finished: MakeSpec, mood: dict[str, Any], tmp_path: Path
) -> None:
    spec = finished()
    (tmp_path / "mood.py").write_text(MOOD.replace("return", "return 7 // "))  # fails on mood 0
    file = tmp_path / "scores.yaml"
    file.write_text("scores: {mood: {scorer: mood.py:Mood}}\n")  # beside the file
    run = CliRunner().invoke
    told = run(command, ["score", spec.url, "--scores", str(file), "--json"])
    values = json.loads(told.stdout)
    assert (told.exit_code, values["exit_code"]) == (3, 3)
    assert (values["num_scored"], values["num_missing"]) == (PROMPTS, 1)
    assert "scores.mood: 1 image without a score" in told.stderr
    shown = run(command, ["score", spec.url, "--scores", str(file)])
    assert shown.exit_code == 3
    assert f"0 of {PROMPTS} images scored now by mood" in shown.stdout
    wrong = run(command, ["score", spec.url, "--set", "seed=7"])
    assert wrong.exit_code == 2
    assert "--set seed: only keys of scores can be set here" in wrong.stderr
    empty = tmp_path / "empty.yaml"
    empty.write_text(yaml.safe_dump({"name": "x"}))
    assert "scores: missing" in run(command, ["score", spec.url, "--scores", str(empty)]).stderr


def test_a_run_does_not_have_its_own_python_file_run(
    make_spec: MakeSpec, mood: dict[str, Any]
) -> None:
    spec = make_spec(scores=mood)
    jobs.run(spec)
    with pytest.raises(UntrustedRun, match=r"mood\.py, a Python file that scores images"):
        jobs.score(spec.url)
    result = jobs.score(spec)  # the job names it
    assert (result.scorers, result.num_scored) == (("mood",), 0)
    assert jobs.score(spec.url, allow_pickle=True).num_missing == 0
    assert "mood" in dict(read_metadata(spec)["scores"][0].as_py())


def test_an_actor_that_is_lost_is_replaced(finished: MakeSpec, tmp_path: Path) -> None:
    spec = finished()
    marker = tmp_path / "once"
    (tmp_path / "deadly.py").write_text(
        f"""
import os, pathlib, signal

class Deadly:
    def score(self, image):
        if image.columns["mood"] == "mood 9" and not pathlib.Path({str(marker)!r}).exists():
            pathlib.Path({str(marker)!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0
"""
    )
    scores = {"deadly": {"scorer": f"{tmp_path}/deadly.py:Deadly"}}
    result = jobs.score(spec.url, scores=scores)
    assert marker.exists()
    assert (result.num_missing, result.is_complete) == (0, True)
    rows = open_run(spec.url).metadata.to_table(columns=["scores"]).to_pylist()
    assert {dict(row["scores"])["deadly"] for row in rows} == {1.0}

"""`nightpress select`, as a person and a program see it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.scored_runs import Scored, begin, made, part

from nightpress import Selection, open_run, select
from nightpress.jobs.cli import command
from nightpress.pipelines import Run
from nightpress.pipelines.run_directory.commit import commit_shard
from nightpress.pipelines.run_directory.embeddings import write_embeddings

IMAGES = [
    Scored("cat", 0, {"clip": 0.3}),
    Scored("cat", 1, {"clip": 0.5}),
    Scored("dog", 0, {}, category="b"),
    Scored("dog", 1, {"clip": 0.1}, category="b"),
    Scored("bus", 0, failed=True),
]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["select", *arguments])


def printed(*arguments: str) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    values: dict[str, Any] = json.loads(result.stdout)
    assert values["exit_code"] == result.exit_code
    return values


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(str(tmp_path), IMAGES)


def test_it_says_how_many_were_chosen_and_why_the_others_were_not(run: Run) -> None:
    asked = ("--name", "best", "--by", "clip", "--top", "1", "--per", "id")
    result = invoke(run.url, *asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"best: 2 of 5 images chosen, in {run.url}/selections/best.parquet",
        "not chosen:",
        "  1  failed (bus_00)",
        "  1  no score clip (dog_00)",
        "  1  beyond the first 1 of each id (cat_00)",
        "1 image could not be judged; nightpress score makes scores of images that have none",
    ]
    assert result.stderr == ""
    stored = open_run(run.url).selection("best").images.to_pydict()
    assert (stored["image_id"], stored["rank"]) == (["cat_01", "dog_01"], [1, 2])


def test_json_holds_the_same(run: Run) -> None:
    values = printed(run.url, "--name", "best", "--by", "-clip", "--where", "category = 'a'")
    assert list(values) == [
        *("url", "file", "name", "created_at", "request"),
        *("num_images", "num_committed", "num_chosen", "drops", "duplicates", "exit_code", "error"),
    ]
    assert values["request"] == {"where": "category = 'a'", "by": "-clip"}
    assert (values["num_images"], values["num_committed"], values["num_chosen"]) == (5, 5, 2)
    assert values["drops"] == [
        {"reason": "failed", "num_images": 1, "examples": ["bus_00"]},
        {"reason": "condition not met", "num_images": 2, "examples": ["dog_00", "dog_01"]},
    ]


def test_the_function_returns_what_the_run_then_has(run: Run) -> None:
    selection = select(run.url, "best", by="clip", balance="category")
    assert isinstance(selection, Selection)
    assert selection == open_run(run.url).selection("best")
    assert selection.num_chosen == 2


def test_it_changes_nothing_else_in_the_run(run: Run) -> None:
    before = {path: path.read_bytes() for path in Path(run.url).rglob("*") if path.is_file()}
    assert invoke(run.url, "--name", "best").exit_code == 0
    after = {path: path.read_bytes() for path in Path(run.url).rglob("*") if path.is_file()}
    assert set(after) - set(before) == {Path(run.url, "selections", "best.parquet")}
    assert {path: after[path] for path in before} == before


def test_an_unfinished_run_is_said_to_be_one(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 9)
    commit_shard(run.store, 0, part(IMAGES[:4]))
    result = invoke(run.url, "--name", "best")
    assert "the run is not finished: 5 images not committed yet" in result.stdout


def test_packed_runs_and_job_files_are_chosen_from_alike(run: Run, tmp_path: Path) -> None:
    job = tmp_path / "run.yaml"
    job.write_text(f"manifest: prompts.txt\noutput: {tmp_path}\n")
    assert invoke(str(job), "--name", "best").exit_code == 0
    assert run.selections == ("best",)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--name", "best", "--top", "2"), "top: name the score that ranks the images"),
        (("--name", "a/b"), "name: 'a/b' cannot be the name of a selection"),
        (("--name", "best", "--by", "clop"), "did you mean 'clip'?"),
        (("--name", "best", "--where", "mood > 3"), "there is no column 'mood'"),
        (("--name", "best", "--where", "status ="), "expected a number, a text"),
        (("--name", "best", "--dedup", "some"), "'some' is not one of"),
        (("--name", "best", "--top", "0"), "0 is not in the range"),
        (("--name", "best", "--dedup", "embeddings"), "--set scores.look.scorer=embedding --set"),
        (("--name", "best", "--similarity", "0.9"), "similarity: only dedup: embeddings compares"),
        (("--name", "best", "--dedup", "embeddings", "--similarity", "7"), "7.0 is not a cosine"),
        ((), "Missing option '--name'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    run: Run, arguments: tuple[str, ...], complaint: str
) -> None:
    result = invoke(run.url, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.output
    assert run.selections == ()


def test_a_second_selection_of_the_same_name_is_refused(run: Run) -> None:
    assert invoke(run.url, "--name", "best").exit_code == 0
    assert invoke(run.url, "--name", "best").exit_code == 0  # the same choice
    result = invoke(run.url, "--name", "best", "--by", "clip")
    assert result.exit_code == 2
    assert "a selection is never changed: choose another name" in result.stderr


def test_duplicates_by_embeddings_are_listed_in_a_file_that_is_named(run: Run) -> None:
    rows = run.metadata.to_table(columns=["sha256", "status"]).to_pylist()
    vector = np.array([0.6, 0.8], "<f2").tobytes()
    vectors = {row["sha256"]: vector for row in rows if row["status"] == "ok"}
    write_embeddings(run.store, 0, "look", "f" * 64, vectors)
    values = printed(run.url, "--name", "best", "--dedup", "embeddings")
    assert values["request"] == {"dedup": "embeddings", "embeddings": "look", "similarity": 0.95}
    assert values["num_chosen"] == 1
    assert Path(str(values["duplicates"])).is_file()
    text = invoke(run.url, "--name", "best", "--dedup", "embeddings").stdout
    assert f"what each duplicate is one of: {values['duplicates']}" in text
    refused = invoke(run.url, "--name", "other", "--by", "look")
    assert refused.exit_code == 2
    assert "gives the images of" in refused.stderr

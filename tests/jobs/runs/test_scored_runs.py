"""Runs whose images are scored: what is recorded, checked, refused, and said about scorers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support.fakes.fake_runs import finished_run
from support.fakes.fake_scorers import loaded
from support.growing_runs import begin, cats, extend
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.jobs.errors import RunBlocked, UntrustedRun
from nightpress.jobs.progress.events import ActorLost, Event, Message, ShardRetried
from nightpress.pipelines import Run, open_run
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.late_scores import late_parts
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.scoring.measurements import MEASUREMENTS
from nightpress.pipelines.shards.late_scoring import LateScorer

MakeSpec = Callable[..., RunSpec]

BRAND = """
class Brand:
    labels = ("red", "mood")

    def __init__(self, number=3):
        self.unlucky = number

    def score(self, image):
        mood = int(image.columns["mood"].removeprefix("mood "))
        if mood == self.unlucky:
            raise RuntimeError("no logo")
        return {"red": image.pixels[..., 0].mean(), "mood": mood}
"""


SLOW = """
import time

class Slow:
    def score(self, image):
        time.sleep(6 if int(image.columns["mood"].removeprefix("mood ")) < 4 else 0)
        return 1.0
"""


@pytest.fixture
def scored(make_spec: MakeSpec, tmp_path: Path) -> RunSpec:
    """A job with a scorer of its author, which fails on one image."""
    file = tmp_path / "brand.py"
    file.write_text(BRAND)
    return make_spec(scores={"brand": {"scorer": f"{file}:Brand", "args": {"number": 5}}})


@pytest.mark.usefixtures("local_ray")
def test_scores_are_in_the_metadata_and_their_scorers_in_the_identity_of_the_run(
    scored: RunSpec, make_spec: MakeSpec, tmp_path: Path
) -> None:
    events: list[Event] = []
    result = jobs.run(scored, events.append)
    assert (result.num_ok, result.num_failed) == (PROMPTS, 0)
    rows = read_metadata(scored).to_pylist(maps_as_pydicts="strict")
    for row in rows:
        number = int(row["id"])
        failed = number == 5
        assert row["scores"]["brand.mood"] == (None if failed else number)
        assert (row["scores"]["brand.red"] is None) == failed
        assert row["scores"]["sharpness"] > 0
    said = [each.text for each in events if isinstance(each, Message) and "scores" in each.text]
    assert [text.split(":")[0] for text in said] == ["scores.brand"] * 2
    assert "no score of an image, which stays" in said[0]
    assert "1 image without a score, the first because" in said[1]
    assert "RuntimeError: no logo" in said[1]
    told = {each.name: each for each in result.scores}
    assert (told["brand.red"].num_images, told["brand.red"].num_missing) == (PROMPTS - 1, 1)
    assert told["brand.mood"].median == 10.5
    assert all(row["scoring_s"] > 0 for row in rows)
    assert "for sampling and scoring alone" in planned_lines(tmp_path, scored)
    args = scored.scores["brand"].model_copy(update={"args": {"number": 6}})
    other = scored.model_copy(update={"name": "other", "scores": {"brand": args}})
    assert "for sampling alone; no run here has measured these" in planned_lines(tmp_path, other)
    record = json.loads(Path(scored.url, "run.json").read_text())
    assert list(record["scorers"]) == ["brand"]
    plain = make_spec(name="plain")
    jobs.run(plain)
    assert hashes(plain) == hashes(scored)  # no score is in an image
    assert open_run(plain.url).record.fingerprint != open_run(scored.url).record.fingerprint
    refuse_another_scorer(scored)


def planned_lines(folder: Path, spec: RunSpec) -> str:
    job = folder / "planned.yaml"
    job.write_text(yaml.safe_dump(spec.as_dict()))
    told = CliRunner().invoke(command, ["plan", str(job)])
    assert told.exit_code == 0, told.output
    return told.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_actor_whose_scorer_is_slower_than_the_watchdog_is_not_taken_for_hung(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    file = tmp_path / "slow.py"
    file.write_text(SLOW)
    spec = make_spec(
        scores={"slow": {"scorer": f"{file}:Slow"}},
        batch={"size": 4, "shard_size": 4},
        cluster={"actors": 1, "watchdog_s": 20},
    )
    events: list[Event] = []
    result = jobs.run(spec, events.append)  # the first batch takes 24 s to score
    assert (result.num_ok, result.num_failed) == (PROMPTS, 0)
    assert not [each for each in events if isinstance(each, ActorLost | ShardRetried)]


def refuse_another_scorer(spec: RunSpec) -> None:
    """With another file a run is not resumed, and what is missing is not made."""
    Path(spec.url, "metadata/shard-00001.parquet").unlink()
    file = Path(spec.scores["brand"].scorer.partition(":")[0])
    file.write_text(BRAND.replace("mean()", "max()"))
    with pytest.raises(RunBlocked, match=r"scores\.brand: fingerprint: '[0-9a-f]+' -> "):
        jobs.run(spec)
    changes = jobs.plan(spec).run_state.changes
    assert [change.field for change in changes] == ["scores.brand: fingerprint"]
    with pytest.raises(UntrustedRun, match=r"run\.json names .*brand\.py, a Python file"):
        jobs.retry(spec.url)
    file.write_text(BRAND)
    assert jobs.run(spec).num_made == 0  # the images are found, and scored again
    metadata = read_metadata(spec).to_pylist(maps_as_pydicts="strict")
    assert all("brand.red" in row["scores"] for row in metadata)


def test_a_plan_names_the_scorers_and_needs_no_cluster(scored: RunSpec) -> None:
    planned = jobs.plan(scored)
    assert planned.scorers["brand"].labels == ("red", "mood")


def test_a_plan_refuses_a_text_over_a_column_that_is_not_there(make_spec: MakeSpec) -> None:
    spec = make_spec(scores={"text": {"scorer": "ocr", "expect": "{moood}"}})
    with pytest.raises(
        ScorerError, match=r"scores\.text\.expect: there is no column 'moood'.*mood"
    ):
        jobs.plan(spec)


def test_a_python_file_lies_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "brand.py").write_text(BRAND)
    (tmp_path / "rows.txt").write_text("a\n")
    job = tmp_path / "job.yaml"
    job.write_text("manifest: rows.txt\noutput: out\nscores: {b: {scorer: brand.py:Brand}}\n")
    spec = RunSpec.from_file(job)
    assert spec.scores["b"].scorer == f"{tmp_path}/brand.py:Brand"
    moved = RunSpec.from_dict(spec.as_dict() | {"scores": {"b": {"scorer": "x/brand.py:Brand"}}})
    assert spec.changes(moved) == []


def test_a_job_without_scores_has_the_identity_that_it_had(make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert "scores" not in spec.identity()
    assert "scores" in make_spec(scores={"nsfw": {"scorer": "nsfw"}}).identity()


def test_status_names_the_scorers_of_a_run(tmp_path: Path) -> None:
    store, record = finished_run(tmp_path, ["a"])
    store.put(RUN_FILE, replace(record, scorers={"clip": "ab" * 32}).to_json())
    told = CliRunner().invoke(command, ["status", store.url])
    assert "scorers  clip abababababab\n" in told.stdout
    *_, clip, advice = told.stdout.splitlines()
    assert clip.split(maxsplit=1) == ["clip", "1 image without it"]
    assert advice == f"  nightpress score {store.url} makes scores that are missing"
    values = json.loads(CliRunner().invoke(command, ["status", store.url, "--json"]).stdout)
    assert values["scorers"] == {"clip": "ab" * 32}
    missing = {each["name"]: each["num_missing"] for each in values["scores"]["scores"]}
    assert missing == dict.fromkeys(MEASUREMENTS, 0) | {"clip": 1}


def test_status_is_told_of_a_run_whose_scores_cannot_be_read(tmp_path: Path) -> None:
    store, record = finished_run(tmp_path, ["a"])
    LateScorer(Run(store, record), {"mood": loaded(lambda image: {"": 0.5})}).score(0)
    (part,) = late_parts(store)
    store.put(part.path, b"PAR1")
    told = CliRunner().invoke(command, ["status", store.url])
    assert told.exit_code == 0
    assert f"scores: unknown: {store.url}/{part.path} is damaged" in told.stdout


def test_a_manifest_does_not_grow_without_the_columns_that_scorers_read(tmp_path: Path) -> None:
    scores = {"text": {"scorer": "ocr", "expect": "{mood}"}}
    spec = begin(tmp_path, cats(1, 2, mood="calm"), scores=scores)
    assert extend(spec, cats(1, 2, 3, mood="calm")).layout.num_images == 3
    with pytest.raises(ScorerError, match=r"scores\.text\.expect: there is no column 'mood'"):
        extend(spec, cats(1, 2, 3, 4), changed="new-variant")

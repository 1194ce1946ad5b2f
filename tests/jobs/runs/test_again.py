"""Other variants of chosen images: what is made, recorded, refused and resumed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.fakes.fake_runs import FakeSampler
from support.growing_runs import begin, cats, extend, grow
from support.marked_runs import say
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.jobs.errors import RunStopped, UnfinishedRun
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs.again import _chosen, _is_unfinished, add_again
from nightpress.jobs.runs.again_request import AgainRequest, settings_of
from nightpress.jobs.runs.marked_images import MarkChoice
from nightpress.pipelines import Run
from nightpress.pipelines.errors import LeaseLost, SpecError
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import read_shard, rewrite_plan_part, write_plan
from nightpress.pipelines.reporting.editions import edition_line
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.lease import acquire, current_process, held, require_free
from nightpress.pipelines.run_directory.reader import open_run
from nightpress.pipelines.run_directory.record import RunRecord, require_record
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]


def request(*ids: str, where: str | None = None, number: int = 1, **settings: Any) -> AgainRequest:
    return AgainRequest.of(ids or None, where, number, settings)


def ask(spec: RunSpec, wanted: AgainRequest) -> RunRecord:
    """Add the edition of a request and plan it, as `again` does; nothing is made."""
    run = open_run(spec.url)
    chosen = _chosen(run, run.spec, wanted)
    with held(run.store, require_free(run.store)) as lease:
        record = add_again(run.store, run.record, wanted, chosen, lease)
    list(write_plan(record.spec, record.model, record.layout, run.store))
    return record


def make(spec: RunSpec, *shards: int) -> Run:
    """Make some shards that are not committed yet, or all of them, without a model."""
    store = Store(spec.url)
    record = require_record(store)
    runner = ShardRunner(store, record, FakeSampler(), "here:1")  # type: ignore[arg-type]
    for shard in shards or range(record.layout.num_shards):
        if shard not in committed_shards(store):
            rows = read_shard(store, record.layout, shard)
            for _ in runner.run(ShardWork(shard, start=0, stop=len(rows)), rows):
                pass
    runner.close()
    return Run(store, record)


def metadata(run: Run) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in run.metadata.to_table().to_pylist()}


def test_other_variants_are_made_of_what_reviewers_rejected(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, 3, mood="calm"))
    run = make(spec)
    say(run, "anna", ("r1_00", "flag", "reject"), ("r2_00", "flag", "reject"))
    say(run, "ben", ("r1_00", "flag", "pick"), ("r3_00", "flag", "pick"))
    wanted = AgainRequest.of(None, None, 2, {}, MarkChoice("reject"))
    record = ask(spec, wanted)
    assert record.editions[-1].again == {
        "ids": None,
        "where": None,
        "num_images": 2,
        "settings": {},
        "marks": {"flag": "reject", "policy": "any"},
    }
    assert _is_unfinished(open_run(spec.url), wanted)
    parents = {name: row["parent"] for name, row in metadata(make(spec)).items()}
    assert {name: parent for name, parent in parents.items() if parent is not None} == {
        "r2_01": "r2_00",
        "r2_02": "r2_00",
    }
    assert not _is_unfinished(open_run(spec.url), wanted)
    by_both = AgainRequest.of(None, "id = 'r1'", 1, {}, MarkChoice("pick"))
    run = open_run(spec.url)
    assert _chosen(run, run.spec, by_both).image_ids.to_pylist() == ["r1_01"]
    none = AgainRequest.of(None, "id = 'r2'", 1, {}, MarkChoice("pick"))
    with pytest.raises(SpecError, match="no image that is picked"):
        _chosen(run, run.spec, none)


def test_a_row_with_a_pick_of_a_later_round_is_not_made_again(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, 3, mood="calm"))
    run = make(spec)
    say(run, "anna", ("r1_00", "flag", "reject"), ("r2_00", "flag", "reject"))
    wanted = AgainRequest.of(None, None, 2, {}, MarkChoice("reject"))
    ask(spec, wanted)
    run = make(spec)
    say(run, "anna", ("r1_01", "flag", "pick"), ("r1_02", "flag", "reject"), n=1)
    said: list[Event] = []
    chosen = _chosen(run, run.spec, wanted, said.append)
    assert chosen.image_ids.to_pylist() == ["r2_03", "r2_04"]
    assert [each.text for each in said if isinstance(each, Message)] == [
        "1 row left out, as an image of a later round is picked: r1 (r1_01); --ids makes more of "
        "them"
    ]
    by_lead = AgainRequest.of(None, None, 1, {}, MarkChoice("reject", policy="lead", lead="ben"))
    say(run, "ben", ("r1_00", "flag", "reject"))
    assert _chosen(run, run.spec, by_lead).image_ids.to_pylist() == ["r1_03"], "ben picked none"
    say(run, "anna", ("r2_01", "flag", "pick"), n=2)
    with pytest.raises(SpecError, match="nothing is left to make again: 2 rows left out"):
        _chosen(run, run.spec, wanted)
    assert _chosen(run, run.spec, request("r1")).image_ids.to_pylist() == ["r1_03"]


def test_a_pick_of_the_same_round_does_not_stand_for_what_was_rejected(tmp_path: Path) -> None:
    spec = begin(tmp_path, [{**row, "num_images": 2} for row in cats(1, 2, mood="calm")])
    run = make(spec)
    say(run, "anna", ("r1_00", "flag", "pick"), ("r1_01", "flag", "reject"))
    wanted = AgainRequest.of(None, None, 1, {}, MarkChoice("reject"))
    assert _chosen(run, run.spec, wanted).image_ids.to_pylist() == ["r1_02"]


def test_an_image_that_was_made_again_since_it_was_rejected_is_said(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, mood="calm"))
    run = make(spec)
    say(run, "anna", ("r1_00", "flag", "reject"))
    say(run, "anna", ("r2_00", "flag", "reject"), n=1, sha256="e" * 64)
    said: list[Event] = []
    chosen = _chosen(
        run, run.spec, AgainRequest.of(None, None, 1, {}, MarkChoice("reject")), said.append
    )
    assert chosen.image_ids.to_pylist() == ["r1_01"]
    assert "1 image made again since" in str(said[0])


def test_the_new_images_are_recorded_beside_the_old_with_their_parents(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, mood="calm"))
    before = metadata(make(spec))
    Path(str(spec.manifests[0])).unlink()
    ask(spec, request("r2", number=2, guidance_scale=6))
    run = make(spec)
    after = metadata(run)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["r2_01", "r2_02"]
    for name in ("r2_01", "r2_02"):
        row = after[name]
        assert (row["parent"], row["guidance_scale"], row["mood"]) == ("r2_00", 6.0, "calm")
        facts = read_facts(run.store.read(row["file"]))
        assert facts is not None
        assert (facts.parent, facts.variant, facts.seed) == ("r2_00", row["variant"], row["seed"])
    assert {row["parent"] for row in before.values()} == {None}
    data = run.store.read(before["r1_00"]["file"])
    assert b"parent" not in data
    assert [finding for shard in verify(run) for finding in shard.findings] == []


def test_images_are_chosen_by_a_condition_on_their_metadata(tmp_path: Path) -> None:
    rows = [row | {"priority": n} for n, row in enumerate(cats(1, 2, 3))]
    spec = begin(tmp_path, rows)
    make(spec)
    ask(spec, request(where="status = 'ok' and priority >= 1"))
    assert set(metadata(make(spec))) == {"r1_00", "r2_00", "r3_00", "r2_01", "r3_01"}
    with pytest.raises(SpecError, match=r"no image of .* meets the condition priority > 7"):
        ask(spec, request(where="priority > 7"))
    with pytest.raises(SpecError, match="there is no column 'prority'; did you mean 'priority'"):
        ask(spec, request(where="prority > 7"))


def test_what_was_made_again_can_be_made_again(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    ask(spec, request("r1"))
    ask(spec, request("r1_01", num_inference_steps=3))
    record = ask(spec, request("r1"))
    rows = metadata(make(spec))
    parents = {name: row["parent"] for name, row in rows.items()}
    assert parents == {"r1_00": None, "r1_01": "r1_00", "r1_02": "r1_01", "r1_03": "r1_00"}
    assert [rows[f"r1_0{n}"]["num_inference_steps"] for n in range(4)] == [20, 20, 3, 20]
    assert len({row["seed"] for row in rows.values()}) == 4
    assert edition_line(record.editions[1]).endswith("1 other variant of images of the run")


def test_a_damaged_part_of_the_plan_is_written_again_from_the_edition(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    record, store = ask(spec, request("r1")), Store(spec.url)
    path = record.layout.parts[-1].path
    whole = store.read(path)
    store.put(path, b"cut")
    rewrite_plan_part(record.spec, record.model, record.layout, store, record.layout.num_shards - 1)
    assert store.read(path) == whole


def test_a_manifest_grows_as_if_nothing_had_been_made_again(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    ask(spec, request("r1", "r2", number=2))
    same = grow(spec, cats(1, 2))
    assert same.summary.is_empty
    record = extend(spec, [*cats(1), *cats(2, num_images=2), *cats(3)])
    summary = record.editions[-1].summary
    assert (summary.came.first, summary.went.number) == (("r2_01", "r3_00"), 0)
    rows = metadata(make(spec))
    assert sorted(rows) == [
        *("r1_00", "r1_01", "r1_02"),
        *("r2_00", "r2_01", "r2_02", "r2_03"),
        "r3_00",
    ]
    assert (rows["r2_01"]["parent"], rows["r2_03"]["parent"]) == ("r2_00", None)
    assert grow(spec, [*cats(1), *cats(2, num_images=2), *cats(3)]).summary.is_empty
    gone = extend(spec, cats(1))
    assert gone.num_gone == 3
    assert ask(spec, request("r1")).num_gone == 3


def test_the_same_request_finishes_what_was_begun_and_another_adds(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2), batch={"size": 1, "shard_size": 1})
    wanted = request("r1", "r2", guidance_scale=3)
    assert not _is_unfinished(open_run(spec.url), wanted)
    ask(spec, wanted)
    make(spec, 0, 1, 2)
    assert _is_unfinished(open_run(spec.url), wanted)
    for other in (request("r1", "r2"), request("r1", guidance_scale=3), request(where="id = 'r1'")):
        assert not _is_unfinished(open_run(spec.url), other)
    make(spec)
    assert not _is_unfinished(open_run(spec.url), wanted)


def test_of_two_that_extend_a_run_at_once_one_says_so(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    run = open_run(spec.url)
    wanted = request("r1")
    chosen = _chosen(run, run.spec, wanted)
    ask(spec, request("r2"))
    with (
        held(run.store, require_free(run.store)) as lease,
        pytest.raises(RunStopped, match="another process has extended this run"),
    ):
        add_again(run.store, run.record, wanted, chosen, lease)


def test_nothing_is_added_without_the_lease(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    run = open_run(spec.url)
    chosen = _chosen(run, run.spec, request("r1"))
    lease = acquire(run.store)
    run.store.put("lease/00009.json", current_process().to_json())
    with pytest.raises(LeaseLost):
        add_again(run.store, run.record, request("r1"), chosen, lease)
    lease.release()
    assert require_record(run.store).editions == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"ids": ["r1"], "where": "id = 'r1'"},
            "choose images by ids alone, or by where and marks",
        ),
        ({}, "choose images by ids, by where or by marks"),
        ({"ids": []}, "ids: no id is given; give ids of images or rows"),
        ({"ids": ["r1", "x", "y"]}, "ids: 2 of 3 are neither images nor rows of .*: x, y"),
        ({"ids": ["r1"], "num_images": 0}, "num_images: 0 is not 1 or more"),
        (
            {"ids": ["r1"], "settings": {"guidence_scale": 3}},
            "'guidence_scale' cannot differ .*; did you mean 'guidance_scale'",
        ),
        ({"ids": ["r1"], "settings": {"prompt": "x"}}, "'prompt' cannot differ .* what can: width"),
        ({"ids": ["r1"], "settings": {"width": [64]}}, r"width: \[64\] is neither a number nor te"),
        ({"ids": ["r1"], "settings": {"width": True}}, "width: True is neither a number nor text"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_and_nothing_is_written(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    spec = begin(tmp_path, cats(1))
    before = Store(spec.url).list("")
    with pytest.raises(SpecError, match=said) as caught:
        jobs.again(spec.url, **arguments)
    assert "\n" not in str(caught.value)
    assert Store(spec.url).list("") == before


def test_settings_are_given_as_in_a_job_file_or_without_their_section() -> None:
    given = settings_of(["sampling.guidance_scale=6", "scheduler=ddim"])
    assert given == {"guidance_scale": 6, "scheduler": "ddim"}
    with pytest.raises(SpecError, match="width is given twice"):
        settings_of(["sampling.width=64", "width=72"])


def test_a_run_that_is_not_planned_yet_is_said_to_be_unfinished(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    Store(spec.url).delete("plan/part-00000.parquet")
    with pytest.raises(UnfinishedRun, match="its plan is not written whole yet; nightpress run"):
        jobs.again(spec.url, ids=["r1"])


def invoke(*arguments: str, stdin: str = "") -> Any:
    return CliRunner().invoke(command, ["again", *arguments], input=stdin)


def test_the_command_refuses_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    ids = tmp_path / "ids.txt"
    ids.write_text("r1\n\n  nobody \n")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    for arguments, said in (
        (["--ids", str(ids)], f"ids: 1 of 2 are neither images nor rows of {spec.url}: nobody"),
        (["--ids", str(tmp_path / "none.txt")], "none.txt: No such file or directory"),
        (["--ids", str(empty)], f"--ids {empty}: no id in it; one id of an image or row in each"),
        ([], "choose images by --ids, --where, --picked, --rejected or --stars"),
        (["--rejected", "--ids", str(ids)], "choose images by --ids alone, or by --where, --pick"),
        (["--rejected"], "nobody has marked an image of it yet"),
        (["--where", "id = "], "condition: expected a number, a text in single quotes"),
        (["--ids", str(ids), "--set", "seed=3"], "settings: 'seed' cannot differ"),
    ):
        result = invoke(spec.url, *arguments)
        assert result.exit_code == 2, arguments
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    make(spec)
    result = invoke(spec.url, "--where", "scores.sharpnes > 1")
    assert result.exit_code == 2
    assert "has a score 'sharpnes'; did you mean 'sharpness'?" in result.stderr
    as_json = invoke(spec.url, "--ids", "-", "--json", stdin="nobody\n")
    assert json.loads(as_json.stdout)["error"]["type"] == "SpecError"


@pytest.mark.usefixtures("local_ray")
def test_again_makes_other_variants_of_a_finished_run(finished: MakeSpec, tmp_path: Path) -> None:
    spec = finished()
    before = hashes(spec)
    manifest = Path(str(spec.manifest))
    text = manifest.read_text()
    manifest.unlink()
    ids = tmp_path / "ids.txt"
    ids.write_text("00000003\n00000004_00\n")
    arguments = [spec.url, "--ids", str(ids), "-n", "2", "--set", "sampling.guidance_scale=1.5"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert (values["edition"], values["num_parents"], values["num_images"]) == (1, 2, 4)
    assert (values["num_ok"], values["num_failed"], values["num_made"]) == (4, 0, 4)
    assert "4 other variants of 2 images, guidance_scale 1.5: 00000003_01, 00000003_02" in (
        result.stderr
    )
    after = hashes(spec)
    assert {name: after[name] for name in before} == before
    assert len(after) == PROMPTS + 4
    rows = {row["image_id"]: row for row in read_metadata(spec).to_pylist()}
    assert rows["00000004_02"]["parent"] == "00000004_00"
    assert rows["00000004_02"]["mood"] == "mood 4"
    manifest.write_text(text)
    assert jobs.verify(spec).findings == ()
    events: list[Event] = []
    assert jobs.run(spec, events.append).num_made == 0
    Store(spec.url).delete("metadata/shard-00003.parquet")
    told: list[Event] = []
    again = jobs.again(
        spec.url,
        told.append,
        ids=["00000003", "00000004_00"],
        num_images=2,
        settings={"guidance_scale": 1.5},
    )
    assert (again.edition, again.num_images, again.num_ok) == (1, 4, 4)
    said = [event.text for event in told if isinstance(event, Message)]
    assert "finishing edition 1, which an earlier start has begun" in said
    assert hashes(spec) == after

"""Several models on real actors: a change of model, a killed actor, plan, status and preview."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.fakes.odd_actors import FactoryOf, KilledOnceActor
from support.several_models import begin, make, write_job

from nightpress import jobs
from nightpress.jobs.commands.model_lines import model_lines, model_values
from nightpress.jobs.commands.status import describe
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.dispatcher import Dispatcher
from nightpress.jobs.progress.events import ActorLost, Event, Message
from nightpress.jobs.runs.finished import nothing_is_left
from nightpress.jobs.runs.preview import compares_models, preview
from nightpress.jobs.runs.repair_spec import pickled_models
from nightpress.jobs.runs.shared import absolute_models
from nightpress.jobs.runs.status import status
from nightpress.jobs.tuning.options import TuneOptions
from nightpress.pipelines.errors import ChangedRunError, SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run


def spec_in(folder: Path, **values: Any) -> RunSpec:
    folder.mkdir(parents=True, exist_ok=True)
    return RunSpec.from_dict(write_job(folder) | values)


def hashes(run: Run) -> dict[str, str]:
    rows = run.metadata.to_table(columns=["image_id", "status", "sha256"]).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    return {row["image_id"]: row["sha256"] for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_killed_actor_and_two_models_give_the_images_of_one_process(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    store, record = begin(spec)
    how: dict[str, Any] = {"cpus": 1, "gpus": 0, "threads": 1}
    factory = FactoryOf(absolute_models(spec), {}, **how, kinds=[KilledOnceActor])
    config = DispatchConfig(min_actors=1, max_actors=1, max_attempts=3, look_first=False)
    dispatcher = Dispatcher(store, record, factory, config)
    try:
        events: list[Event] = list(dispatcher.run(range(record.layout.num_shards)))
    finally:
        dispatcher.close()
    assert sum(isinstance(event, ActorLost) for event in events) == 1
    changes = [each.text for each in events if isinstance(each, Message) and "now has" in each.text]
    assert len(changes) <= 2
    torch.set_num_threads(1)
    expected = make(*begin(spec.model_copy(update={"name": "expected"})))
    assert hashes(Run(store, record)) == hashes(expected)


@pytest.mark.usefixtures("local_ray")
def test_a_preview_compares_models_with_a_column_each(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    assert compares_models(spec, ["model"])
    assert not compares_models(spec, ["scene"])
    assert not compares_models(spec, None)
    events: list[Event] = []
    sheet = preview(spec, 4, by=["model"], on_event=events.append)
    one_row = preview(spec, 2, by=["model"])
    assert sheet.width == one_row.width
    assert sheet.height > 1.5 * one_row.height


def test_a_finished_run_is_recognised_and_other_weights_are_refused(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    store, record = begin(spec)
    assert not nothing_is_left(spec, store, record)
    run = make(store, record)
    assert nothing_is_left(spec, store, record)
    weights = next((tmp_path / "tiny" / "unet").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ChangedRunError, match=r"models\.tiny: model_fingerprint"):
        nothing_is_left(spec, run.store, record)


def test_a_plan_and_a_status_tell_of_each_model(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    planned = jobs.plan(spec)
    assert [(each.name, each.num_images, each.num_shards) for each in planned.models] == [
        ("drawn", 3, 2),
        ("tiny", 3, 2),
    ]
    lines = model_lines(spec, planned)
    assert lines[0].startswith("models   drawn: builtin ")
    assert lines[0].endswith("3 images in 2 shards, time unknown")
    make(*begin(spec))
    again = jobs.plan(spec)
    assert all(each.estimate is not None for each in again.models)
    assert [each["name"] for each in model_values(again)] == ["drawn", "tiny"]
    found = status(spec.url)
    text = describe(found)  # type: ignore[arg-type]
    assert "models   drawn: builtin " in text
    assert text.count("3 of 3 images done") == 2


def test_a_model_that_no_row_names_is_told(tmp_path: Path) -> None:
    values = write_job(tmp_path)
    values["models"].append({"name": "spare"})
    spec = RunSpec.from_dict(values)
    lines = model_lines(spec, jobs.plan(spec))
    assert any(line.endswith("no images: no row names it") for line in lines)


def test_tune_refuses_several_models(tmp_path: Path) -> None:
    from nightpress.jobs.tuning.tune import prepare

    with pytest.raises(SpecError, match="tune measures one model, and this job has drawn, tiny"):
        prepare(spec_in(tmp_path), TuneOptions())


def test_pickles_are_trusted_model_by_model(tmp_path: Path) -> None:
    values = write_job(tmp_path)
    values["models"][1]["allow_pickle"] = True
    assert pickled_models(RunSpec.from_dict(values)) == {"tiny"}
    assert pickled_models(spec_in(tmp_path)) == frozenset()

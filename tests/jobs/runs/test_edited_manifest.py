"""A manifest that is edited while `run` starts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightpress import jobs
from nightpress.jobs.errors import RunBlocked
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs import runner
from nightpress.pipelines.errors import ChangedRunError, ManifestError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.record import RunRecord, create_record
from nightpress.pipelines.storage import Store


@pytest.fixture
def manifest(tmp_path: Path, make_spec: Callable[..., RunSpec]) -> Path:
    """A copy of the manifest, so that it can be edited."""
    return Path(shutil.copy(str(make_spec().manifest), tmp_path / "mine.jsonl"))


@pytest.mark.usefixtures("local_ray")
def test_an_edit_after_the_check_ends_the_start_before_anything_is_written(
    manifest: Path, make_spec: Callable[..., RunSpec]
) -> None:
    spec = make_spec(manifest=str(manifest), name="early")

    def edit(event: Event) -> None:
        if isinstance(event, Message) and event.text.startswith("reads the columns"):
            manifest.write_text(manifest.read_text().replace("number 3", "number 4"))

    with pytest.raises(ManifestError, match=r"mine\.jsonl: the file has changed") as caught:
        jobs.run(spec, edit)
    assert "\n" not in str(caught.value)
    assert not Path(spec.url).exists()


@pytest.mark.usefixtures("local_ray")
def test_an_edit_before_the_plan_is_written_can_be_undone(
    manifest: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(manifest=str(manifest), name="late")
    old = manifest.read_text()

    def create_and_edit(store: Store, record: RunRecord) -> RunRecord:
        created = create_record(store, record)
        manifest.write_text(old.replace("the number", "the numeral"))
        return created

    with monkeypatch.context() as patch:
        patch.setattr(runner, "create_record", create_and_edit)
        with pytest.raises(RunBlocked, match=r"mine\.jsonl: the file has changed") as caught:
            jobs.run(spec)
    assert "\n" not in str(caught.value)
    with pytest.raises(ChangedRunError, match=r"manifest .*mine\.jsonl"):
        jobs.run(spec)
    manifest.write_text(old)
    moved = spec.model_copy(update={"manifest": str(manifest.rename(manifest.parent / "b.jsonl"))})
    assert jobs.run(moved).num_failed == 0

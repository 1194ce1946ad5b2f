"""Selections on a real store: created once, by the first writer."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.scored_runs import HASH, Scored, begin, part
from support.servers import Folder

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.commit import commit_shard
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.run_directory.selections.selecting import select_images
from nightpress.pipelines.storage import Store

IMAGES = [Scored("a", n, {"clip": n / 10}, HASH if n < 2 else "f" * 64) for n in range(4)]


@pytest.fixture
def run(bucket: Folder, tmp_path_factory: pytest.TempPathFactory) -> Run:
    record = begin(str(tmp_path_factory.mktemp("run")), 4).record
    store = Store(f"{bucket.url}/run", bucket.options)
    store.create(RUN_FILE, record.to_json())
    commit_shard(store, 0, part(IMAGES))
    return open_run(store.url, bucket.options)


def test_a_selection_is_written_and_read_on_s3(run: Run) -> None:
    made = select_images(run, "best", SelectionRequest.of(by="clip", dedup="near"))
    assert made.images.column("image_id").to_pylist() == ["a_03", "a_01"]
    assert run.selection("best") == made
    assert run.selections == ("best",)


def test_of_many_that_choose_at_once_one_is_kept_and_the_others_are_told(run: Run) -> None:
    requests = [SelectionRequest.of(by="clip", top=n % 4 + 1) for n in range(8)]

    def choose(request: SelectionRequest) -> object:
        try:
            return select_images(run, "best", request)
        except SpecError as error:
            return str(error)

    with ThreadPoolExecutor(len(requests)) as pool:
        ends = list(pool.map(choose, requests))
    stored = run.selection("best")
    kept = [end for end in ends if not isinstance(end, str)]
    assert kept == [stored, stored]  # two asked for the same
    assert all("was asked for something else" in end for end in ends if isinstance(end, str))

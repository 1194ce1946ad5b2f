"""Images of earlier runs that a manifest names."""

from pathlib import Path

from support.fakes.fake_runs import finished_run

from nightpress.jobs.runs.recorded_images import recorded_images
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PictureFacts
from nightpress.pipelines.run_directory.reader import open_run


def test_images_are_found_by_the_name_or_the_place_of_their_run(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a", "nan", "b"])
    row = open_run(store.url).row("00000002_00")
    assert row is not None
    spec = RunSpec.from_dict({"name": "next", "manifest": "m.csv", "output": f"{tmp_path}/runs/"})
    place = f"run://{store.url}"
    urls = [
        *("run://night/00000002_00", f"{place}/00000002_00", "run://night/00000001_00"),
        *("run://night/x_00", "run://none/00000000_00", "run://next/00000000_00"),
    ]
    found = recorded_images(spec)(urls)
    facts = PictureFacts(row["sha256"], row["width"], row["height"])
    assert [found[url] for url in urls[:2]] == [facts, facts]
    assert [found[url] for url in urls[2:]] == [
        "the image failed there: NonFinite: " + str(found[urls[2]]).partition("NonFinite: ")[2],
        f"{store.url} has no such image yet",
        f"{tmp_path}/runs/none: no run here (run.json is missing)",
        "a run cannot use its own images",
    ]

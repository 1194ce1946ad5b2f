"""What earlier runs have recorded about images that a manifest names as `run://NAME/IMAGE_ID`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import pyarrow.dataset as ds

from nightpress.pipelines.errors import RunNotFound, StoreMissing, UnsupportedFormat
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PictureFacts, RunImages
from nightpress.pipelines.run_directory.reader import open_run
from nightpress.pipelines.storage import is_url
from nightpress.pipelines.storage.urls import absolute

PREFIX = "run://"

COLUMNS = ["image_id", "status", "error_type", "error", "sha256", "width", "height"]


def recorded_images(spec: RunSpec) -> RunImages:
    """A function that finds images of other runs for a job; runs by name lie beside its own."""
    return partial(_look_up, spec)


def _look_up(spec: RunSpec, urls: Sequence[str]) -> Mapping[str, PictureFacts | str]:
    """The facts of each image, or why it cannot be used.

    Raises:
        StoreError: a store fails.
    """
    by_run: dict[str, dict[str, str]] = defaultdict(dict)
    for url in urls:
        run, image_id = _parts(url)
        by_run[run][image_id] = url
    found: dict[str, PictureFacts | str] = {}
    for run, images in by_run.items():
        place = run if _is_place(run) else f"{spec.output.rstrip('/')}/{run}"
        recorded = _images_of(spec, place, list(images))
        found |= {url: recorded[image_id] for image_id, url in images.items()}
    return found


def _images_of(spec: RunSpec, place: str, ids: list[str]) -> Mapping[str, PictureFacts | str]:
    """What one run has recorded about some images."""
    if absolute(place) == absolute(spec.url):
        return dict.fromkeys(ids, "a run cannot use its own images")
    try:
        run = open_run(place, spec.storage)
    except (RunNotFound, UnsupportedFormat, StoreMissing) as error:
        return dict.fromkeys(ids, str(error))
    found: dict[str, PictureFacts | str] = dict.fromkeys(ids, f"{run.url} has no such image yet")
    with run.reading():
        table = run.metadata.to_table(COLUMNS, filter=ds.field("image_id").isin(ids))
    for row in table.to_pylist():
        if row["status"] == "ok":
            facts = PictureFacts(row["sha256"], row["width"], row["height"])
            found[row["image_id"]] = facts
        else:
            why = f"the image failed there: {row['error_type']}: {row['error']}"
            found[row["image_id"]] = why
    return found


def _parts(url: str) -> tuple[str, str]:
    """The run and the image id of `run://NAME/IMAGE_ID`, or of `run://URL_OF_A_RUN/IMAGE_ID`."""
    rest = url[len(PREFIX) :]
    run, _, image_id = rest.rpartition("/") if _is_place(rest) else rest.partition("/")
    return run, image_id


def _is_place(run: str) -> bool:
    """Whether this is the URL or absolute path of a run, not its name."""
    return run.startswith("/") or is_url(run)

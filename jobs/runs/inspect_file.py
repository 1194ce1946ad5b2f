"""`inspect`: what an image file says about itself, and which run has made it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nightpress.jobs.runs.stored_image import read_image, run_around
from nightpress.pipelines.errors import ImageNotFound
from nightpress.pipelines.image_files.file_report import FileReport, read_report
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.lookalikes import NO_LOOKALIKES, Lookalikes, find_lookalikes
from nightpress.pipelines.run_directory.origin import Likeness, Origin, find_origin
from nightpress.pipelines.run_directory.reader import Run, open_run
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class Inspection:
    """What an image file says about itself, and where it comes from."""

    url: str
    report: FileReport
    runs: tuple[str, ...]
    """URLs of the runs that were searched, the one that holds the file first."""
    unfinished: tuple[str, ...]
    """URLs of those of them that have not committed all of their images yet."""
    origin: Origin | None
    """The image that it is; None if it is none of these runs' by its bytes, pixels or metadata."""
    lookalikes: Lookalikes = NO_LOOKALIKES
    """Images that look like it; looked for unless one has its bytes or its pixels."""
    wrong_credential: str | None = None
    """How its credential is not the one that its run signs; None if that is right or not known."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is found to be wrong, and a run that was asked for made the image.

        That an image looks like it does not count.
        """
        credential = self.report.credential
        is_valid = credential is None or credential.state != "invalid"
        is_found = self.origin is not None or not self.runs
        return is_valid and is_found and self.wrong_credential is None


def inspect(
    image: str | Path,
    *,
    runs: Sequence[str] = (),
    storage: Options | None = None,
) -> Inspection:
    """Say what an image file says about itself, and which run has made it.

    A file whose metadata was stripped is looked for by its bytes, then by its pixels. If no image
    has these, those that look like it are found by their perceptual hashes.

    Args:
        image: path or URL of a PNG, WebP or JPEG file, or `<pack>/<member>`.
        runs: URLs of runs that may have made it; the run that the file lies in is searched too.
        storage: fsspec options by protocol.

    Raises:
        ImageNotFound: the file is no image that can be read.
        RunNotFound: one of the URLs is no run.
        StoreError: the file or a run cannot be read.
    """
    url, options = str(image), storage or {}
    data = read_image(url, options)
    try:
        report = read_report(data)
        searched = _runs(url, runs, options)
        origin = find_origin(searched, data)
        is_certain = origin is not None and origin.likeness is not Likeness.FACTS
        lookalikes = NO_LOOKALIKES if is_certain else find_lookalikes(searched, data)
    except ValueError as error:
        raise ImageNotFound(f"{url}: {error}") from error
    return Inspection(
        url=url,
        report=report,
        runs=tuple(run.url for run in searched),
        unfinished=tuple(run.url for run in searched if not _is_finished(run)),
        origin=origin,
        lookalikes=lookalikes,
        wrong_credential=_wrong_credential(data, origin, searched),
    )


def _runs(url: str, urls: Sequence[str], options: Options) -> list[Run]:
    """The runs to search, each once."""
    around = run_around(url, options)
    found = [] if around is None else [around]
    found += [open_run(each, options) for each in urls]
    return list({run.url: run for run in found}.values())


def _is_finished(run: Run) -> bool:
    return len(run.committed) == run.record.layout.num_shards


def _wrong_credential(data: bytes, origin: Origin | None, runs: Sequence[Run]) -> str | None:
    """How a file's credential is not that of the image that it is."""
    if origin is None or origin.likeness is not Likeness.FILE:
        return None
    (run,) = [each for each in runs if each.url == origin.url]
    return run.record.file_format.wrong_credential(data, ImageFacts.from_dict(dict(origin.row)))

"""Images a second of a run that has ended, by the times of what it stored or printed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from rivals.job import Job


@dataclass(frozen=True)
class Figures:
    """Images a second."""

    rate: float
    """From the first tenth to the last file."""
    whole: float
    """Of the whole process."""

    def over(self, other: "Figures") -> "Figures":
        """Both as multiples of the other's."""
        return Figures(self.rate / other.rate, self.whole / other.whole)


def printed_moments(printed: str) -> list[float]:
    """When each image was made, by lines of a time and a number of images."""
    lines = [line.split() for line in printed.splitlines()]
    return [float(moment) for moment, number in lines for _ in range(int(number))]


def stored_figures(job: Job, folder: Path, seconds: float) -> Figures:
    """By the times of the files in a folder, where every image and its record must be."""
    images = list(folder.glob("images/*.png"))
    metadata = [*folder.glob("metadata/*.parquet"), *folder.glob("images/metadata.jsonl")]
    num_records = sum(map(count_records, metadata))
    if num_records != len(images):
        raise SystemExit(f"{folder}: {len(images)} images and {num_records} records")
    moments = [path.stat().st_mtime for path in images]
    end = max((path.stat().st_mtime for path in [*images, *metadata]), default=0.0)
    return figures(job, moments, end, seconds)


def count_records(path: Path) -> int:
    """Rows of a Parquet file, or lines of another."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    return len(path.read_text().splitlines())


def figures(job: Job, moments: Sequence[float], end: float, seconds: float) -> Figures:
    """The rate and the whole, as `bench_rivals` says.

    Args:
        job: as it was run.
        moments: when each image was stored, in seconds since the epoch.
        end: when the last file was.
        seconds: that the process took.
    """
    num_images = count_records(job.manifest)
    if len(moments) != num_images:
        raise SystemExit(f"{len(moments)} of {num_images} images were made")
    lot = job.batch_size * job.threads
    first = -(-num_images // (10 * lot)) * lot
    start = sorted(moments)[first - 1]
    return Figures((num_images - first) / (end - start), num_images / seconds)


def median(several: Sequence[Figures]) -> Figures:
    """Of each figure alone."""
    return Figures(
        statistics.median(each.rate for each in several),
        statistics.median(each.whole for each in several),
    )

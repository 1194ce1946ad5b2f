"""Images/s of a finished run, from the times of its files or its printed lines."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from rivals.job import Job


@dataclass(frozen=True)
class Figures:
    """Images/s of a run, by two measures."""

    rate: float
    """From the end of the first tenth to the last file."""
    whole: float
    """Over the whole process, start-up included."""

    def over(self, other: "Figures") -> "Figures":
        """Both as multiples of the other's."""
        return Figures(self.rate / other.rate, self.whole / other.whole)


def printed_moments(printed: str) -> list[float]:
    """When each image was made, from lines with a time and a number of images."""
    lines = [line.split() for line in printed.splitlines()]
    return [float(moment) for moment, number in lines for _ in range(int(number))]


def stored_figures(job: Job, folder: Path, seconds: float) -> Figures:
    """Figures from the times of a folder's files; exits unless all images have records."""
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
    """Both figures, as `bench_rivals` defines them.

    Args:
        job: the job that was run.
        moments: when each image was stored, in seconds since the epoch.
        end: when the last file was stored.
        seconds: how long the process took.
    """
    num_images = count_records(job.manifest)
    if len(moments) != num_images:
        raise SystemExit(f"{len(moments)} of {num_images} images were made")
    round_size = job.batch_size * job.threads
    first = -(-num_images // (10 * round_size)) * round_size
    start = sorted(moments)[first - 1]
    return Figures((num_images - first) / (end - start), num_images / seconds)


def median(several: Sequence[Figures]) -> Figures:
    """The median of each figure separately."""
    return Figures(
        statistics.median(each.rate for each in several),
        statistics.median(each.whole for each in several),
    )

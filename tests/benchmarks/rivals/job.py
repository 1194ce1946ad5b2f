"""What each script of this folder is asked for: the same rows, model, settings and threads.

Knows nothing of how the images are made or timed.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Row:
    """One image to make."""

    id: str
    prompt: str
    seed: int

    @property
    def file_name(self) -> str:
        """Of its image."""
        return f"{self.id}.png"


@dataclass(frozen=True)
class Job:
    """A manifest, what to make of it, and where to put it."""

    manifest: Path
    """Parquet, with the columns of `Row`."""
    output: Path
    model: str
    """A diffusers folder."""
    dtype: str
    """As torch names it."""
    num_inference_steps: int
    guidance_scale: float
    batch_size: int
    threads: int
    """Of one process, or processes of one thread each."""

    @classmethod
    def from_arguments(cls) -> Self:
        """From the command line: each field is an option; the folders are made."""
        parser = argparse.ArgumentParser()
        for field in fields(cls):
            parser.add_argument(_option(field.name), type=field.type, required=True)
        job = cls(**vars(parser.parse_args()))
        job.images.mkdir(parents=True, exist_ok=True)
        return job

    def as_arguments(self) -> list[str]:
        """The inverse of `from_arguments`."""
        return [
            word for name, value in asdict(self).items() for word in (_option(name), str(value))
        ]

    @property
    def images(self) -> Path:
        """The folder for image files."""
        return self.output / "images"

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of every image, as diffusers calls them."""
        return {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }

    def rows(self) -> list[Row]:
        """All of the manifest's."""
        return [Row(**row) for row in pq.read_table(self.manifest).to_pylist()]

    def batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """The rows, so many at a time."""
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]

    def record(self, row: Row) -> dict[str, Any]:
        """What is noted of an image."""
        made_by = {"model": self.model, "dtype": self.dtype, **self.sampling}
        return {"file_name": row.file_name, **asdict(row), **made_by}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

"""The job that every script in this folder runs: the same rows, model, settings and threads."""

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
        """The name of the image file."""
        return f"{self.id}.png"


@dataclass(frozen=True)
class Job:
    """A manifest, the settings for its images, and an output folder."""

    manifest: Path
    """Parquet, with the columns of `Row`."""
    output: Path
    model: str
    """A diffusers folder."""
    dtype: str
    """Torch's name of the dtype."""
    num_inference_steps: int
    guidance_scale: float
    batch_size: int
    threads: int
    """Threads of one process, or the number of single-threaded processes."""

    @classmethod
    def from_arguments(cls) -> Self:
        """Parse the command line, where each field is an option, and create the folders."""
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
        """The settings of every image, by diffusers' names."""
        return {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }

    def rows(self) -> list[Row]:
        """All rows of the manifest."""
        return [Row(**row) for row in pq.read_table(self.manifest).to_pylist()]

    def batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """The rows in batches of `batch_size`."""
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]

    def record(self, row: Row) -> dict[str, Any]:
        """The metadata record of an image."""
        settings = {"model": self.model, "dtype": self.dtype, **self.sampling}
        return {"file_name": row.file_name, **asdict(row), **settings}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

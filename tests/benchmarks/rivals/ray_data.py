"""Ray Data: a Parquet manifest, a pool of actors that hold the model, and Parquet metadata.

Saving is a separate step, so that it runs in other processes while the actors sample. Ray Data's
`write_images` would keep no metadata, and a dataset that is written twice is computed twice.

Two settings are tuned: blocks are whole batches, because the reader cuts its blocks anywhere, and
there is one CPU more than actors, or the reading and saving tasks would never be scheduled.
"""

from typing import Any

import numpy as np
import ray
import torch
from diffusers import DiffusionPipeline
from job import Job, Row
from PIL import Image

BATCHES_PER_BLOCK = 2


class ImageMaker:
    """Holds the model, one in each actor."""

    def __init__(self, job: Job) -> None:
        self.sampling = job.sampling
        torch.set_num_threads(1)
        self.pipeline = DiffusionPipeline.from_pretrained(
            job.model, dtype=getattr(torch, job.dtype)
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sample a batch; returns it with its pixels."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
        images = self.pipeline(
            batch["prompt"].tolist(), generator=generators, output_type="np", **self.sampling
        ).images
        return {**batch, "image": (images * 255).round().astype(np.uint8)}


def save(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """Save an image; returns its record."""
    made = Row(row["id"], row["prompt"], row["seed"])
    Image.fromarray(row["image"]).save(job.images / made.file_name)
    return job.record(made)


def main() -> None:
    """Make every image of the job."""
    job = Job.from_arguments()
    ray.init(address="local", num_cpus=job.threads + 1, include_dashboard=False)
    (
        ray.data.read_parquet(str(job.manifest))
        .repartition(target_num_rows_per_block=BATCHES_PER_BLOCK * job.batch_size, strict=True)
        .map_batches(
            ImageMaker,
            fn_constructor_args=(job,),
            batch_size=job.batch_size,
            compute=ray.data.ActorPoolStrategy(size=job.threads),
            num_cpus=1,
        )
        .map(save, fn_kwargs={"job": job})
        .write_parquet(str(job.output / "metadata"))
    )


if __name__ == "__main__":
    main()

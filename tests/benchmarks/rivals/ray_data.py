"""Ray Data's way: a Parquet manifest, a pool of actors that hold the model, a Parquet of metadata.

Saving is a step of its own, so that it goes on in other processes while the actors sample. Its own
`write_images` would keep no metadata, and a dataset that is written twice is made twice.

What is tuned: blocks of whole batches, as the reader's are cut anywhere; and one CPU more than
there are actors, without which the reading and saving tasks would never be placed.
"""

from typing import Any

import numpy as np
import ray
import torch
from diffusers import DiffusionPipeline
from job import Job, Row
from PIL import Image

BATCHES_PER_BLOCK = 2


class Painter:
    """Holds the model, one in each actor."""

    def __init__(self, job: Job) -> None:
        self.sampling = job.sampling
        torch.set_num_threads(1)
        self.pipeline = DiffusionPipeline.from_pretrained(
            job.model, dtype=getattr(torch, job.dtype)
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch, with pixels."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
        images = self.pipeline(
            batch["prompt"].tolist(), generator=generators, output_type="np", **self.sampling
        ).images
        return {**batch, "image": (images * 255).round().astype(np.uint8)}


def save(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """Save an image; its record goes on."""
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
            Painter,
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

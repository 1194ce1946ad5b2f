"""A diffusers pipeline in a loop: one prompt at a time, then its image and metadata saved."""

import json

import torch
from diffusers import DiffusionPipeline
from job import Job


def main() -> None:
    """Make every image of the job."""
    job = Job.from_arguments()
    torch.set_num_threads(job.threads)
    pipeline = DiffusionPipeline.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
    pipeline.set_progress_bar_config(disable=True)
    with (job.images / "metadata.jsonl").open("a") as metadata:
        for row in job.rows():
            generator = torch.Generator().manual_seed(row.seed)
            image = pipeline(row.prompt, generator=generator, **job.sampling).images[0]
            image.save(job.images / row.file_name)
            metadata.write(json.dumps(job.record(row)) + "\n")


if __name__ == "__main__":
    main()

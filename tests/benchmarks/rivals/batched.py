"""A diffusers pipeline called with lists of prompts, and a generator for each image.

The images of a batch are saved before the next batch starts, and the metadata at the end.
"""

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
    rows = job.rows()
    for batch in job.batches(rows):
        prompts = [row.prompt for row in batch]
        generators = [torch.Generator().manual_seed(row.seed) for row in batch]
        images = pipeline(prompts, generator=generators, **job.sampling).images
        for row, image in zip(batch, images, strict=True):
            image.save(job.images / row.file_name)
    lines = [json.dumps(job.record(row)) + "\n" for row in rows]
    (job.images / "metadata.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()

"""Encode, denoise and decode the job's batches, and drop the pixels: the ceiling of the others.

As many processes as the job has threads, each with one and its share of the batches. Prints when
each batch was done, in seconds since the epoch, and how many images it had.
"""

import time
from multiprocessing import get_context

import torch
from diffusers import DiffusionPipeline
from job import Job


def main() -> None:
    """Sample every image of the job."""
    job = Job.from_arguments()
    context = get_context("spawn")
    processes = [context.Process(target=sample, args=(job, part)) for part in range(job.threads)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")


def sample(job: Job, part: int) -> None:
    """Every so many-th batch, beginning with one."""
    torch.set_num_threads(1)
    pipeline = DiffusionPipeline.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
    pipeline.set_progress_bar_config(disable=True)
    for batch in list(job.batches(job.rows()))[part :: job.threads]:
        prompts = [row.prompt for row in batch]
        generators = [torch.Generator().manual_seed(row.seed) for row in batch]
        pipeline(prompts, generator=generators, output_type="pt", **job.sampling)
        print(time.time(), len(batch), flush=True)


if __name__ == "__main__":
    main()

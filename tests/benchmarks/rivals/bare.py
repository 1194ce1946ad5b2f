"""Encode, denoise and decode the job's batches and drop the pixels: an upper bound for the others.

Starts one single-threaded process for each of the job's threads; each samples its share of the
batches. Prints the time at which each batch was done (seconds since the epoch) and its number of
images.
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
    """Sample every `job.threads`-th batch, beginning with batch `part`."""
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

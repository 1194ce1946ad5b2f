"""accelerate with many processes: each has the whole model and its split of the prompts.

Each process saves the images of a batch before it starts the next one; at the end the records
are gathered, and the main process writes them.

`accelerate launch --cpu` starts several processes only with MPI, so torchrun starts these::

    torchrun --standalone --nproc-per-node 2 accelerate_split.py ...
"""

import json
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from diffusers import DiffusionPipeline
from job import Job


def main() -> None:
    """Make this process's share of the job's images."""
    job = Job.from_arguments()
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    pipeline = DiffusionPipeline.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
    pipeline.to(state.device)
    pipeline.set_progress_bar_config(disable=True)
    records: list[dict[str, Any]] = []
    with state.split_between_processes(job.rows()) as rows:
        for batch in job.batches(rows):
            prompts = [row.prompt for row in batch]
            generators = [torch.Generator().manual_seed(row.seed) for row in batch]
            images = pipeline(prompts, generator=generators, **job.sampling).images
            for row, image in zip(batch, images, strict=True):
                image.save(job.images / row.file_name)
                records.append(job.record(row))
    gathered = gather_object(records)
    if state.is_main_process:
        lines = [json.dumps(record) + "\n" for record in gathered]
        (job.images / "metadata.jsonl").write_text("".join(lines))
    state.destroy_process_group()


if __name__ == "__main__":
    main()

"""`nightpress walk`."""

from dataclasses import asdict
from typing import get_args

import click

from nightpress.jobs.commands.common import (
    job_options,
    json_option,
    max_failures_option,
    read_job,
    sigterm_as_ctrl_c,
    take_over_option,
    with_limit,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.log_format import LogFormat, log_format_option
from nightpress.jobs.commands.run import exit_code, summary
from nightpress.jobs.commands.run_display import run_display
from nightpress.jobs.commands.times import Deadline, Night, night_options
from nightpress.jobs.runs.walk import WalkOptions, walk
from nightpress.pipelines.job.images_section import MAX_FPS, Format
from nightpress.pipelines.job.sections import MAX_FRAMES

CLIP_FORMATS = [name for name in get_args(Format) if name in ("mp4", "webp")]


@click.command("walk")
@job_options
@click.option(
    "--num-frames",
    type=click.IntRange(2, MAX_FRAMES),
    help="Frames of each clip. [default: sampling.num_frames, or 24]",
)
@click.option(
    "--fps",
    type=click.FloatRange(0, MAX_FPS, min_open=True),
    help="Frames a second. [default: images.fps, or 8]",
)
@click.option(
    "--to-seed",
    type=int,
    metavar="SEED",
    help="Walk from each row's seed to this one, with the row's own prompt. [default: walk to the "
    "next row's prompt and seed]",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(CLIP_FORMATS),
    help="File format. [default: images.format if it is one of these, else mp4 if av is installed]",
)
@click.option(
    "--deadline",
    type=Deadline(),
    metavar="TIME",
    help="Stop cleanly by this time, such as 06:30, with exit code 4.",
)
@night_options
@max_failures_option("Stop early, with exit code 1, when more clips than this have failed.")
@take_over_option
@log_format_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    num_frames: int | None,
    fps: float | None,
    to_seed: int | None,
    format_: Format | None,
    deadline: float | None,
    night: Night,
    max_failures: int | str | None,
    take_over: bool,
    log_format: LogFormat,
    as_json: bool,
) -> None:
    """Make a clip from each row of JOB to the next, with its model of still images.

    The run is <output>/<name>-walk, and everything that is true of runs is true of it: interrupt it
    at any time, and the same command makes what is missing. The first frame of a clip is the
    image that JOB itself would make, and the last is the first of the next clip. Rows that have a
    to_prompt or a to_seed walk there instead.
    """
    spec = read_job(job, with_limit(overrides, max_failures), address, night)
    options = WalkOptions(num_frames, fps, to_seed, format_)
    sigterm_as_ctrl_c()
    with run_display(log_format) as display:
        result = walk(spec, display.show, options, take_over=take_over, deadline_at=deadline)
    print_and_exit(ctx, exit_code(result), asdict(result), summary(result, spec), as_json)

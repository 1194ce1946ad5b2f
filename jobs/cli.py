"""`nightpress`: the command line. One small module a command lies in `jobs/commands/`.

Owns how errors become one line and an exit code. The commands are imported when they are called,
so that help is there at once.
"""

import atexit
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

import click

from nightpress.diffusion_core.errors import DiffusionError
from nightpress.jobs.commands.exit_codes import BAD_INPUT, HELD, STOPPED, UNEXPECTED
from nightpress.jobs.errors import ClusterError, JobError, RunStopped
from nightpress.pipelines.errors import (
    LeaseLost,
    PipelineError,
    RunHeld,
    StoreDenied,
    StoreError,
    StoreMissing,
)

COMMANDS = {
    "run": "Make every image of a job, or go on where it was interrupted.",
    "plan": "Say what a job would make, and write nothing.",
    "preview": "Make a contact sheet of a few rows before the long run.",
    "tune": "Find the fastest way to sample a job on this machine, and write it into the job.",
    "steps": "Show how a prompt becomes a picture, and what more steps buy.",
    "retry": "Make the failed rows of a run again.",
    "verify": "Hold a run's images against its metadata and its plan, and repair them.",
    "reproduce": "Make one image again from what it says of itself.",
    "status": "Say how far a run or a training is, from its store alone.",
    "train": "Train an autoencoder, a denoiser or a LoRA, or go on where it was interrupted.",
    "init": "Write a commented example of a job file.",
    "schema": "Print the JSON Schema of a job file, for editors.",
}


class Press(click.Group):
    """The group of commands; turns our own errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"nightpress.jobs.commands.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error ends in one line."""
        try:
            return super().invoke(ctx)
        except (DiffusionError, PipelineError, JobError) as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("stopped; what is committed stays, run the same command to go on", err=True)
            ctx.exit(STOPPED)


def exit_code(error: Exception) -> int:
    """The contract's exit code for one of our errors."""
    match error:
        case RunStopped():
            return STOPPED
        case RunHeld() | LeaseLost():
            return HELD
        case StoreDenied() | StoreMissing() | ClusterError():
            return BAD_INPUT
        case StoreError():  # one that fails for minutes may be well again later
            return STOPPED
        case JobError():
            return UNEXPECTED
        case _:
            return BAD_INPUT


def package_version() -> str:
    """The installed version."""
    try:
        return version("nightpress")
    except PackageNotFoundError:
        return "from source"


@click.group(cls=Press, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version(), prog_name="nightpress")
def command() -> None:
    """Turn a prompt manifest into a finished, verified, documented image set.

    It also trains the models that make the images.

    \b
    Exit codes: 0 finished, every image ok; 1 unexpected error; 2 bad usage, job
    file, manifest or training data (nothing was written); 3 finished, some rows
    failed (they are in the metadata); 4 stopped early, run it again to go on;
    5 another live start holds the run directory.
    """


def main() -> None:
    """The console script."""
    # A polite stop is heard from the first moment on, while much is still being imported.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except KeyboardInterrupt:
        _leave(STOPPED)


def _leave(code: int) -> NoReturn:
    """End the process as the command ended, whatever comes now.

    Without Python's own end: threads of Arrow that still read a store for what has failed would
    call into it, and abort.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)

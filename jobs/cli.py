"""The `nightpress` command: a group whose commands are modules in `jobs/commands/`.

Turns expected errors into one line and an exit code. A command's module is imported when it is
called, so `--help` responds at once.
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

from nightpress.diffusion_core.errors import NightpressError
from nightpress.diffusion_core.silence_libraries import silence_process
from nightpress.jobs.commands.exit_codes import BAD_INPUT, HELD, STOPPED, UNEXPECTED
from nightpress.jobs.errors import ClusterError, JobError, RunStopped, UnfinishedRun
from nightpress.pipelines.errors import (
    LeaseLost,
    RunHeld,
    StoreDenied,
    StoreError,
    StoreMissing,
)

COMMANDS = {
    "run": "Make every image of a job, or resume an interrupted run.",
    "plan": "Show what a job would make, without writing anything.",
    "preview": "Make a contact sheet of a few rows before the long run.",
    "tune": "Find the fastest way to sample a job on this machine and save it in the job file.",
    "steps": "Show how a prompt becomes an image step by step, or compare samplers.",
    "retry": "Make the failed rows of a run again.",
    "verify": "Check a run's images against its metadata and plan, and repair them.",
    "reproduce": "Make one image again from its embedded metadata and compare.",
    "status": "Show the progress of a run or a training run, from its store alone.",
    "train": "Train an autoencoder, a denoiser or a LoRA, or resume an interrupted training run.",
    "init": "Write a commented example job file.",
    "schema": "Print the JSON Schema of a job file, for editors.",
}


class CommandGroup(click.Group):
    """The commands of `nightpress`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which they are usually needed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"nightpress.jobs.commands.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except NightpressError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("stopped; committed work is kept: run the same command to resume", err=True)
            ctx.exit(STOPPED)


def exit_code(error: Exception) -> int:
    """The exit code of an expected error."""
    match error:
        case RunStopped():
            return STOPPED
        case RunHeld() | LeaseLost():
            return HELD
        case StoreDenied() | StoreMissing() | ClusterError() | UnfinishedRun():
            return BAD_INPUT
        case StoreError():  # a store that has failed for minutes may recover later
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


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version(), prog_name="nightpress")
def command() -> None:
    """Turn a prompt manifest into a finished, verified, documented image set.

    It also trains the models that make the images.

    \b
    Exit codes:
      0  finished, every image is ok
      1  unexpected error
      2  bad usage, job file, manifest or training data; nothing was written
      3  finished, but some rows failed, or a check found a difference
      4  stopped early; run the same command again to resume
      5  another process is working on this run directory
    """


def main() -> None:
    """The console script."""
    # Handle SIGTERM from the first moment, while slow imports are still under way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    silence_process()
    try:
        command()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except KeyboardInterrupt:
        _leave(STOPPED)


def _leave(code: int) -> NoReturn:
    """End the process with `code`, ignoring signals that arrive from now on.

    Skips Python's own shutdown: Arrow threads that are still reading from a store would call into
    a finalized interpreter and abort.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)

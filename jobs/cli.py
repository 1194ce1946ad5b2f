"""The `nightpress` command: a group whose commands are modules in `jobs/commands/`.

Turns expected errors into one line and an exit code. A command's module is imported when it is
called, so `--help` responds at once.
"""

import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from keyword import iskeyword
from typing import Any, NoReturn

import click

from nightpress.diffusion_core.errors import NightpressError
from nightpress.diffusion_core.silence_libraries import silence_process
from nightpress.jobs.cluster import worker_template
from nightpress.jobs.cluster.shadowing import require_libraries
from nightpress.jobs.commands.exit_codes import code_of_process
from nightpress.jobs.commands.finished_job import seems_finished
from nightpress.jobs.commands.json_output import print_error
from nightpress.jobs.commands.log_format import (
    LOG_FORMAT,
    asks_for_json_lines,
    everything_as_json,
    own_warnings,
    tell,
    threads_as_json,
)
from nightpress.jobs.errors import STOPPED, UNEXPECTED, StoppedOnRequest, exit_code

COMMANDS = {
    "run": "Make every image of a job, or resume an interrupted run.",
    "submit": "Run a job on a Ray cluster through its Jobs API, and follow it.",
    "plan": "Show what a job would make, without writing anything.",
    "expand": "Show what a campaign stands for: its rows counted, shown, written or compared.",
    "preview": "Make a contact sheet of a few rows before the long run.",
    "tune": "Find the fastest way to sample a job on this machine and save it in the job file.",
    "walk": "Make clips from each row to the next, with a model of still images.",
    "steps": "Show how a prompt becomes an image step by step, or compare samplers.",
    "retry": "Make the failed rows of a run again.",
    "again": "Make other variants of chosen images of a run, with new seeds.",
    "gates": "Try gates on the stored scores of a run, without making anything.",
    "review": "Show a run's images in a browser, to pick, reject, rate and comment on them.",
    "select": "Choose images of a run by their scores and metadata, without deleting any.",
    "verify": "Check a run's images against its metadata and plan, and repair them.",
    "score": "Score the images of a run that lack a score, without touching them.",
    "fid": "Measure how far the images of a set are from reference images (FID).",
    "reproduce": "Make one image again from its embedded metadata and compare.",
    "export": "Write a training set of the images of runs, in a layout that other tools read.",
    "inspect": "Show what an image file says about itself, and which run has made it.",
    "deliver": "Make copies of a run's images for clients, without prompts, models and settings.",
    "runs": "List the runs of an output folder: state, exit code, images, duration and cost.",
    "status": "Show the progress of a run or a training run, from its store alone.",
    "schedule": "Write the files with which a scheduler runs a job every night.",
    "doctor": "Look for what would make a nightly run fail, on this machine and on a cluster.",
    "train": "Train an autoencoder, a denoiser, a LoRA or a ControlNet, or resume such a training.",
    "models": "List the models that a job on this machine can use.",
    "convert": "Write a model in one file as a diffusers folder.",
    "init": "Write a commented example job file.",
    "import": "Turn images or word lists of other programs into a manifest, or a campaign.",
    "schema": "Print the JSON Schema of a job file, for editors.",
}

COLLECT_AFTER = 200_000
"""How many new objects Python's garbage collector waits for, instead of 700: imports make a quarter
of a million that all stay, and going through them takes a tenth of a quick command's time."""

AS_JSON = "nightpress.as_json"
"""Key in the metadata of click's context: whether the command line has --json."""

WHAT_IS_LEFT = {
    "run": "committed work is kept: run the same command to resume",
    "walk": "committed work is kept: run the same command to resume",
    "retry": "committed work is kept: run the same command to resume",
    "again": "committed work is kept: run the same command to resume",
    "submit": "a job that has started goes on at the cluster: the same command attaches to it",
    "verify": "what was repaired is kept: run the same command to go on",
    "score": "what was scored is kept: run the same command to go on",
    "export": "what is written is kept: run the same command to go on",
    "deliver": "copies that are written stay: run the same command to go on",
    "review": "thumbnails and marks that are stored are kept: run the same command to go on",
    "train": "the last checkpoint is kept: run the same command to resume",
    "import": "files that are written stay: remove them before you run it again",
}
"""What is said when a command is interrupted; the others change nothing before their end."""


class CommandGroup(click.Group):
    """The commands of `nightpress`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which they are usually needed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module."""
        if name not in COMMANDS:
            return None
        module = f"{name}_" if iskeyword(name) else name
        command: click.Command = import_module(f"nightpress.jobs.commands.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether errors are to be printed as JSON, even those of a wrong option."""
        ctx.meta[AS_JSON] = asks_for_json(args)
        ctx.meta[LOG_FORMAT] = asks_for_json_lines(args)
        if ctx.meta[LOG_FORMAT]:
            everything_as_json()
            ctx.with_resource(threads_as_json())
        ctx.with_resource(own_warnings(ctx))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error becomes one line and an exit code."""
        with _ok_codes(ctx), _errors_as_json(ctx):
            try:
                require_libraries()
                return super().invoke(ctx)
            except NightpressError as error:
                _tell_error(ctx, error)
                raise _Reported(error) from error
            except click.ClickException as error:
                if not ctx.meta[LOG_FORMAT]:
                    raise
                tell(ctx, error.format_message(), "error", exit_code=error.exit_code)
                raise _Usage(error) from error
            except KeyboardInterrupt as error:
                left = WHAT_IS_LEFT.get(ctx.invoked_subcommand or "", "nothing was changed")
                tell(ctx, f"stopped; {left}", exit_code=STOPPED)
                raise _Reported(StoppedOnRequest(f"stopped; {left}")) from error


class _Reported(click.exceptions.Exit):
    """An error that was printed on stderr; ends the command with the error's exit code."""

    def __init__(self, error: NightpressError) -> None:
        super().__init__(exit_code(error))
        self.error = error


class _Usage(click.exceptions.Exit):
    """A wrong command line that was printed on stderr as JSON."""

    def __init__(self, error: click.ClickException) -> None:
        super().__init__(error.exit_code)
        self.error = error


def _tell_error(ctx: click.Context, error: NightpressError) -> None:
    is_stop = isinstance(error, StoppedOnRequest)
    if ctx.meta[LOG_FORMAT]:
        kind = {"type": type(error).__name__, "exit_code": exit_code(error)}
        tell(ctx, str(error), "info" if is_stop else "error", **kind)
    else:
        tell(ctx, f"{'' if is_stop else 'error: '}{error}")


@contextmanager
def _ok_codes(ctx: click.Context) -> Iterator[None]:
    """End with 0 instead of the exit codes of --ok-codes, and say so."""
    try:
        yield
    except click.exceptions.Exit as end:
        code = code_of_process(ctx, end.exit_code)
        if code != end.exit_code:
            tell(ctx, f"exit code {end.exit_code}, reported as {code}: --ok-codes")
            raise click.exceptions.Exit(code) from end
        raise


@contextmanager
def _errors_as_json(ctx: click.Context) -> Iterator[None]:
    """Print an error on stdout as JSON, too, if that is asked for, and let it pass on."""
    as_json = ctx.meta[AS_JSON]
    try:
        yield
    except _Reported as reported:
        if as_json:
            print_error(reported.error, str(reported.error), reported.exit_code, ctx)
        raise
    except (click.ClickException, _Usage) as raised:
        error = raised.error if isinstance(raised, _Usage) else raised
        if as_json:
            print_error(error, error.format_message(), error.exit_code)
        raise
    except Exception as error:  # the boundary of the process: its traceback follows
        if as_json and not isinstance(error, (click.exceptions.Exit, click.Abort)):
            print_error(error, str(error), UNEXPECTED)
        raise


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line has the option --json."""
    return "--json" in takewhile(lambda argument: argument != "--", arguments)


def starts_ray_here(arguments: Sequence[str]) -> bool:
    """Whether a command line makes images with a Ray of its own, unless its job says otherwise."""
    if arguments[:1] != ["run"] or os.environ.get("RAY_ADDRESS"):
        return False
    return not any(each in ("-h", "--help") or "address" in each for each in arguments)


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
      1  unexpected error, or stopped for something that must be changed first
      2  bad usage, job file, manifest or training data; nothing was written
      3  finished, but some rows failed, or a check found a difference
      4  stopped early; run the same command again to resume
      5  another process is working on this run directory

    With --json, a command prints one JSON object on stdout, whatever the exit code: the result or,
    if there is none, the error.
    """


def main() -> None:
    """The console script."""
    # Handle SIGTERM from the first moment, while slow imports are still under way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    silence_process()
    gc.set_threshold(COLLECT_AFTER)
    if starts_ray_here(sys.argv[1:]) and not seems_finished(sys.argv[1:]):
        worker_template.begin()
    try:
        command()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except KeyboardInterrupt:  # before or after the command itself
        if asks_for_json(sys.argv[1:]):
            with suppress(BrokenPipeError):
                print_error(StoppedOnRequest(), "stopped", STOPPED)
        _leave(STOPPED)


def _leave(code: int) -> NoReturn:
    """End the process with `code`, ignoring signals that arrive from now on.

    Skips Python's own shutdown: Arrow threads that are still reading from a store would call into
    a finalized interpreter and abort.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker_template.give_up()
    # Requests to a store that are still under way end with the process. Their coroutines complain
    # about that on stderr, after all that matters has been said.
    sys.unraisablehook = lambda _: None
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

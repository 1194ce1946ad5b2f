"""`--log-format`: whether the lines on stderr are text or JSON."""

import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, takewhile
from types import TracebackType
from typing import Any, Literal

import click

from nightpress.diffusion_core.silence_libraries import OWN_LOGGER

LogFormat = Literal["text", "json"]

LOG_FORMAT = "nightpress.log_format"
"""Key in the metadata of click's context: whether stderr is to be JSON."""

log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How the lines on stderr are written; json: one object a line, for log collectors. "
    "[default: text]",
)


def asks_for_json_lines(arguments: Sequence[str]) -> bool:
    """Whether a command line has `--log-format json`, even if the rest of it is wrong."""
    options = list(takewhile(lambda argument: argument != "--", arguments))
    return "--log-format=json" in options or ("--log-format", "json") in pairwise(options)


def tell(ctx: click.Context, text: str, level: str = "info", **values: Any) -> None:
    """Write one line to stderr, in the format that the command line asks for."""
    if not ctx.meta.get(LOG_FORMAT):
        click.echo(text, err=True)
        return
    from nightpress.jobs.progress.log_lines import stderr_line

    click.echo(stderr_line(level, text, **values), err=True)


class _JsonHandler(logging.Handler):
    """Writes what libraries log as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        from nightpress.jobs.progress.log_lines import stderr_line

        level, text = record.levelname.lower(), record.getMessage()
        print(stderr_line(level, text, logger=record.name), file=sys.stderr)


class _OwnWarnings(logging.Handler):
    """Writes what nightpress's modules warn of, and no errors: those are raised."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(lambda record: record.levelno == logging.WARNING)
        self._ctx = ctx

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        tell(self._ctx, text if self._ctx.meta.get(LOG_FORMAT) else f"warning: {text}", "warning")


@contextmanager
def own_warnings(ctx: click.Context) -> Iterator[None]:
    """Write what nightpress's modules warn of to stderr, in the format that is asked for."""
    logger, handler = logging.getLogger(OWN_LOGGER), _OwnWarnings(ctx)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def everything_as_json() -> None:
    """Write unexpected errors, and what libraries log, as lines of JSON, too."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print(_error_line(kind, error, trace), file=sys.stderr)

    sys.excepthook = hook
    logging.basicConfig(handlers=[_JsonHandler(logging.ERROR)])


@contextmanager
def threads_as_json() -> Iterator[None]:
    """Write the error that ends a thread as a line of JSON, too."""
    before = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if raised.exc_value is not None and raised.exc_type is not SystemExit:
            line = _error_line(raised.exc_type, raised.exc_value, raised.exc_traceback)
            print(line, file=sys.stderr)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _error_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> str:
    from nightpress.jobs.progress.log_lines import stderr_line

    text = "".join(traceback.format_exception(kind, error, trace))
    return stderr_line("error", f"{kind.__name__}: {error}", traceback=text)

"""Keeping the notices, warnings and progress bars of libraries off the terminal.

A process that is ours, such as a command or an actor, calls `silence_process` once. What a program
calls in its own process silences the libraries only for the length of the call.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "true",
}
"""Environment variables that the libraries read when they are first imported. The last one has its
own default, and setting it keeps the tokenizers from commenting on every fork."""


def silence_process() -> None:
    """Let libraries report only errors, for the rest of this process and in its children.

    What the person has set stays: these variables, and the options `-W` and `PYTHONWARNINGS`.
    Libraries that are already imported read no variables, so their own settings are changed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for library in ("transformers", "diffusers"):
        if library in sys.modules and os.environ[f"{library.upper()}_VERBOSITY"] == "error":
            library_logging = sys.modules[library].utils.logging
            library_logging.set_verbosity_error()
            library_logging.disable_progress_bar()
    if logging.lastResort is not None:  # prints what a library logs without any handler
        logging.lastResort.setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"

OWN_LOGGER = "nightpress"
"""The parent of the loggers of every module of nightpress."""


def log_to_stderr() -> None:
    """Write what nightpress's modules log to stderr, with their names; for a process that is ours.

    A logger that has handlers already stays as it is.
    """
    logger = logging.getLogger(OWN_LOGGER)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(LOG_LINE))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of loading and saving; restore the previous setting afterwards."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    logs = [
        log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()
    ]
    for log in logs:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in logs:
            log.enable_progress_bar()


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Let the libraries report only errors; restore the previous settings afterwards."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(log, log.get_verbosity()) for log in (diffusers_logging, transformers_logging)]
    for log, _ in before:
        log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for log, verbosity in before:
            log.set_verbosity(verbosity)

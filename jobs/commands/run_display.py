"""How commands that make images show what happens."""

import sys

from rich.console import Console

from nightpress.jobs.commands.log_format import LogFormat
from nightpress.jobs.progress.displays import Display
from nightpress.jobs.progress.events import Event
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.progress.log_lines import JsonLines


def run_display(log_format: LogFormat) -> Display[Event]:
    """What shows the events of a run on stderr."""
    return JsonLines(sys.stderr) if log_format == "json" else display_for(Console(stderr=True))

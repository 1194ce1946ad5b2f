"""`python -m nightpress` and the command's script.

Looks for files in the way of libraries before anything imports those.
"""

import sys
from contextlib import suppress

from nightpress.jobs.cluster.shadowing import require_libraries
from nightpress.jobs.errors import BAD_INPUT, ClusterError


def main() -> None:
    """Run the command, unless a file is in the way of a library."""
    try:
        require_libraries()
    except ClusterError as error:
        _report(error)
        sys.exit(BAD_INPUT)
    from nightpress.jobs.cli import main as run_command

    run_command()


def _report(error: ClusterError) -> None:
    print(f"error: {error}", file=sys.stderr)
    if "--json" in sys.argv:
        with suppress(ImportError):  # of a hidden library
            from nightpress.jobs.commands.json_output import print_error

            print_error(error, str(error), BAD_INPUT)


if __name__ == "__main__":
    main()

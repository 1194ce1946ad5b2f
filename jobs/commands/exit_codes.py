"""Which exit codes a scheduler is to take for success."""

import click

from nightpress.jobs.errors import HELD, OK, SOME_FAILED, STOPPED

MAY_COUNT_AS_OK = (SOME_FAILED, STOPPED, HELD)
"""Codes that say what became of a run; the others say that something is wrong."""

OK_CODES = "nightpress.ok_codes"
"""Key in the metadata of click's context: the exit codes that --ok-codes turns into 0."""


class ExitCodes(click.ParamType[tuple[int, ...]]):
    """A list of exit codes, such as 3,5."""

    name = "codes"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse the list."""
        codes = tuple(each.strip() for each in value.split(","))
        allowed = [str(each) for each in MAY_COUNT_AS_OK]
        for code in codes:
            if code not in allowed:
                self.fail(
                    f"{code!r} in {value!r} is not allowed; allowed are 3 (some rows failed), 4 "
                    "(stopped early) and 5 (another process is working on the run)",
                    param,
                    ctx,
                )
        return tuple(map(int, codes))


def _keep(ctx: click.Context, param: click.Parameter, codes: tuple[int, ...] | None) -> None:
    ctx.meta[OK_CODES] = codes or ()


ok_codes_option = click.option(
    "--ok-codes",
    type=ExitCodes(),
    metavar="CODES",
    callback=_keep,
    expose_value=False,
    is_eager=True,
    help="Exit with 0 instead of these codes, such as 3,5, for a scheduler that knows no others. "
    "The real code is printed.",
)
"""An option for commands that make a run; `jobs/cli.py` carries it out."""


def code_of_process(ctx: click.Context, code: int) -> int:
    """The code that the process ends with: 0 for one of --ok-codes."""
    return OK if code in ctx.meta.get(OK_CODES, ()) else code

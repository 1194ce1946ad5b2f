"""What a cluster starts for a submitted job: `nightpress run`, in a process of its own.

Ray would unpack the submitted files on every node that gets an actor. Actors need none of them; and
a second node on the driver's machine would replace the very folder that the driver works in.
"""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

STOPPED = 4
"""The exit code of `jobs.commands.exit_codes`, which takes seconds to import."""

START_S = 30.0
"""What `nightpress run` may take until it reads its options."""

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable through which Ray tells a submitted program how it was submitted."""


def without_files(job_config: str) -> str:
    """The settings of a submitted program, without a working folder for its workers."""
    settings = json.loads(job_config)
    settings.get("runtime_env", {}).pop("working_dir", None)
    return json.dumps(settings)


def missed_deadline(arguments: Sequence[str], now: datetime) -> str | None:
    """The deadline of a command line, if it passed while the job waited for the cluster.

    `nightpress run` would call it wrong usage, which it was not when the job was submitted.
    """
    times = (value for option, value in pairwise(arguments) if option == "--deadline")
    begins = now + timedelta(seconds=START_S)
    return next((each for each in times if datetime.fromisoformat(each) <= begins), None)


def main() -> None:
    """Replace this process by `nightpress run`, with the same arguments."""
    if deadline := missed_deadline(sys.argv[1:], datetime.now(UTC)):
        text = f"stopped: the deadline {deadline} came before the cluster could start the job"
        print(text, file=sys.stderr)
        sys.exit(STOPPED)
    if job_config := os.environ.get(JOB_CONFIG):
        os.environ[JOB_CONFIG] = without_files(job_config)
    os.execv(sys.executable, [sys.executable, "-m", "nightpress", "run", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()

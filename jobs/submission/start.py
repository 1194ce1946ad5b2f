"""What a cluster starts for a submitted job: `nightpress run`, in a process of its own.

Ray would unpack the submitted files on every node that gets an actor. Actors need none of them; and
a second node on the driver's machine would replace the very folder that the driver works in.
"""

import json
import os
import sys

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable through which Ray tells a submitted program how it was submitted."""


def without_files(job_config: str) -> str:
    """The settings of a submitted program, without a working folder for its workers."""
    settings = json.loads(job_config)
    settings.get("runtime_env", {}).pop("working_dir", None)
    return json.dumps(settings)


def main() -> None:
    """Replace this process by `nightpress run`, with the same arguments."""
    if job_config := os.environ.get(JOB_CONFIG):
        os.environ[JOB_CONFIG] = without_files(job_config)
    os.execv(sys.executable, [sys.executable, "-m", "nightpress", "run", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()

"""Whether a command line names a job whose run seems finished, found out before imports.

What is said here decides only what is begun early; whether a run is finished is found out later.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

JOB_SUFFIXES = (".yaml", ".yml")


def seems_finished(arguments: Sequence[str]) -> bool:
    """Whether the run of the first job file among the arguments, in a folder here, is complete.

    False where that takes more than a look at a few files: at a store, or with a name that a
    `{night}` is part of.
    """
    job = next((Path(each) for each in arguments if each.endswith(JOB_SUFFIXES)), None)
    if job is None or not job.is_file():
        return False
    import yaml  # only `run` comes here

    try:
        values = yaml.safe_load(job.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False  # which is said when the job is read
    if not isinstance(values, dict):
        return False
    values = {"name": job.stem} | values | dict(_overrides(arguments))
    folder = Path(str(values.get("output")), str(values["name"]))
    try:
        record = json.loads((folder / "run.json").read_bytes())
        num_shards = int(record["plan"]["num_shards"])
        num_commits = sum(1 for _ in (folder / "metadata").glob("shard-*.parquet"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return num_commits >= num_shards and (folder / "report.html").is_file()


def _overrides(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The keys and texts of `--set`."""
    following = [*arguments[1:], ""]
    for argument, after in zip(arguments, following, strict=True):
        text = after if argument == "--set" else argument.removeprefix("--set=")
        if (argument == "--set" or text != argument) and "=" in text:
            key, _, value = text.partition("=")
            yield key, value

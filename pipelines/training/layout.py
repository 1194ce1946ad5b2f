"""Paths in the run directory of `nightpress train`."""

import json
import re

from nightpress.pipelines.run_directory.json_files import json_file
from nightpress.pipelines.storage import Store

CHECKPOINTS_FOLDER = "checkpoints"
SAMPLES_FOLDER = "samples"
MODEL_FOLDER = "model"
TRAIN_FILE = "train.json"
"""The job, the fingerprint of the data, and package versions."""

FINISHED_FILE = "finished.json"
"""The step whose complete model is in `model/`; written after the last of its files."""

ASKED_FILE = "asked.json"
"""The number of steps that the latest start was asked for, if not that of the first start."""

_STEP = re.compile(r".*/step-(?P<step>\d{8,})\.(safetensors|png)")


def checkpoint_path(step: int) -> str:
    """`checkpoints/step-00000500.safetensors`."""
    return f"{CHECKPOINTS_FOLDER}/step-{step:08d}.safetensors"


def damaged_checkpoint_path(step: int) -> str:
    """Where a damaged checkpoint is kept; no training resumes from it."""
    return f"{checkpoint_path(step)}.damaged"


def sample_sheet_path(step: int) -> str:
    """`samples/step-00000500.png`."""
    return f"{SAMPLES_FOLDER}/step-{step:08d}.png"


def finished_step(store: Store) -> int:
    """The step whose model is complete in the store; 0 if there is none."""
    data = store.read_if_any(FINISHED_FILE)
    return 0 if data is None else int(json.loads(data)["step"])


def asked_steps(store: Store) -> int | None:
    """The number of steps that the latest start was asked for; None if it is the first one's."""
    data = store.read_if_any(ASKED_FILE)
    return None if data is None else int(json.loads(data)["max_train_steps"])


def note_asked_steps(store: Store, steps: int, first: int) -> None:
    """Note how many steps a start is asked for.

    Args:
        store: the run directory.
        steps: the steps of this start.
        first: the steps of the first start, which are in `train.json`.
    """
    if steps != (asked_steps(store) or first):
        store.put(ASKED_FILE, json_file({"max_train_steps": steps}))


def checkpoint_steps(store: Store) -> list[int]:
    """The steps that have a checkpoint, in ascending order."""
    return _steps(store, CHECKPOINTS_FOLDER)


def sample_sheet_steps(store: Store) -> list[int]:
    """The steps that have a sample sheet, in ascending order."""
    return _steps(store, SAMPLES_FOLDER)


def _steps(store: Store, folder: str) -> list[int]:
    matches = (_STEP.fullmatch(path) for path in store.list(folder))
    return sorted(int(match["step"]) for match in matches if match)

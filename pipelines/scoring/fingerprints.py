"""The fingerprints of scorers: equal fingerprints, equal scores of an image."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.models.weight_files import fingerprint_of_file
from nightpress.pipelines.job.scores_section import ScorerSection
from nightpress.pipelines.job.spec import canonical_json

LOCATIONS = ("scorer", "model")
"""Settings that say where weights or code lie; their content counts instead."""


def of_scorer(spec: ScorerSection, code: int, content: Mapping[str, str]) -> str:
    """SHA-256 over a scorer's settings, the version of its code, and what it reads.

    Args:
        spec: its section of the job.
        code: a number that changes whenever the scorer would give another score.
        content: SHA-256 of its weights, or the version of the package that has them.
    """
    settings = {k: v for k, v in spec.model_dump(mode="json").items() if k not in LOCATIONS}
    values: list[Any] = [type(spec).__name__, code, settings, dict(content)]
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def of_files(*files: Path) -> dict[str, str]:
    """SHA-256 of files by their names.

    Raises:
        ModelError: one of them cannot be read.
    """
    return {file.name: fingerprint_of_file(file) for file in files}

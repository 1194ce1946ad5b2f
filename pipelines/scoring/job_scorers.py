"""The scorers that a job names, ready to be described and loaded on any machine."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import NO_SCORERS, ScorerSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.loading import describe_scorers, load_scorers, located
from nightpress.pipelines.scoring.scorer import LoadedScorer, ScorerInfo
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class JobScorers:
    """The scorers of a job, with what another machine needs to find them."""

    specs: Mapping[str, ScorerSpec] = field(default_factory=lambda: NO_SCORERS)
    fetch: Fetch = field(default_factory=Fetch)

    @classmethod
    def of(cls, specs: Mapping[str, ScorerSpec], options: Options) -> Self:
        """Find the scorers from this machine's working folder, and read their Python files.

        Raises:
            ModelNotFound: a Python file is not there.
            StoreError: the store behind a URL refuses or fails.
        """
        specs = located(specs, Path.cwd())
        return cls(specs, Fetch(options).carrying(specs.values()))

    def describe(self) -> Mapping[str, ScorerInfo]:
        """What is known about each of them before it is loaded; see `describe_scorers`."""
        return describe_scorers(self.specs, self.fetch)

    def load(self, device: str) -> Mapping[str, LoadedScorer]:
        """Load them; see `load_scorers`.

        Args:
            device: `cpu` or `cuda`.
        """
        infos, loaded = self.describe(), load_scorers(self.specs, self.fetch, device)
        return {name: LoadedScorer(each, infos[name].labels) for name, each in loaded.items()}


def require_same(loaded: Mapping[str, LoadedScorer], fingerprints: Mapping[str, str]) -> None:
    """Check that scorers are those of a run.

    Args:
        loaded: those of this machine.
        fingerprints: name -> fingerprint, of all scorers of the run.

    Raises:
        ScorerError: one of them is another one.
    """
    for name, wanted in fingerprints.items():
        found = loaded[name].scorer.fingerprint
        if found != wanted:
            raise ScorerError(
                f"scores.{name}: its fingerprint on {platform.node()} is {found[:12]}, but the run "
                f"needs {wanted[:12]}"
            )


def fingerprints_of(infos: Mapping[str, ScorerInfo]) -> dict[str, str]:
    """Name in the job -> fingerprint, as a run records it."""
    return {name: info.fingerprint for name, info in infos.items()}

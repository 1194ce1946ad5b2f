"""Bringing the files of scorers to this machine, as the weights of models are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from nightpress.diffusion_core.errors import naming
from nightpress.pipelines.job.scores_section import OwnSpec, ScorerSection
from nightpress.pipelines.models.networks import locate_file, locate_network, read_file
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class Fetch:
    """Finds folders and files, downloading them first if needed.

    It can be sent to another machine, and takes the Python files that it carries along.
    """

    options: Options = field(default_factory=dict)
    """fsspec options by protocol, for URLs."""

    cache: Path | None = None
    """Where remote files are mirrored; by default the user's cache folder."""

    python_files: Mapping[str, bytes] = field(default_factory=dict)
    """The content of Python files by their sources."""

    def folder(self, source: str) -> Path:
        """The folder of a saved network of transformers; see `locate_network`."""
        return locate_network(source, self.options, self.cache)

    def file(self, source: str) -> Path:
        """A file on this machine; see `locate_file`."""
        return locate_file(source, self.options, self.cache)

    def python_file(self, source: str) -> bytes:
        """The content of a Python file; see `read_file`."""
        carried = self.python_files.get(source)
        return read_file(source, self.options) if carried is None else carried

    def carrying(self, specs: Iterable[ScorerSection]) -> Self:
        """The same, with the Python files of one's own scorers read.

        Raises:
            ModelNotFound: one of them is not there.
            StoreError: the store behind a URL refuses or fails.
        """
        found = {}
        for spec in specs:
            if isinstance(spec, OwnSpec):
                with naming(f"scorer {spec.scorer}"):
                    found[spec.file] = self.python_file(spec.file)
        return replace(self, python_files=found)

"""Where the files of a model's ControlNets and IP-Adapters are on this machine."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AdapterFiles:
    """The folders of the parts that a job adds to a model, in the job's order."""

    controlnets: tuple[Path, ...] = ()
    """A saved diffusers network for each of `ModelSpec.controlnets`."""
    references: tuple[Path, ...] = ()
    """The folder of each of `ModelSpec.references`."""


NO_ADAPTERS = AdapterFiles()

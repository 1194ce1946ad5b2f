"""Where the files of what a job adds to a model are on this machine, but for LoRAs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReferenceFiles:
    """The files of one IP-Adapter."""

    weights: Path
    image_encoder: Path | None
    """The folder of its image encoder; None for the one in the model's own folder."""


@dataclass(frozen=True)
class AdapterFiles:
    """The folders of the parts that a job adds to a model, in the job's order."""

    controlnets: tuple[Path, ...] = ()
    """A saved diffusers network for each of `ModelSpec.controlnets`."""
    references: tuple[ReferenceFiles, ...] = ()
    """The files of each of `ModelSpec.references`."""
    embeddings: tuple[Path, ...] = ()
    """The file of each of `ModelSpec.embeddings`."""


NO_ADAPTERS = AdapterFiles()

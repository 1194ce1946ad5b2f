"""What a model's folder says about the model, without hashing or loading a weight."""

from dataclasses import dataclass
from pathlib import Path

from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.loading import read_model
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.diffusion_core.models.single_file.families import find_family
from nightpress.diffusion_core.models.single_file.reading import read_single_file
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_size import bytes_of_file, weight_sizes
from nightpress.diffusion_core.silence_libraries import errors_only


@dataclass(frozen=True)
class Overview:
    """A model in a few words."""

    pipeline: str
    """Name of the diffusers class as which it is loaded."""
    family: str | None
    """What a model in one file is, such as SDXL; None for a folder."""
    modes: tuple[str, ...]
    """Without those of ControlNets and IP-Adapters."""
    width: int | None
    """Its native size in pixels; None if its configuration does not say."""
    height: int | None
    notes: tuple[str, ...]
    """What to know about a model in one file."""


@errors_only()
def overview(folder: Path) -> Overview:
    """Read the configurations in a model's folder; it needs no weights.

    Raises:
        ModelError: it holds no pipeline that can be sampled, or a file is damaged.
    """
    model, pipeline_class = read_model(folder)
    width, height = pipeline_folder.native_size(model, pipeline_class) or (None, None)
    return Overview(
        pipeline=pipeline_class.__name__,
        family=model.facts.get("family"),
        modes=modes_of(pipeline_class.__name__),
        width=width,
        height=height,
        notes=tuple(model.facts.get("notes", ())),
    )


def family_and_bytes(file: Path) -> tuple[str, dict[str, int]]:
    """The family of a model in one file, and its bytes in memory by dtype, without configurations.

    Raises:
        ModelError: the file is damaged, or no model of a family that is known.
    """
    held = read_single_file(file)
    return find_family(held).title, bytes_of_file(held)


def bytes_by_dtype(folder: Path, spec: ModelSpec) -> dict[str, int]:
    """Bytes of the weights in memory by the type in which they are loaded.

    Raises:
        ModelError: a weight file is missing or damaged, or may not be loaded.
    """
    return {dtype: sizes.total_bytes for dtype, sizes in weight_sizes(folder, spec).items()}

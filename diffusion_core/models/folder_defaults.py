"""The steps and the guidance that a model folder advises, in its file `nightpress.json`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.family_rules import Guidance


class FolderDefaults(BaseModel):
    """`nightpress.json` in a model folder: its makers' defaults, which override the pipeline's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    guidance_scale: Annotated[float, Field(ge=0)] | None = None


def defaults(folder: Path, pipeline_class: Any, guidance: Guidance) -> tuple[int, float]:
    """The default `num_inference_steps` and `guidance_scale`: the folder's, else the pipeline's.

    Raises:
        ModelError: the folder's file is damaged, or holds something else.
    """
    advised = _folder_defaults(folder)
    steps = advised.num_inference_steps or pipeline_folder.call_default(
        pipeline_class, "num_inference_steps"
    )
    advised_scale = None if guidance.argument is None else advised.guidance_scale
    scale = guidance.default if advised_scale is None else advised_scale
    return int(steps or 50), scale


def _folder_defaults(folder: Path) -> FolderDefaults:
    path = folder / "nightpress.json"
    if not path.is_file():
        return FolderDefaults()
    try:
        return FolderDefaults.model_validate(pipeline_folder.read_json(path))
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"])
        raise ModelError(f"{path}: {key}: {detail['msg']}") from error

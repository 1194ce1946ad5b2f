"""Create the recipe that a job names."""

from nightpress.pipelines.training.autoencoder import AutoencoderRecipe
from nightpress.pipelines.training.controlnet import ControlNetRecipe
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.denoiser import DenoiserRecipe
from nightpress.pipelines.training.recipes import Recipe
from nightpress.pipelines.training.spec import (
    AutoencoderSpec,
    ControlNetTrainSpec,
    DenoiserSpec,
    LoraTrainSpec,
    TrainSpec,
)


def new_recipe(spec: TrainSpec, data: PackedImages, device: str) -> Recipe:
    """Create a job's recipe, with its networks on the device.

    Raises:
        DiffusionError, StoreError: a network cannot be created, found or combined with the others.
    """
    match spec:
        case AutoencoderSpec():
            return AutoencoderRecipe(spec, data, device)
        case DenoiserSpec():
            return DenoiserRecipe(spec, data, device)
        case LoraTrainSpec():
            # peft is slow to import, and only this recipe needs it.
            from nightpress.pipelines.training.lora import LoraRecipe

            return LoraRecipe(spec, data, device)
        case ControlNetTrainSpec():
            return ControlNetRecipe(spec, data, device)
    raise TypeError(f"no recipe for a {type(spec).__name__}")

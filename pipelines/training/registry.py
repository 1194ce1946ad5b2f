"""Which recipe a job asks for."""

from nightpress.pipelines.training.autoencoder import AutoencoderRecipe
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.denoiser import DenoiserRecipe
from nightpress.pipelines.training.recipes import Recipe
from nightpress.pipelines.training.spec import (
    AutoencoderSpec,
    DenoiserSpec,
    LoraTrainSpec,
    TrainSpec,
)


def new_recipe(spec: TrainSpec, data: PackedImages, device: str) -> Recipe:
    """The recipe of a job, its networks on the device.

    Raises:
        DiffusionError, StoreError: networks that cannot be made, found or joined.
    """
    match spec:
        case AutoencoderSpec():
            return AutoencoderRecipe(spec, data, device)
        case DenoiserSpec():
            return DenoiserRecipe(spec, data, device)
        case LoraTrainSpec():
            # peft and the adapters are heavy, and no other recipe needs them.
            from nightpress.pipelines.training.lora import LoraRecipe

            return LoraRecipe(spec, data, device)
    raise TypeError(f"no recipe for a {type(spec).__name__}")

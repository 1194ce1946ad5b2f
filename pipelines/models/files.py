"""All files of a model on this machine: its folder, its LoRAs, its ControlNets and IP-Adapters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.adapter_files import NO_ADAPTERS, AdapterFiles
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.precision import resolve_dtype
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_size import WeightSizes, weight_sizes
from nightpress.pipelines.models.controlnets import locate_controlnets
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.loras import locate_embeddings, locate_loras
from nightpress.pipelines.models.references import locate_references
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class ModelFiles:
    """Where the files of a model are."""

    folder: Path
    loras: tuple[Path, ...] = ()
    adapters: AdapterFiles = NO_ADAPTERS

    @classmethod
    def locate(cls, spec: ModelSpec, options: Options) -> Self:
        """Find them, downloading them first if needed.

        Raises:
            ModelError: one of them cannot be found or downloaded.
            StoreError: the store behind a URL refuses or fails.
        """
        adapters = AdapterFiles(
            locate_controlnets(spec, options),
            locate_references(spec, options),
            locate_embeddings(spec, options),
        )
        return cls(locate(spec, options), locate_loras(spec, options), adapters)

    def describe(
        self, spec: ModelSpec, elsewhere: bool = False, device: str | None = None
    ) -> ModelInfo:
        """Describe the model without loading it; see `loading.describe`."""
        return loading.describe(self.folder, spec, self.loras, elsewhere, self.adapters, device)

    def dtype(self, spec: ModelSpec, device: str) -> str:
        """The precision of its weights on a device of this machine; see `resolve_dtype`."""
        return resolve_dtype(spec.dtype, device, self.folder)

    def check_weights(self, spec: ModelSpec) -> None:
        """Check that the files hold exactly the model's weights; see `loading.check_weights`."""
        loading.check_weights(self.folder, spec, self.adapters)

    def weight_sizes(self, spec: ModelSpec) -> dict[str, WeightSizes]:
        """How large all its weights are once loaded, by dtype; see `weight_size.weight_sizes`."""
        return weight_sizes(self.folder, spec, self.loras, self.adapters)

    def load(self, spec: ModelSpec, device: str) -> LoadedModel:
        """Load the model onto a device; see `loading.load`."""
        return loading.load(self.folder, spec, device, self.loras, self.adapters)

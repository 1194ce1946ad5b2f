"""What an actor's model takes of its device, and which settings of the job would make it fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_size import WeightSizes
from nightpress.pipelines.formatting import size

WORKING_SHARE = 0.9
"""Share of a device that weights may take; the rest is for latents, activations and the driver."""


@dataclass(frozen=True)
class Footprint:
    """What a model takes in memory, and what its device has."""

    weight_bytes: int
    """Bytes of the weights of the model and the scorers, without offloading."""
    device_bytes: int
    """Memory of one accelerator; 0 on a CPU."""
    sizes: Mapping[str, WeightSizes] = field(default_factory=dict)
    """dtype -> how large the model is in it, and its parts."""
    dtype: str = "float32"
    """The type that the model is loaded in."""
    scorer_bytes: int = 0
    model: str | None = None
    """The name of the model, if the job has several."""
    others: tuple["Footprint", ...] = ()
    """Footprints of the job's other models, which are all smaller; one model is used at a time."""

    def fault(self, spec: ModelSpec, gpus: float) -> str | None:
        """Why the weights do not fit in an actor's whole GPUs, and what would; None if they do."""
        if not self.device_bytes or self.dtype not in self.sizes or gpus < 1:
            return None
        spread = int(gpus) if spec.memory.device_map == "balanced" else 1
        limit = int(WORKING_SHARE * self.device_bytes * spread)
        needed = self._needed(self.dtype, spec.memory.offload)
        if needed <= limit:
            return None
        place = "a GPU" if spread == 1 else f"{spread} GPUs"
        found = list(self._that_fit(spec, limit))
        advice = f"what would fit: {'; '.join(found)}" if found else "no setting would make it fit"
        return (
            f"the weights of {spec.source} take {size(needed)} in {self.dtype}, and {place} of "
            f"{size(self.device_bytes)} each holds {size(limit)} of them; {advice}"
        )

    def _needed(self, dtype: str, offload: str) -> int:
        return self.sizes[dtype].on_device(offload) + self.scorer_bytes

    def _that_fit(self, spec: ModelSpec, limit: int) -> Iterator[str]:
        """Settings under which the weights fit, the least slow first."""
        half, key = "bfloat16", "model." if self.model is None else f"models.{self.model}: "
        if self.dtype == "float32" and self._needed(half, spec.memory.offload) <= limit:
            yield f"{key}dtype: bfloat16 ({size(self._needed(half, spec.memory.offload))})"
        number = -(-self._needed(self.dtype, "none") // max(1, limit))
        if spec.memory.device_map == "none" and number > 1:
            yield f"{key}memory.device_map: balanced with cluster.gpus_per_actor: {number}"
        for offload in ("model", "group"):
            if spec.memory.offload != offload and self._needed(self.dtype, offload) <= limit:
                needed = size(self._needed(self.dtype, offload))
                yield f"{key}memory.offload: {offload} ({needed} at a time)"

"""How a person reads what a model's weights need in memory."""

from collections.abc import Mapping

from nightpress.diffusion_core.models.weight_size import WeightSizes
from nightpress.pipelines.formatting import size

LARGE_BYTES = 4 * 10**9
"""Weights from here on may not fit on a GPU, so that a person reads what offloading needs."""


def weights_line(weights: Mapping[str, WeightSizes], model: str | None = None) -> str:
    """How much memory the weights need, by dtype and by `model.memory.offload`.

    Args:
        model: the name of the model in a job with several.
    """
    by_size: dict[WeightSizes, list[str]] = {}
    for dtype, sizes in weights.items():
        by_size.setdefault(sizes, []).append(dtype)
    whole = ", ".join(
        f"{size(sizes.total_bytes)} in {' or '.join(dtypes)}" for sizes, dtypes in by_size.items()
    )
    least = min(weights.values(), key=lambda sizes: sizes.total_bytes)
    if least.total_bytes < LARGE_BYTES:
        return whole
    parts = " or ".join(f"{kind} ({size(least.on_device(kind))})" for kind in ("model", "group"))
    key = "model." if model is None else f"models.{model}: "
    return f"{whole}; at a time with {key}memory.offload: {parts}"

"""Switches of torch that decide the last bits on a GPU: set once a process, never left to defaults.

Importing this module loads no framework.
"""

from collections.abc import Mapping

SWITCHES: Mapping[str, bool] = {
    "tf32": False,
    "reduced_precision_reduction": False,
    "cudnn_deterministic": True,
    "cudnn_benchmark": False,
}
"""What a process that samples on a GPU is set to, as `run.json` records it.

`tf32`: float32 has its 23 bits of mantissa, in matrix products and in convolutions, where torch
would round to 10. `reduced_precision_reduction`: parts of a half-precision matrix product are added
in float32. `cudnn_deterministic`: no convolution whose sums have no fixed order; those without
gradients have equally fast ones. `cudnn_benchmark`: no convolution is chosen by timing it, since
then the load of the machine would choose.
"""

TORCH_DEFAULTS: Mapping[str, bool] = {
    "tf32": True,
    "reduced_precision_reduction": True,
    "cudnn_deterministic": False,
    "cudnn_benchmark": False,
}
"""What runs had that recorded no switches; torch's default TF32 is that of convolutions alone."""


def fix_numerics(threads: int = 0) -> None:
    """Set the switches of this process, and how many threads its matrix products have on a CPU.

    To be called before anything is sampled, in every process that samples, scores or trains. The
    switches have no effect on a CPU.

    cuBLAS may choose other algorithms while several streams are active, unless each stream has a
    workspace of its own; torch gives it one, so nothing is set for that.

    Args:
        threads: 0 leaves their number as it is.
    """
    import torch

    set_switches(SWITCHES)
    if threads:
        torch.set_num_threads(threads)


def set_switches(values: Mapping[str, bool]) -> None:
    """Set torch's switches to other values, for a comparison; `fix_numerics` sets ours."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = values["tf32"]
    torch.backends.cudnn.allow_tf32 = values["tf32"]
    reduced = values["reduced_precision_reduction"]
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = reduced
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
    torch.backends.cudnn.deterministic = values["cudnn_deterministic"]
    torch.backends.cudnn.benchmark = values["cudnn_benchmark"]


def switches_of(device: str) -> dict[str, bool]:
    """The switches that decide bits on a device: none on a CPU."""
    return {} if device == "cpu" else dict(SWITCHES)


def switch_differences(device: str, recorded: Mapping[str, bool]) -> list[str]:
    """Warnings about switches that a run on a device began with and does not have any more.

    Args:
        device: `cpu` or `cuda`.
        recorded: those of the run; empty if it was begun before they were recorded.
    """
    before = recorded or TORCH_DEFAULTS
    return [
        f"{name} is {_shown(now)} and was {_shown(before[name])} when the run began; the last "
        "bits of a pixel may differ"
        for name, now in switches_of(device).items()
        if before.get(name, now) != now
    ]


def _shown(switch: bool) -> str:
    return "on" if switch else "off"

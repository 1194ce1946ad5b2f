r"""Put a trained ControlNet or LoRA of the built-in model into the package, in float16.

::

    python -m nightpress.diffusion_core.builtin.recipe.ship_adapter \
        build/training/builtin-controlnet/model --target diffusion_core/builtin/controlnet
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def ship(trained: Path, target: Path) -> int:
    """Write the files of `trained` to `target`, weights in float16; returns their size in bytes."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(trained.iterdir()):
        if path.suffix == ".safetensors":
            _write_half(path, target / path.name)
        elif path.suffix == ".json":
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # a path on the machine that trained it
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (target / path.name).write_text(text, encoding="utf-8")
    return sum(path.stat().st_size for path in target.iterdir() if path.is_file())


def _write_half(path: Path, target: Path) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    halves = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
    save_file(halves, target, metadata=metadata)
    target.chmod(0o644)


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trained", type=Path, help="model folder of a training")
    parser.add_argument("--target", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    size = ship(arguments.trained, arguments.target)
    print(f"{arguments.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""Replace the shipped model with a trained pipeline folder.

::

    python -m nightpress.diffusion_core.builtin.recipe.ship build/training/builtin-denoiser/model

Weights are stored in float16, and loaded in float32 unless the caller says otherwise. The model
card and `nightpress.json` are kept unless the trained folder has its own. Nothing is replaced if
the result would be too large for the package.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from nightpress.diffusion_core.builtin import folder

MAX_BYTES = 40_000_000
KEPT_FILES = ("README.md", "nightpress.json")
"""The model card, and the recommended steps and guidance; not part of a diffusers pipeline."""


class TooLarge(ValueError):
    """The model is larger than the package may hold."""


def num_bytes(model: Path) -> int:
    """Size of all files in a folder."""
    return sum(file.stat().st_size for file in model.rglob("*") if file.is_file())


def remove_local_paths(model: Path) -> None:
    """Remove `_name_or_path`, a path on the machine that trained the model, from configurations."""
    for file in model.rglob("*.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            file.write_text(text, encoding="utf-8")


def compute_in_float32(model: Path) -> None:
    """Make float32 the type in which transformers loads the weights by default.

    It otherwise takes the type of the files, and diffusers float32 for the other networks: a plain
    `from_pretrained` would mix the two.
    """
    for file in model.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if "dtype" in config:
            text = json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n"
            file.write_text(text, encoding="utf-8")


def ship(trained: Path, target: Path, max_bytes: int = MAX_BYTES) -> int:
    """Write `trained` in float16 to `target`; returns its size in bytes.

    Raises:
        TooLarge: it would have more than `max_bytes`; `target` is unchanged.
    """
    pipeline = DiffusionPipeline.from_pretrained(trained, dtype=torch.float16)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        new = Path(scratch) / "model"
        pipeline.save_pretrained(new, safe_serialization=True)
        remove_local_paths(new)
        compute_in_float32(new)
        for name in KEPT_FILES:
            kept = trained / name if (trained / name).exists() else target / name
            if kept.exists():
                shutil.copyfile(kept, new / name)
        size = num_bytes(new)
        if size > max_bytes:
            raise TooLarge(f"{trained}: {size:,} bytes in float16; at most {max_bytes:,} may ship")
        for file in new.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        new.chmod(0o755)
        if target.exists():
            target.rename(Path(scratch) / "old")
        new.rename(target)
    return size


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trained", type=Path, help="diffusers pipeline folder")
    parser.add_argument("--target", type=Path, default=folder(), help="folder to replace")
    arguments = parser.parse_args()
    try:
        size = ship(arguments.trained, arguments.target)
    except TooLarge as error:
        parser.error(str(error))
    print(f"{arguments.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

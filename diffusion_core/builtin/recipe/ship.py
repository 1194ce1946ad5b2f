r"""Put a trained pipeline folder in the place of the shipped model.

::

    python -m nightpress.diffusion_core.builtin.recipe.ship build/training/builtin-denoiser/model

Weights become float16. The model card stays, unless the trained folder has one of its own; so does
`nightpress.json`. Nothing is replaced when the folder would be too large for the package.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from nightpress.diffusion_core.builtin import folder

MOST_BYTES = 40_000_000
BESIDE = ("README.md", "nightpress.json")
"""The card, and the steps and guidance to use when nobody says otherwise: no part of a pipeline."""


class TooLarge(ValueError):
    """The weights would make the package larger than it may be."""


def num_bytes(model: Path) -> int:
    """Of all files under a folder."""
    return sum(file.stat().st_size for file in model.rglob("*") if file.is_file())


def forget_where_it_was(model: Path) -> None:
    """Remove from configurations the folder that they were read from: it is the maker's own."""
    for file in model.rglob("*.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            file.write_text(text, encoding="utf-8")


def ship(trained: Path, target: Path, most_bytes: int = MOST_BYTES) -> int:
    """Write `trained` in float16 to `target`; returns its bytes, or raises `TooLarge`."""
    pipeline = DiffusionPipeline.from_pretrained(trained, dtype=torch.float16)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        new = Path(scratch) / "model"
        pipeline.save_pretrained(new, safe_serialization=True)
        forget_where_it_was(new)
        for name in BESIDE:
            kept = trained / name if (trained / name).exists() else target / name
            if kept.exists():
                shutil.copyfile(kept, new / name)
        size = num_bytes(new)
        if size > most_bytes:
            raise TooLarge(f"{trained} has {size:,} bytes in float16; at most {most_bytes:,} ship")
        for file in new.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        new.chmod(0o755)
        if target.exists():
            target.rename(Path(scratch) / "old")
        new.rename(target)
    return size


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trained", type=Path, help="a diffusers pipeline folder")
    parser.add_argument("--target", type=Path, default=folder(), help="what to replace")
    arguments = parser.parse_args()
    try:
        size = ship(arguments.trained, arguments.target)
    except TooLarge as error:
        parser.error(str(error))
    print(f"{arguments.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""A folder with the configurations of a model in one file, and a link to the file.

It is a diffusers folder without the weights that are in the file. Everything that reads a model's
folder reads this one, too.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.errors import ModelNotFound, UnsupportedModel
from nightpress.diffusion_core.models.modes import text_to_image_sibling
from nightpress.diffusion_core.models.pipeline_folder import FACTS, read_json
from nightpress.diffusion_core.models.single_file.configs import (
    inferred,
    pipeline_index,
    with_markers,
)
from nightpress.diffusion_core.models.single_file.families import Family, find_family
from nightpress.diffusion_core.models.single_file.gguf_weights import (
    require_known_types,
    types_in_words,
)
from nightpress.diffusion_core.models.single_file.reading import (
    NOT_TAKEN,
    SingleFile,
    read_single_file,
)
from nightpress.diffusion_core.models.tensor_headers import listed
from nightpress.diffusion_core.models.weight_files import (
    CHECKPOINT,
    CONFIG_SUFFIXES,
    GGUF_CHECKPOINT,
    NOT_WEIGHTS,
    WEIGHT_SUFFIXES,
)

INDEX = "model_index.json"
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Components without which diffusers' pipelines sample, and which no single file holds."""


@dataclass
class _Made:
    """What is put into the folder, and what a person should know of it."""

    file: SingleFile
    family: Family
    config: Path | None
    index: dict[str, Any]
    files: dict[str, Path | dict[str, Any]] = field(default_factory=dict)
    """Path in the folder -> the file to copy or to link, or the values of a JSON file."""
    prediction_type: str = "epsilon"
    """What the scheduler that `model.config` has takes the denoiser for."""
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Folders that `model.config` should have."""


def make_folder(path: Path, config: Path | None, into: Path, name: str | None = None) -> None:
    """Make the folder of a model in one file; no weight is loaded.

    Args:
        path: the file; it may already be in the folder, as `CHECKPOINT`.
        config: a folder with configurations and tokenizers; None if the job names none.
        into: an otherwise empty folder.
        name: what errors call the file; by default its path.

    Raises:
        ModelNotFound: the file, or something that it needs beside it, is missing.
        UnsupportedModel: it is no model, or of a family that is not supported.
        ModelError: the file or a configuration is damaged.
    """
    file = read_single_file(path, name)
    family = find_family(file)
    require_known_types(file)
    made = _Made(file, family, config, _index(file, family, config))
    components = _components(made.index)
    is_network = {name: not NOT_WEIGHTS.search(kind) for name, kind in components.items()}
    for component in sorted(components, key=is_network.__getitem__):  # the scheduler comes first
        if is_network[component]:
            _add_network(made, component)
        else:
            _add_settings(made, component)
    if made.missing:
        raise ModelNotFound(_what_is_missing(made))
    _add_facts(made)
    _write(made, into)


def _index(file: SingleFile, family: Family, config: Path | None) -> dict[str, Any]:
    """The content of `model_index.json`: that of `model.config`, or what the family has."""
    if config is not None and (config / INDEX).is_file():
        index = read_json(config / INDEX)
        found = str(index.get("_class_name"))
        known = {found, text_to_image_sibling(found)}
        if family.pipelines and not known & {*family.pipelines, *_latent_consistency(family)}:
            raise UnsupportedModel(
                f"{file.name}: it is {family.title}, and model.config {config} is of a {found}; "
                f"set model.config to {family.needed(file.is_gguf)}"
            )
        return index
    if config is None or not family.is_inferred:
        where = "" if config is None else f"; there is no {INDEX} in {config}"
        needed = family.needed(file.is_gguf)
        raise ModelNotFound(
            f"{file.name}: it is {family.title}: set model.config to {needed}{where}"
        )
    return pipeline_index(family)


def _latent_consistency(family: Family) -> tuple[str, ...]:
    return ("LatentConsistencyModelPipeline",) if "SD 1" in family.title else ()


def _components(index: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: entry[1]
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)
    }


def _add_settings(made: _Made, component: str) -> None:
    """Add a scheduler, a tokenizer or a processor."""
    found = _configurations(made, component)
    if component == "scheduler":
        _add_scheduler(made, found)
    elif found:
        made.files |= found
    elif component in OPTIONAL:
        made.index[component] = [None, None]
    else:
        made.missing.append(component)


def _add_scheduler(made: _Made, found: dict[str, Path | dict[str, Any]]) -> None:
    path = "scheduler/scheduler_config.json"
    held = found.get(path)
    own = read_json(held) if isinstance(held, Path) else None
    if own is None and made.family.is_inferred:
        own = inferred(made.family, made.file, "scheduler")
    if own is None:
        made.missing.append("scheduler")
        return
    if isinstance(own.get("_class_name"), str):
        made.index["scheduler"] = ["diffusers", own["_class_name"]]
    made.prediction_type = str(own.get("prediction_type", "epsilon"))
    values = with_markers(own, made.file)
    changed = [key for key in values if key not in own or own[key] != values[key]]
    if changed and held is not None:
        said = ", ".join(f"{key} {values[key]}" for key in changed)
        made.notes.append(f"the file says of its scheduler: {said}; model.config says otherwise")
    made.files[path] = values


def _add_network(made: _Made, component: str) -> None:
    """Add the configuration of a network, and links to its weights if the file lacks it."""
    found = _configurations(made, component)
    if _is_in_file(made, component):
        values = _network_config(made, component, found)
        if values is None:
            made.missing.append(component)
        else:
            made.files |= {k: v for k, v in found.items() if not k.endswith("/config.json")}
            made.files[f"{component}/config.json"] = values
        return
    weights = _weights(made, component)
    if weights:
        made.files |= found | weights
        if not made.file.is_gguf:  # which never holds one
            made.notes.append(f"its {component} is that of model.config; the file holds none")
    elif component in OPTIONAL:
        made.index[component] = [None, None]
        if component == "safety_checker":
            made.index["requires_safety_checker"] = False
            made.notes.append("without the safety checker, which the file does not hold")
    else:
        raise ModelNotFound(_no_network(made, component))


def _network_config(
    made: _Made, component: str, found: Mapping[str, Path | dict[str, Any]]
) -> dict[str, Any] | None:
    held = found.get(f"{component}/config.json")
    if not isinstance(held, Path):
        if not made.family.is_inferred:
            return None
        return inferred(made.family, made.file, component, made.prediction_type)
    config = read_json(held)
    weight = made.file.denoiser.get("input_blocks.0.0.weight")
    if component == "unet" and weight is not None and config.get("in_channels") != weight[1]:
        # Folders for inpainting are rarer than those of the same family for text.
        made.notes.append(f"its unet takes {weight[1]} channels; model.config says otherwise")
        config["in_channels"] = weight[1]
    return config


def _is_in_file(made: _Made, component: str) -> bool:
    return component_of_file(component, _components(made.index)) in made.file.parts


def component_of_file(component: str, components: Mapping[str, str]) -> str:
    """What `reading.Part` calls a pipeline's component."""
    if component in ("unet", "transformer"):
        return "denoiser"
    return "t5" if components[component].startswith("T5") else component


def _no_network(made: _Made, component: str) -> str:
    where = "model.config is not set"
    if made.config is not None:
        where = f"{made.config}/{component} has no weights for it"
    baked = " (no VAE is baked in)" if component == "vae" else ""
    if made.file.is_gguf:
        return (
            f"{made.file.name}: it is {made.family.title}, and {where}; set model.config to "
            f"{made.family.needed(is_gguf=True)}"
        )
    return (
        f"{made.file.name}: it is {made.family.title}, and holds no {component}{baked}, and "
        f"{where}; use a file that holds it, or set model.config to a folder that does"
    )


def _what_is_missing(made: _Made) -> str:
    names = " and ".join(f"{name}/" for name in made.missing)
    return (
        f"{made.file.name}: it is {made.family.title}, and model.config {made.config} has no "
        f"{names}; set model.config to {made.family.needed(made.file.is_gguf)}"
    )


def _configurations(made: _Made, component: str) -> dict[str, Path | dict[str, Any]]:
    """Path in the folder -> each configuration file that `model.config` has for a component."""
    return {
        name: path
        for name, path in _of_config(made, component).items()
        if path.suffix in CONFIG_SUFFIXES and ".index." not in path.name and path.is_file()
    }


def _weights(made: _Made, component: str) -> dict[str, Path | dict[str, Any]]:
    return {
        name: path
        for name, path in _of_config(made, component).items()
        if path.suffix in WEIGHT_SUFFIXES or ".index." in path.name
    }


def _of_config(made: _Made, component: str) -> dict[str, Path]:
    """Path in the folder -> each file that `model.config` has for a component."""
    folder = None if made.config is None else made.config / component
    if folder is None or not folder.is_dir():
        return {}
    return {f"{component}/{path.name}": path for path in sorted(folder.iterdir())}


def _add_facts(made: _Made) -> None:
    """Add the index, the steps that `model.config` advises, and what is known about the file."""
    advised = None if made.config is None else made.config / "nightpress.json"
    if advised is not None and advised.is_file():
        made.files["nightpress.json"] = advised
    if made.file.is_gguf:
        types = types_in_words(made.file)
        made.notes.append(f"its denoiser has {types}; all else is that of model.config")
    unused = [f"{len(names)} {reason}" for reason, names in made.file.unused.items()]
    if not_taken := made.file.denoiser.keys() & NOT_TAKEN.get(_denoiser_class(made), frozenset()):
        unused.append(f"{len(not_taken)} of training ({listed(not_taken)})")
    if unused:
        made.notes.append(f"tensors that are not used: {', '.join(unused)}")
    made.files[INDEX] = made.index
    facts = {"source": made.file.name, "family": made.family.title, "notes": made.notes}
    made.files[FACTS] = facts


def _denoiser_class(made: _Made) -> str:
    components = _components(made.index)
    return components.get("transformer", components.get("unet", ""))


def _write(made: _Made, into: Path) -> None:
    for name, content in made.files.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        elif path.suffix in WEIGHT_SUFFIXES:
            path.symlink_to(content.resolve())
        else:
            shutil.copyfile(content, path)
    link = into / (GGUF_CHECKPOINT if made.file.is_gguf else CHECKPOINT)
    if made.file.path != link:
        link.symlink_to(made.file.path.resolve())

"""Ways to damage the weights of one network in a saved model."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def weights_of(component: Path) -> Path:
    """The one safetensors file of a network."""
    (file,) = component.glob("*.safetensors")
    return file


def change(component: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite a network's weights after `edit` has changed them in place."""
    file = weights_of(component)
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def without_one(component: Path) -> None:
    """The first tensor is missing."""
    change(component, lambda tensors: tensors.__delitem__(min(tensors)))


def without_half(component: Path) -> None:
    """Every other tensor is missing."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in sorted(tensors)[::2]:
            del tensors[name]

    change(component, edit)


def under_another_prefix(component: Path) -> None:
    """Every tensor has a name that the network does not know."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in sorted(tensors):
            tensors[f"ema.{name}"] = tensors.pop(name)

    change(component, edit)


def with_another(component: Path) -> None:
    """There is one tensor too many."""
    change(component, lambda tensors: tensors.update({f"{max(tensors)}_2": torch.zeros(2)}))


def of_another_shape(component: Path) -> None:
    """The last tensor is longer than the network's."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[max(tensors)] = torch.cat([tensors[max(tensors)]] * 2)

    change(component, edit)


def of_integers(component: Path) -> None:
    """The last tensor holds whole numbers."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[max(tensors)] = tensors[max(tensors)].to(torch.int32)

    change(component, edit)


def with_nan(component: Path) -> None:
    """One number of one tensor is NaN."""
    change(component, lambda tensors: tensors[max(tensors)].view(-1)[-1:].fill_(torch.nan))


def truncated(component: Path) -> None:
    """The last bytes of the file are missing."""
    file = weights_of(component)
    file.write_bytes(file.read_bytes()[:-40])


def empty(component: Path) -> None:
    """The file has no bytes."""
    weights_of(component).write_bytes(b"")


def in_shards(component: Path) -> list[Path]:
    """Divide the weights among three files with an index; nothing is missing yet."""
    file = weights_of(component)
    tensors = load_file(file)
    file.unlink()
    names = sorted(tensors)
    shards = [
        component / f"{file.stem}-{number + 1:05}-of-00003.safetensors" for number in range(3)
    ]
    places = {name: shards[index % 3] for index, name in enumerate(names)}
    for shard in shards:
        held = {name: tensors[name] for name in names if places[name] == shard}
        save_file(held, shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: places[name].name for name in names}}
    (component / f"{file.name}.index.json").write_text(json.dumps(index))
    return shards


def without_a_shard(component: Path) -> None:
    """The second of three files is missing."""
    in_shards(component)[1].unlink()


def without_a_tensor_of_the_index(component: Path) -> None:
    """A shard lacks a tensor that the index says is in it."""
    shard = in_shards(component)[1]
    tensors = load_file(shard)
    del tensors[min(tensors)]
    save_file(tensors, shard, metadata={"format": "pt"})


def without_an_index(component: Path) -> None:
    """Nothing says which file holds what."""
    in_shards(component)
    next(component.glob("*.index.json")).unlink()


DAMAGES: dict[Callable[[Path], object], str] = {
    without_one: r"1 of the \d+ tensors of \w+ are missing from \S+: ",
    without_half: r"\d+ of the \d+ tensors of \w+ are missing from \S+: .* and \d+ more",
    under_another_prefix: r"(\d+) of the \1 tensors of \w+ are missing",
    with_another: r"\S+ holds 1 tensor without a place in \w+ as config.json .*: \S+_2$",
    of_another_shape: r"\S+ holds 1 tensor of another shape than config.json gives",
    of_integers: r"1 of the \d+ tensors of \w+ are stored as whole numbers \(I32\)",
    with_nan: r"1 of its \d+ weights hold NaN or infinity in float32: ",
    truncated: "not a readable safetensors file",
    empty: "not a readable safetensors file",
    without_a_shard: r"1 of its 3 weight files are missing: \S+-00002-of-00003",
    without_a_tensor_of_the_index: r"1 of the \d+ tensors that \S+ lists are not in their files",
    without_an_index: r"no index says which of its 3 weight files holds what",
}
"""Ways to damage a network -> what the error says."""

ONLY_WHEN_LOADED = (with_nan,)
"""What the headers of the files do not show."""

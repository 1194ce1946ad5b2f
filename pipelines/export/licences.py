"""The licences of the model and the adapters that made the images of a run, where they say one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.models.location import HUB_ID
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import Options, Store, is_local, is_url
from nightpress.pipelines.storage.urls import local_path

CARD = "README.md"
"""The file of a model or an adapter whose YAML head states its licence, as on the hub."""

OWN_LICENCE = "apache-2.0"
"""Licence of the built-in model and its adapters; the package has the same."""

_HEAD = re.compile(r"\A---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Licence:
    """The licence of one thing that images were made with."""

    role: str
    """`model`, `LoRA`, `ControlNet` or `IP-Adapter`."""
    name: str
    fingerprint: str
    """SHA-256 of its weights."""
    licence: str | None
    """As its card states it; None if it states none, or cannot be read."""


def licences_of(record: RunRecord, options: Options) -> list[Licence]:
    """The licences behind a run, each thing once.

    Nothing is downloaded: of a model of the hub, only a card in this machine's cache is read.
    """
    found = [each for one in record.each_model for each in _of_model(one, options)]
    return list(dict.fromkeys(found))


def _of_model(record: RunRecord, options: Options) -> list[Licence]:
    """The licences behind one model of a run."""
    model = record.model
    found = [
        Licence("model", model.source, model.fingerprint, stated_licence(model.source, options))
    ]
    sources = dict(_adapter_sources(record))
    for role, infos in (
        ("LoRA", (*model.loras, *model.row_loras)),
        ("ControlNet", model.controlnets),
        ("IP-Adapter", model.references),
        ("embedding", model.embeddings),
    ):
        found += [_adapter(role, info, sources.get(info.name), options) for info in infos]
    return found


def _adapter(role: str, info: LoraInfo, source: str | None, options: Options) -> Licence:
    stated = None if source is None else stated_licence(source, options)
    return Licence(role, info.name, info.sha256, stated)


def _adapter_sources(record: RunRecord) -> Iterator[tuple[str, str]]:
    """(name, source) of every adapter of the job."""
    model = record.spec.model
    for lora in (*model.loras, *model.row_loras):
        yield lora.label, lora.source
    yield from ((each.label, each.source) for each in model.controlnets)
    yield from ((each.label, each.source) for each in model.references)
    yield from ((each.label, each.source) for each in model.embeddings)


def stated_licence(source: str, options: Options) -> str | None:
    """The licence that the card beside a model or an adapter states; None if it states none.

    Nothing is downloaded from a hub.

    Args:
        source: as a job names it.
        options: fsspec options by protocol, for URLs.
    """
    if source.partition("/")[0] == "builtin":
        return OWN_LICENCE
    card = _card(source, options)
    head = None if card is None else _HEAD.match(card)
    if head is None:
        return None
    try:
        values = yaml.safe_load(head.group(1))
    except yaml.YAMLError:
        return None
    stated = values.get("license") if isinstance(values, dict) else None
    return str(stated) if stated else None


def _card(source: str, options: Options) -> str | None:
    """The text of the card beside a model or an adapter; None if there is none to be read."""
    try:
        if is_url(source) and not is_local(source):
            data = Store(source, options).read_if_any(CARD)
        else:
            folder = local_path(source)
            folder = folder.parent if folder.is_file() else folder
            path = folder / CARD if folder.is_dir() else _cached_card(source)
            data = None if path is None or not path.is_file() else path.read_bytes()
    except (StoreError, OSError):
        return None
    return None if data is None else data.decode("utf-8", "replace")


def _cached_card(source: str) -> Path | None:
    """The card of a hub model in this machine's cache."""
    hub_id = HUB_ID.fullmatch(source)
    if hub_id is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id["repo"], CARD, revision=hub_id["revision"])
    return Path(found) if isinstance(found, str) else None

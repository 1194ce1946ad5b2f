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
    """As its card states it; None if it states none, is not there, or could not be read."""
    is_unread: bool = False
    """Whether a store or a disk failed while the card was read."""


def licences_of(record: RunRecord, options: Options) -> list[Licence]:
    """The licences behind a run, each thing once.

    Nothing is downloaded: of a model of the hub, only a card in this machine's cache is read.
    """
    found = [each for one in record.each_model for each in _of_model(one, options)]
    return list(dict.fromkeys(found))


def _of_model(record: RunRecord, options: Options) -> list[Licence]:
    """The licences behind one model of a run."""
    model = record.model
    revision = record.spec.model.revision
    found = [_licence("model", model.source, model.fingerprint, (model.source, revision), options)]
    sources = {name: (source, revision) for name, source, revision in _adapter_sources(record)}
    for role, infos in (
        ("LoRA", (*model.loras, *model.row_loras)),
        ("ControlNet", model.controlnets),
        ("IP-Adapter", model.references),
        ("embedding", model.embeddings),
    ):
        found += [_adapter(role, info, sources.get(info.name), options) for info in infos]
    return found


def _adapter(
    role: str, info: LoraInfo, source: tuple[str, str | None] | None, options: Options
) -> Licence:
    return _licence(role, info.name, info.sha256, source, options)


def _licence(
    role: str,
    name: str,
    fingerprint: str,
    source: tuple[str, str | None] | None,
    options: Options,
) -> Licence:
    """The licence of one thing by its source and the job's revision of it."""
    if source is None:
        return Licence(role, name, fingerprint, None)
    try:
        stated = _stated(*source, options)
    except (StoreError, OSError):
        return Licence(role, name, fingerprint, None, is_unread=True)
    return Licence(role, name, fingerprint, stated)


def _adapter_sources(record: RunRecord) -> Iterator[tuple[str, str, str | None]]:
    """(name, source, revision) of every adapter of the job."""
    model = record.spec.model
    for lora in (*model.loras, *model.row_loras):
        yield lora.label, lora.source, None
    yield from ((each.label, each.source, None) for each in model.embeddings)
    yield from ((each.label, each.source, each.revision) for each in model.controlnets)
    yield from ((each.label, each.source, each.revision) for each in model.references)


def stated_licence(source: str, options: Options) -> str | None:
    """The licence that the card beside a model or an adapter states; None if it states none.

    Nothing is downloaded from a hub. A card that cannot be read counts as one that states none.

    Args:
        source: as a job names it.
        options: fsspec options by protocol, for URLs.
    """
    try:
        return _stated(source, None, options)
    except (StoreError, OSError):
        return None


def _stated(source: str, revision: str | None, options: Options) -> str | None:
    if source.partition("/")[0] == "builtin":
        return OWN_LICENCE
    card = _card(source, revision, options)
    head = None if card is None else _HEAD.match(card)
    if head is None:
        return None
    try:
        values = yaml.safe_load(head.group(1))
    except yaml.YAMLError:
        return None
    stated = values.get("license") if isinstance(values, dict) else None
    return str(stated) if stated else None


def _card(source: str, revision: str | None, options: Options) -> str | None:
    """The text of the card beside a model or an adapter; None if there is none.

    Raises:
        StoreError: the store refuses or fails.
        OSError: the file cannot be read.
    """
    if is_url(source) and not is_local(source):
        data = Store(source, options).read_if_any(CARD)
    else:
        folder = local_path(source)
        folder = folder.parent if folder.is_file() else folder
        path = folder / CARD if folder.is_dir() else _cached_card(source, revision)
        data = None if path is None or not path.is_file() else path.read_bytes()
    return None if data is None else data.decode("utf-8", "replace")


def _cached_card(source: str, revision: str | None) -> Path | None:
    """The card of a hub model in this machine's cache."""
    hub_id = HUB_ID.fullmatch(source)
    if hub_id is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id["repo"], CARD, revision=hub_id["revision"] or revision)
    return Path(found) if isinstance(found, str) else None

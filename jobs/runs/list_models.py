"""`models`: the models that a job on this machine can use."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightpress.pipelines.export.licences import stated_licence
from nightpress.pipelines.models.listing import Kind, listed_models
from nightpress.pipelines.storage import Options

DEFAULT_SOURCES = ("builtin", "hub")
"""What is listed unless sources are given."""


@dataclass(frozen=True)
class ModelSummary:
    """A model that a job can name, or something that looks like one."""

    source: str
    """What `model` in a job would be."""
    kind: Kind
    family: str | None
    """What a model in one file is, such as SDXL; None for others."""
    pipeline: str | None
    """Name of the class of diffusers that samples it; None if it cannot be used."""
    modes: tuple[str, ...]
    """Without those of ControlNets and IP-Adapters."""
    width: int | None
    """Native size in pixels; None if nothing says it."""
    height: int | None
    licence: str | None
    """As the card in its folder states it; None if there is none."""
    weight_bytes: dict[str, int]
    """Bytes of its weights in memory by `model.dtype`; empty if they are not on this machine."""
    stored_bytes: int | None
    """Bytes of its weight files; None if that is not known."""
    is_ready: bool
    """Whether this machine can load it without a network."""
    reason: str | None
    """Why it is not ready, or cannot be used."""
    notes: tuple[str, ...]
    """What is not used of a model in one file, or comes from elsewhere."""


def list_models(
    sources: Sequence[str] = (), *, config: str | None = None, storage: Options | None = None
) -> list[ModelSummary]:
    """The models that jobs on this machine can use, without loading a weight or asking a hub.

    Args:
        sources: each is `builtin`, `hub` for the hub's cache on this machine, a hub id in it, a
            file, or a folder or URL, below which all models are listed; by default `builtin` and
            `hub`.
        config: `model.config` for the models in one file.
        storage: fsspec options by protocol.

    Raises:
        ModelError: there is no such source.
        StoreError: the store behind a URL refuses or fails.
    """
    options = storage or {}
    return [
        ModelSummary(
            source=each.source,
            kind=each.kind,
            family=each.family,
            pipeline=None if each.what is None else each.what.pipeline,
            modes=() if each.what is None else each.what.modes,
            width=None if each.what is None else each.what.width,
            height=None if each.what is None else each.what.height,
            licence=stated_licence(each.source, options),
            weight_bytes=each.weight_bytes,
            stored_bytes=each.stored_bytes,
            is_ready=each.is_ready,
            reason=each.reason,
            notes=() if each.what is None else each.what.notes,
        )
        for source in sources or DEFAULT_SOURCES
        for each in listed_models(source, options, config)
    ]

"""`reproduce`: make one image again from its embedded metadata, and compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.jobs.runs.repair_spec import pickled_models, require_pickles_allowed
from nightpress.jobs.runs.stored_image import read_image, run_around
from nightpress.pipelines.errors import ImageNotFound, InputError
from nightpress.pipelines.image_files.encoding import opened, read_facts
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.origin import row_of_bytes
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards import reproduce as reproduction
from nightpress.pipelines.shards.recorded_inputs import recorded_inputs
from nightpress.pipelines.shards.reproduce import Reproduction
from nightpress.pipelines.shards.sound_facts import require_sound
from nightpress.pipelines.storage import Options, require_answers


@dataclass(frozen=True)
class ReproduceResult:
    """An image that was made again."""

    facts: ImageFacts
    """The original's embedded metadata."""
    comparison: Reproduction
    """How the new image differs from the original."""
    image: bytes = field(repr=False)
    """The new image file."""


@errors_only()
def reproduce(
    image: str | Path | Run,
    image_id: str | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
    inputs_root: str | None = None,
    read_inputs: bool = False,
    allow_pickle: bool = False,
    storage: Options | None = None,
) -> ReproduceResult:
    """Make one image again from its embedded metadata, and compare the two.

    Adapters, threads and the quality of a lossy format are those of the run that holds the image.
    Its pictures are read from where the run's plan names them, and must have the recorded hashes.

    Args:
        image: path or URL of an image file, `<pack>/<member>` of a packed one; or an opened run.
        image_id: which image of the run.
        model: where the model is now, if not where the image says.
        device: `cpu` or `cuda`; the run's own device by default.
        inputs_root: where relative paths of its pictures start now, if not where the job says.
        read_inputs: read its pictures from where the image itself says, if no run names them.
        allow_pickle: load pickled weights if the run that holds the image was made with them.
        storage: fsspec options by protocol, for a URL.

    Returns:
        The new image, and how it compares.

    Raises:
        ImageNotFound: there is no such image, or nightpress did not make it.
        ModelError: the model cannot be found, or is not the one that made the image.
        InputError: a picture that it was made from cannot be used, or has changed.
        UntrustedRun: the run's own record allows pickles, and `allow_pickle` does not.
        StoreError: the image or its run cannot be read.
    """
    options: Options = storage or {}
    if isinstance(image, Run):
        options, image = image.store.options, _url_of(image, image_id)
    return _reproduce(str(image), model, device, inputs_root, read_inputs, allow_pickle, options)


def _reproduce(
    url: str,
    model: str | None,
    device: str | None,
    inputs_root: str | None,
    read_inputs: bool,
    allow_pickle: bool,
    options: Options,
) -> ReproduceResult:
    data = read_image(url, options)
    facts, run = _facts_and_run(url, data, options)
    if run is not None:
        trusted = pickled_models(run.spec) if allow_pickle else frozenset()
        require_pickles_allowed(run, trusted)
    record = None if run is None else _of_image(run.record, facts)
    with _named(url):
        inputs = recorded_inputs(facts, run, inputs_root, read_inputs, options)
        loaded = _load(facts, record, model, device, options)
        images = _format(data, record)
        embed = "full" if record is None else record.spec.provenance.embed
        comparison, again = reproduction.reproduce(data, facts, loaded, images, inputs, embed)
    return ReproduceResult(facts, comparison, again)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Put the image's URL before what is wrong with it or with its pictures."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{url}: {error}") from error
    except ValueError as error:
        raise ImageNotFound(f"{url}: {error}") from error


def _url_of(run: Run, image_id: str | None) -> str:
    """URL of an image's file in its run."""
    if image_id is None:
        raise ImageNotFound(f"{run.url}: image_id is required to choose an image of the run")
    with run.reading():
        row = run.row(image_id)
    if row is None or row["file"] is None:
        raise ImageNotFound(f"{run.url}: no image {image_id!r} is stored")
    return "/".join(filter(None, (run.url, row["file"], row["member"])))


def _facts_and_run(url: str, data: bytes, options: Options) -> tuple[ImageFacts, Run | None]:
    """An image's metadata, if it is sound and the image is of the size it says, and its run.

    Raises:
        ImageNotFound: there is none, it cannot be true, or the image is too large to open.
    """
    try:
        with opened(data):
            facts = read_facts(data)
        run = run_around(url, options)
        if facts is None:
            row = None if run is None else row_of_bytes(run, data)
            facts = None if row is None else ImageFacts.from_dict(dict(row))
        if facts is None:
            raise ValueError(
                "not an image made by nightpress, or its metadata was stripped"
                if run is None
                else f"it has no metadata, and {run.url} has recorded no image with these bytes"
            )
        reproduction.require_size(data, require_sound(facts))
    except ValueError as error:
        raise ImageNotFound(f"{url}: {error}") from error
    return facts, run


def _of_image(record: RunRecord, facts: ImageFacts) -> RunRecord:
    """The record for the model that made an image; of several that may have, the first."""

    def suits(each: RunRecord) -> tuple[bool, bool]:
        pairs = (
            (facts.controlnets, each.model.controlnets),
            (facts.references, each.model.references),
        )
        known = (*each.model.loras, *each.model.row_loras)
        lacks = any(
            {one.name for one in used} - {one.name for one in having}
            for used, having in (*pairs, (facts.loras, known))
        )
        return each.model.fingerprint == facts.model_fingerprint, not lacks

    return max(record.each_model, key=suits)


def _load(
    facts: ImageFacts,
    record: RunRecord | None,
    source: str | None,
    device: str | None,
    options: Options,
) -> LoadedModel:
    """Load the exact model that made an image.

    Raises:
        ModelError: it cannot be found, or its fingerprint differs.
    """
    spec, row_lora = _model_spec(facts, record, source)
    require_answers([spec.source], options)
    files = ModelFiles.locate(spec, options)
    device = device or (record.device if record is not None else "cpu")
    info = files.describe(spec, device=device)
    if info.fingerprint != facts.model_fingerprint:
        raise ModelError(
            f"{spec.source}: its fingerprint is {info.fingerprint[:12]}, but the image was made "
            f"with {facts.model_fingerprint[:12]}; use --model to say where that model is"
        )
    if row_lora is not None:
        _require_lora(row_lora, info)
    _require_adapters(facts, info)
    fix_numerics(record.threads if record is not None and record.threads else 1)
    return files.load(spec, device)


def _model_spec(
    facts: ImageFacts, record: RunRecord | None, source: str | None
) -> tuple[ModelSpec, LoraInfo | None]:
    """The model that made an image, and the LoRA that its row named.

    Raises:
        ModelError: the image alone does not say where its model or its LoRAs are.
    """
    if record is None and source is None and facts.model != "builtin":
        raise ModelError(
            f"the image was made with {facts.model}; use --model to say where that model is; "
            "a model is not downloaded only because an image names it"
        )
    for kind, used in (
        ("LoRAs", facts.loras),
        ("ControlNets", facts.controlnets),
        ("IP-Adapters", facts.references),
        ("embeddings", facts.textual_inversions),
    ):
        if record is None and used:
            names = ", ".join(each.name for each in used)
            raise ModelError(
                f"the image was made with {kind} ({names}), and no folder above it has a run.json "
                "that says where they are"
            )
    base = record.spec.model if record is not None else ModelSpec(source=facts.model)
    own = reproduction.own_lora(facts, len(base.loras))
    changes = {
        "source": source or base.source,
        "dtype": facts.dtype,
        "speed": SpeedSpec.from_text(facts.speed),
        "prompts": PromptsSpec.from_text(facts.prompt_reading),
        "row_loras": tuple(lora for lora in base.row_loras if own and lora.label == own.name),
    }
    return base.model_copy(update=changes), own


def _require_lora(lora: LoraInfo, model: ModelInfo) -> None:
    """Check that the LoRA of an image's row is still the one that the image was made with.

    Raises:
        ModelError: the run's job does not have it, or its file has changed.
    """
    if not model.row_loras:
        raise ModelError(
            f"the image was made with LoRA {lora.name!r}, which is not among the row_loras of "
            "run.json"
        )
    if model.row_loras[0].sha256 != lora.sha256:
        raise ModelError(
            f"LoRA {lora.name!r}: its sha256 is {model.row_loras[0].sha256[:12]}, but the image "
            f"was made with {lora.sha256[:12]}"
        )


def _require_adapters(facts: ImageFacts, model: ModelInfo) -> None:
    """Check that the run's ControlNets and IP-Adapters are those that the image was made with.

    Raises:
        ModelError: one is missing, or its files have changed.
    """
    for kind, used, known in (
        ("ControlNet", facts.controlnets, model.controlnets),
        ("IP-Adapter", facts.references, model.references),
        ("embedding", facts.textual_inversions, model.embeddings),
    ):
        hashes = {each.name: each.sha256 for each in known}
        for each in used:
            if each.name not in hashes:
                raise ModelError(
                    f"the image was made with {kind} {each.name!r}, which run.json does not have"
                )
            if hashes[each.name] != each.sha256:
                raise ModelError(
                    f"{kind} {each.name!r}: its sha256 is {hashes[each.name][:12]}, but the image "
                    f"was made with {each.sha256[:12]}"
                )


def _format(data: bytes, record: RunRecord | None) -> ImagesSpec:
    """Format and quality of an image file."""
    if record is not None:
        return record.spec.images
    with opened(data) as image:
        return ImagesSpec.model_validate({"format": str(image.format).lower()})

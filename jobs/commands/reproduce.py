"""`nightpress reproduce`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.loading import (
    LoadedModel,
    ModelInfo,
    ModelSpec,
    describe,
    load,
)
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.jobs.commands.common import (
    json_option,
    require_writable,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.exit_codes import SOME_FAILED
from nightpress.pipelines.errors import ImageNotFound
from nightpress.pipelines.image_files.encoding import opened, read_facts
from nightpress.pipelines.image_files.packing import member_of, split_member
from nightpress.pipelines.job.sections import ImagesSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.loras import locate_loras
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.record import RunRecord, read_record
from nightpress.pipelines.shards.reproduce import (
    Reproduction,
    own_lora,
    reproduce,
    require_size,
    require_sound,
)
from nightpress.pipelines.storage import Options, Store, open_source
from nightpress.pipelines.storage.urls import absolute

FOLDERS_ABOVE = 8
"""How far above an image its run is looked for."""


@click.command("reproduce")
@click.argument("image")
@click.option("--model", metavar="SOURCE", help="Where the model lies now. [default: as recorded]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: as the run]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Keep the new image.")
@storage_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    image: str,
    model: str | None,
    device: str | None,
    out: Path | None,
    storage: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make IMAGE, a path or URL, again from what it says of itself, and compare.

    Says bit-exact, or by how much the new one differs; then the exit code is 3. LoRAs, threads
    and the quality of a lossy format are those of the run that the image lies in. An image in a
    pack is named behind it, as in RUN/images/shard-00000-0123456789abcdef.tar/0_00.png.
    """
    if out is not None:
        require_writable("--out", out)
    options = storage_options(storage)
    data = read_image(image, options)
    facts = facts_of(image, data)
    record = run_around(image, options)
    loaded = loaded_model(facts, record, model, device, options)
    images = images_spec(data, record)
    try:
        result, again = reproduce(data, facts, loaded, images)
    except ValueError as error:
        raise ImageNotFound(f"{image}: {error}") from error
    if out is not None:
        keep(out, again)
    click.echo(json.dumps(asdict(result)) if as_json else describe_result(facts, result))
    if not result.same_pixels:
        ctx.exit(SOME_FAILED)


def keep(out: Path, image: bytes) -> None:
    """Write the new image.

    Raises:
        click.FileError: the disk takes it no more.
    """
    try:
        out.write_bytes(image)
    except OSError as error:
        raise click.FileError(str(out), error.strerror) from error


def read_image(url: str, options: Options) -> bytes:
    """The file's bytes, or those of a member of a pack.

    Raises:
        StoreMissing: it is not there.
        ImageNotFound: it is a pack, or one that has no such member.
    """
    packed = split_member(url)
    path, member = packed or (url, "")
    with open_source(path, options) as stream:
        data = stream.read()
    try:
        return data if packed is None else member_of(path, data, member)
    except ValueError as error:
        raise ImageNotFound(f"{path}: {error}") from error


def facts_of(url: str, data: bytes) -> ImageFacts:
    """What an image says of itself.

    Raises:
        ImageNotFound: it says nothing, or nothing that could be, or is too large to be opened.
    """
    try:
        with opened(data):
            facts = read_facts(data)
        if facts is None:
            raise ValueError("not an image of nightpress, or its metadata was stripped")
        require_size(data, require_sound(facts))
    except ValueError as error:
        raise ImageNotFound(f"{url}: {error}") from error
    return facts


def run_around(url: str, options: Options) -> RunRecord | None:
    """The run that an image lies in: the nearest folder above it with a run.json."""
    path, _ = split_member(url) or (url, "")
    folder = absolute(path)
    for _ in range(FOLDERS_ABOVE):
        folder, slash, _ = folder.rpartition("/")
        if not slash or folder.endswith((":", ":/")) or not folder:
            return None
        record = read_record(Store(folder, options))
        if record is not None:
            return record
    return None


def loaded_model(
    facts: ImageFacts,
    record: RunRecord | None,
    source: str | None,
    device: str | None,
    options: Options,
) -> LoadedModel:
    """The very model that made an image.

    Raises:
        ModelError: it is not to be found, or is another one now.
    """
    import torch

    if record is None and source is None and facts.model != "builtin":
        raise ModelError(
            f"made with {facts.model}, as it says; --model names where that lies, for nothing that "
            "an image names is fetched unasked"
        )
    base = record.spec.model if record is not None else ModelSpec(source=facts.model)
    speed = SpeedSpec.from_text(facts.speed)
    if record is None and facts.loras:
        names = ", ".join(lora.name for lora in facts.loras)
        raise ModelError(f"made with LoRAs ({names}), and no run.json above it says where they are")
    own = own_lora(facts, len(base.loras))
    changes = {
        "source": source or base.source,
        "dtype": facts.dtype,
        "speed": speed,
        "row_loras": tuple(lora for lora in base.row_loras if own and lora.label == own.name),
    }
    spec = base.model_copy(update=changes)
    torch.set_num_threads(record.threads if record is not None and record.threads else 1)
    folder, loras = locate(spec, options), locate_loras(spec, options)
    info = describe(folder, spec, loras)
    if info.fingerprint != facts.model_fingerprint:
        raise ModelError(
            f"{spec.source}: its fingerprint is {info.fingerprint[:12]}, and the image was made "
            f"with {facts.model_fingerprint[:12]}; --model names where that one lies"
        )
    if own is not None:
        require_lora(own, info)
    return load(folder, spec, device or (record.device if record is not None else "cpu"), loras)


def require_lora(own: LoraInfo, model: ModelInfo) -> None:
    """See that the LoRA of an image's row is the one that it was made with.

    Raises:
        ModelError: it is not in the run's job any more, or another file now.
    """
    if not model.row_loras:
        raise ModelError(f"made with LoRA {own.name!r}, which run.json does not have for rows")
    if model.row_loras[0].sha256 != own.sha256:
        raise ModelError(
            f"LoRA {own.name!r}: its sha256 is {model.row_loras[0].sha256[:12]}, and the image was "
            f"made with {own.sha256[:12]}"
        )


def images_spec(data: bytes, record: RunRecord | None) -> ImagesSpec:
    """Format and quality of an image file."""
    if record is not None:
        return record.spec.images
    with opened(data) as image:
        return ImagesSpec.model_validate({"format": str(image.format).lower()})


def describe_result(facts: ImageFacts, result: Reproduction) -> str:
    """In a line or two."""
    made = (
        f"{facts.image_id}: {facts.model} {facts.model_fingerprint[:12]}, seed {facts.seed}, "
        f"{facts.num_inference_steps} steps of {facts.scheduler}, {facts.dtype}"
        f"{f', {facts.speed}' if facts.speed else ''}"
    )
    return f"{made}\n{result}"

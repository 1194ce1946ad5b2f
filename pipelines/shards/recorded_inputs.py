"""The pictures of an image that is made again, read from where its run's plan names them.

Anybody may have written an image file, so the places that it names itself are read only if the
caller says so.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import first_size
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines.errors import Damaged, InputChanged, InputError, StoreMissing
from nightpress.pipelines.inputs.preparing import NOT_FITTED, input_info, prepare
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.planning import candidate_shards, read_shard
from nightpress.pipelines.records import ImageFacts, InputInfo, PlannedInput
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.shards.reproduce import RecordedInputs, conditioning_of
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Options


def recorded_inputs(
    facts: ImageFacts, run: Run | None, root: str | None, may_read: bool, options: Options
) -> RecordedInputs:
    """Find, read and prepare the pictures that an image was made from.

    Args:
        facts: its embedded metadata.
        run: the run that holds it, if any.
        root: where relative paths start, if not where the run's do.
        may_read: whether to read the places that the image itself names, if no run names them.
        options: fsspec options by protocol.

    Raises:
        InputError: no run names its pictures, one cannot be used, or its bytes have changed.
        StoreError: a store fails.
        ValueError: the metadata does not say how they are used.
    """
    if not facts.inputs:
        return RecordedInputs(conditioning_of(facts))
    planned = _planned_or_none(run, facts, may_read)
    inputs = _named(facts) if planned is None else planned.inputs
    conditioning = conditioning_of(facts) if planned is None else planned.params.conditioning
    spec = _spec(facts, run, root)
    runs = None
    if run is not None:
        options = {**run.spec.storage, **options}
        runs = EarlierRuns(run.url, options)
    reader = InputReader(spec, options, runs)
    contents = [_read(reader, each) for each in inputs]
    _require_same(facts.inputs, contents)
    held = [replace(each, data=data) for each, data in zip(inputs, contents, strict=True)]
    size = first_size(facts.passes, facts.width, facts.height)
    prepared = prepare(held, conditioning, size, spec, options)
    return RecordedInputs(conditioning, prepared.images)


def _planned_or_none(run: Run | None, facts: ImageFacts, may_read: bool) -> PlannedImage | None:
    """The image in the plan of its run; None if there is none, and its own places may be read.

    Raises:
        InputError: no run names its pictures, and its own places may not be read.
        StoreError: the plan cannot be read.
    """
    try:
        planned = None if run is None else _planned(run, facts)
    except (StoreMissing, Damaged):  # the plan is gone
        if not may_read:
            raise
        planned = None
    if planned is None and not may_read:
        names = ", ".join(f"{each.role} {each.url or '(bytes)'}" for each in facts.inputs)
        raise InputError(
            f"the image was made from pictures ({names}), and no folder above it has a run whose "
            "plan names them; as an image may name any file, only --read-inputs reads those that "
            "it names itself"
        )
    return planned


def _read(reader: InputReader, planned: PlannedInput) -> bytes:
    try:
        return reader.read(planned)
    except InputError as error:
        raise type(error)(f"{planned.role} {planned.url or '(bytes)'}: {error}") from error


def _spec(facts: ImageFacts, run: Run | None, root: str | None) -> InputsSpec:
    """How the pictures were fitted, and where relative paths start; references are not fitted."""
    spec = InputsSpec() if run is None else run.spec.inputs
    fits = [each.fit for each in facts.inputs if each.fit != NOT_FITTED]
    changes = {"fit": fits[0] if fits else spec.fit, "root": spec.root if root is None else root}
    return spec.model_copy(update=changes)


def _planned(run: Run, facts: ImageFacts) -> PlannedImage | None:
    """The image in the plan of its run; None if the plan has none that is conditioned as this."""
    store, layout = run.store, run.record.layout
    for shard in candidate_shards(store, layout, run.spec.seed, facts.image_id):
        rows = read_shard(store, layout, shard)
        for image in planned_images(rows.filter(pc.equal(rows["image_id"], facts.image_id))):
            inputs = tuple(input_info(each, run.spec.inputs.fit) for each in image.inputs)
            conditioning = image.params.conditioning
            if inputs == facts.without_hashes.inputs and _is_conditioned(facts, conditioning):
                return image
    return None


def _is_conditioned(facts: ImageFacts, planned: Conditioning) -> bool:
    """Whether an image says that it was conditioned as its plan has it."""
    adapters = (*facts.controlnets, *facts.references)
    return (facts.mode, facts.strength, facts.canvas) == (
        planned.mode,
        planned.strength,
        planned.canvas,
    ) and [(each.name, each.scale) for each in adapters] == [
        *zip(planned.controls, planned.control_scales, strict=True),
        *zip(planned.adapters, planned.reference_scales, strict=True),
    ]


def _named(facts: ImageFacts) -> tuple[PlannedInput, ...]:
    """The pictures as the image names them.

    Raises:
        InputError: it names none, because the manifest held the bytes.
    """
    for each in facts.inputs:
        if each.url is None:
            raise InputError(f"{each.role}: the manifest held its bytes, and the image does not")
    return tuple(PlannedInput(each.role, each.url) for each in facts.inputs)


def _require_same(recorded: Sequence[InputInfo], contents: Sequence[bytes]) -> None:
    """Compare the hashes of pictures with those that an image was made from.

    Raises:
        InputChanged: one differs; the message names all that do.
    """
    changed = []
    for each, data in zip(recorded, contents, strict=True):
        found = hashlib.sha256(data).hexdigest()
        if found != each.sha256:
            changed.append(
                f"{each.role} {each.url or '(bytes)'}: its sha256 is {found[:12]}, but the image "
                f"was made from {(each.sha256 or 'nothing')[:12]}"
            )
    if changed:
        raise InputChanged("; ".join(changed))

"""Check the pictures that rows name before a run begins: that they are there, or can be decoded.

Each distinct picture is looked at once, whatever the number of rows that name it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import (
    MAX_PROBLEMS,
    InputError,
    ManifestError,
    Problem,
    StoreDenied,
)
from nightpress.pipelines.inputs.decoding import limits_of
from nightpress.pipelines.inputs.fitting import same_shape
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.inputs.references import RunImage, RunImages, is_run_image, located
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.row_problems import with_lines
from nightpress.pipelines.planning.input_hashes import HASHES
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.named_inputs import COLOUR, MASK
from nightpress.pipelines.planning.named_pictures import NamedInputs
from nightpress.pipelines.planning.picture_facts import PictureFacts, facts_of
from nightpress.pipelines.planning.presence import missing_files, unusable_stores
from nightpress.pipelines.records import PlannedInput
from nightpress.pipelines.storage import is_local

DECODE_THREADS = 8

Key = tuple[str, int]
"""A picture's URL, or a name for its bytes; and what it is used for: see `named_inputs`."""


class RecordedImages(RunImages, Protocol):
    """Knows and reads images of earlier runs."""

    def recorded(self, images: Sequence[RunImage]) -> Mapping[RunImage, PictureFacts | str]:
        """What their runs have recorded about images, or why these cannot be used.

        Raises:
            StoreError: a store fails.
        """
        ...


@dataclass(frozen=True)
class _Findings:
    """What is known about pictures after a check."""

    facts: Mapping[Key, PictureFacts]
    problems: Mapping[Key, str]


def check_inputs(spec: RunSpec, layout: PlanLayout, runs: RecordedImages) -> PlanLayout:
    """Check the pictures that a manifest names, as the job's `inputs.check` asks for.

    Args:
        spec: the job.
        layout: the plan, as `check` laid it out.
        runs: knows images of earlier runs.

    Returns:
        The plan, with the hashes of the pictures that were read.

    Raises:
        ManifestError: pictures cannot be used; names a row for each.
        StoreError: a store does not answer.
    """
    named = layout.inputs
    if spec.inputs.check == "none" or not len(named.pictures):
        return replace(layout, inputs=NamedInputs())
    findings = _found(spec, named, runs)
    problems = sorted(
        [*_picture_problems(named, findings), *_pair_problems(named, findings)],
        key=_order_in(layout),
    )
    if problems:
        shown = with_lines(problems[:MAX_PROBLEMS], layout.files, spec.storage)
        raise ManifestError(shown, len(problems))
    hashes = {url: each.sha256 for (url, _), each in findings.facts.items()}
    hashes = {url: sha256 for url, sha256 in hashes.items() if not named.is_bytes(url)}
    table = pa.table([list(hashes), list(hashes.values())], schema=HASHES) if hashes else None
    return replace(
        layout, inputs=NamedInputs(), num_pictures=named.num_pictures, input_hashes=table
    )


def _found(spec: RunSpec, named: NamedInputs, runs: RecordedImages) -> _Findings:
    """Look at every picture, except for those whose bytes the manifest holds: their facts exist."""
    every = zip(*(named.pictures[name].to_pylist() for name in ("picture", "kind")), strict=True)
    keys = [key for key in every if key not in named.facts]
    found: dict[Key, PictureFacts | str] = dict(named.facts)
    places, unplaced = _places(spec, keys)
    unusable = unusable_stores(list(dict.fromkeys(places.values())), spec.storage)
    if unusable:  # one picture of each such store stands for all
        first = {
            unusable[place]: key for key, place in reversed(places.items()) if place in unusable
        }
        return _Findings({}, unplaced | {key: why for why, key in first.items()})
    found |= unplaced | _missing(spec, places)
    if spec.inputs.check == "decode":
        found |= _decoded(spec, [key for key in keys if key not in found], runs)
    else:
        of_runs = [key for key in keys if is_run_image(key[0]) and key not in found]
        found |= _recorded(of_runs, runs)
    return _Findings(
        {key: each for key, each in found.items() if isinstance(each, PictureFacts)},
        {key: each for key, each in found.items() if isinstance(each, str)},
    )


def _places(spec: RunSpec, keys: Sequence[Key]) -> tuple[dict[Key, str], dict[Key, str]]:
    """Where pictures lie that are no images of runs, and why others lie nowhere."""
    places: dict[Key, str] = {}
    unplaced: dict[Key, str] = {}
    for key in keys:
        try:
            place = located(key[0], spec.inputs.root)
            if is_run_image(place):
                RunImage.parse(place)
            else:
                places[key] = place
        except InputError as error:
            unplaced[key] = str(error)
    return places, unplaced


def _missing(spec: RunSpec, places: Mapping[Key, str]) -> dict[Key, str]:
    """Why pictures cannot be found, for those that cannot."""
    looked_for = list(dict.fromkeys(places.values()))
    if spec.inputs.check == "decode":  # what a store does not have is found out by reading
        looked_for = [place for place in looked_for if is_local(place)]
    absent = missing_files(looked_for, spec.storage)
    return {key: absent[place] for key, place in places.items() if place in absent}


def _recorded(keys: Sequence[Key], runs: RecordedImages) -> dict[Key, PictureFacts | str]:
    """What is known about images of earlier runs without reading them."""
    images = {url: RunImage.parse(url) for url, _ in keys}
    recorded = runs.recorded(list(images.values())) if images else {}
    return {key: recorded[images[key[0]]] for key in keys}


def _decoded(
    spec: RunSpec, keys: Sequence[Key], runs: RecordedImages
) -> dict[Key, PictureFacts | str]:
    """Read and decode pictures, as the processes that sample will."""
    reader, limits = InputReader(spec.inputs, spec.storage, runs), limits_of(spec.inputs)

    def facts_or_problem(key: Key) -> PictureFacts | str:
        url, kind = key
        role = "init_image" if kind == COLOUR else "mask_image"
        try:
            content = reader.read(PlannedInput(role, url))
        except (InputError, StoreDenied) as error:
            return str(error)
        return facts_of(content, limits, is_mask=kind != COLOUR)

    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return dict(zip(keys, pool.map(facts_or_problem, keys), strict=True))


def _picture_problems(named: NamedInputs, findings: _Findings) -> Iterator[Problem]:
    """Pictures that are missing or cannot be decoded, and masks without a white pixel."""
    problems = dict(findings.problems)
    for key, facts in findings.facts.items():
        if facts.is_black and key[1] == MASK:
            problems[key] = "the mask has no white pixel, so that nothing would be made anew"
    urls = pa.array(list(dict.fromkeys(url for url, _ in problems)), pa.string())
    for row in named.pictures.filter(pc.is_in(named.pictures["picture"], urls)).to_pylist():
        message = problems.get((row["picture"], row["kind"]))
        if message is not None:
            yield _problem(row, message)


def _pair_problems(named: NamedInputs, findings: _Findings) -> Iterator[Problem]:
    """Masks of another aspect ratio than their initial image."""
    sizes = {url: (facts.width, facts.height) for (url, _), facts in findings.facts.items()}
    for row in named.pairs.to_pylist():
        init, mask = sizes.get(row["init"]), sizes.get(row["picture"])
        if init is not None and mask is not None and not same_shape(init, mask):
            yield _problem(
                row,
                f"the mask has {mask[0]} x {mask[1]} pixels, another aspect ratio than its "
                f"init_image with {init[0]} x {init[1]}",
            )


def _problem(row: Mapping[str, object], message: str) -> Problem:
    picture, place = str(row["picture"]), row["row"]
    text = (
        message if picture in message or NamedInputs.is_bytes(picture) else f"{picture}: {message}"
    )
    return Problem(str(row["file"]), int(str(place)), str(row["column"]), text)


def _order_in(layout: PlanLayout) -> Callable[[Problem], tuple[int, int]]:
    """Sorts problems in the order of the manifest."""
    order = {file.url: number for number, file in enumerate(layout.files)}
    return lambda problem: (order[problem.file], problem.row or 0)

"""`fid`: how far the images of a set are from reference images, as a whole."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.image_sets import ImageSet, image_set
from nightpress.jobs.runs.shared import OnEvent, ignore
from nightpress.jobs.runs.targets import ImageTarget
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.scoring.frechet import FeatureStatistics, frechet_distance
from nightpress.pipelines.scoring.inception import (
    NUM_FEATURES,
    RESIZE,
    InceptionFeatures,
    best_device,
    prepared,
    statistics_of,
)
from nightpress.pipelines.storage import Options

TOLD_EVERY_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True)
class FidResult:
    """The distance of two sets of images, and how it was measured."""

    url: str
    reference: str
    fid: float
    num_images: int
    num_reference: int
    network: str
    """What the features are of: the package, its version and the digest of the weights."""
    resize: str
    device: str
    warnings: tuple[str, ...]
    """What the figure must not be used for."""


def fid(
    target: ImageTarget,
    reference: ImageTarget,
    on_event: OnEvent = ignore,
    *,
    where: str | None = None,
    selection: str | None = None,
    storage: Options | None = None,
) -> FidResult:
    """Measure the Frechet Inception distance of two sets of images; writes nothing.

    Images are read as they are stored, one after the other in an order that is always the same, and
    each goes through the network alone. It runs in this process, on a GPU if there is one.

    Args:
        target: a run; or the URL of image, Parquet or tar files, or of a folder with such files.
        reference: the images to compare it with, likewise.
        on_event: called with messages.
        where: a condition on the metadata of the run `target`.
        selection: the name of a selection of the run `target`.
        storage: fsspec options by protocol, for URLs.

    Raises:
        ScorerError: the package with the network is not installed.
        SpecError: a set has fewer than two images, or cannot be asked for so.
        DataError, Damaged, StoreError: an image cannot be read.

    Reference: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium, 2017.
    """
    fix_numerics()
    features = InceptionFeatures.load(best_device())
    chosen = image_set(target, storage, where=where, selection=selection)
    return _compared(chosen, image_set(reference, storage), features, on_event)


def _compared(
    images: ImageSet, reference: ImageSet, features: InceptionFeatures, on_event: OnEvent
) -> FidResult:
    sets = images, reference
    a, b = (_statistics(each, features, on_event) for each in sets)
    few = dict.fromkeys(_few(*each) for each in zip(sets, (a.num, b.num), strict=True))
    return FidResult(
        url=images.url,
        reference=reference.url,
        fid=frechet_distance(a, b),
        num_images=a.num,
        num_reference=b.num,
        network=features.description,
        resize=RESIZE,
        device=features.device,
        warnings=tuple(each for each in few if each is not None),
    )


def _statistics(
    images: ImageSet, features: InceptionFeatures, on_event: OnEvent
) -> FeatureStatistics:
    found = statistics_of(features, _told(images.each(prepared), images.url, on_event))
    num = 0 if found is None else found.num
    if found is None or num < 2:
        raise SpecError(f"{images.url}: {plural(num, 'image')}; a covariance needs at least 2")
    return found


def _told(prepared_images: Iterator[T], url: str, on_event: OnEvent) -> Iterator[T]:
    """Pass images on, and say now and then how many there were."""
    next_at = time.monotonic() + TOLD_EVERY_S
    for number, each in enumerate(prepared_images):
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + TOLD_EVERY_S
            on_event(Message(f"{url}: {plural(number, 'image')}"))
        yield each


def _few(images: ImageSet, num: int) -> str | None:
    """A warning, if a set has too few images."""
    if num >= NUM_FEATURES:
        return None
    return (
        f"{images.url} has {num:,} images, fewer than the {NUM_FEATURES:,} features: their "
        "covariance has not its full rank, and FID is too high; compare it only with the FID of as "
        "many images"
    )

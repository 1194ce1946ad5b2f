"""The control pictures of training images: made from them, or read beside them."""

import importlib.util
import posixpath
from functools import cached_property

from nightpress.diffusion_core.conditioning import canny
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.theory.colour_patches import colour_patches
from nightpress.pipelines.errors import DataError
from nightpress.pipelines.storage import Options
from nightpress.pipelines.training.data import DataSpec, PackedImages, pack
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.sections import ControlNetSettingsSpec

NUM_SHOWN = 3
"""Images that a message names."""


class ControlPictures:
    """The control picture of each image of a data set.

    Args:
        settings: the job's `controlnet` section.
        images: the training images.
        resolution: pixels per side.

    Raises:
        SettingsError: OpenCV, which finds edges, is not installed.
    """

    def __init__(
        self, settings: ControlNetSettingsSpec, images: PackedImages, resolution: int
    ) -> None:
        if settings.control == "canny" and importlib.util.find_spec("cv2") is None:
            raise SettingsError(
                "controlnet.control: canny needs OpenCV; install it with: "
                "pip install 'nightpress[canny]'"
            )
        self._settings, self._images, self._resolution = settings, images, resolution
        self._given: GivenPictures | None = None

    def read(self, spec: DataSpec, options: Options) -> None:
        """Read the control pictures that come with the data; nothing for those that are made.

        Args:
            spec: the job's `data` section.
            options: fsspec options by protocol.

        Raises:
            DataError: there are none, or an image has none.
            StoreError: a store refuses or fails.
        """
        settings = self._settings
        if settings.control == "data":
            changes = {"image": settings.image, "source": settings.source or spec.source}
            if settings.source is not None:
                changes["kind"] = "auto"
            pictures = pack(
                spec.model_copy(update=changes),
                self._resolution,
                need_captions=False,
                options=options,
                cache=self._images.cache,
            )
            self._given = GivenPictures(self._images, pictures)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the control pictures that come with the data; empty for those made here."""
        return self._given.fingerprint if self._given else ""

    def pixels(self, image: int) -> ImageArray:
        """The control picture (H, W, 3) of an image."""
        if self._given is not None:
            return self._given.pixels(image, self._resolution)
        pixels = self._images.pixels(image, self._resolution)
        if self._settings.control == "patches":
            return colour_patches(pixels, self._settings.patches)
        return canny.edges(pixels, self._settings.low_threshold, self._settings.high_threshold)


class GivenPictures:
    """Control pictures that come with the data, found by the names of the images.

    The names must be equal, or equal up to their extension, or, in tars, up to their first dot.

    Args:
        images: the training images.
        pictures: their control pictures, in any order; there may be more of them.

    Raises:
        DataError: an image has no control picture, or one that shows another section of it.
    """

    def __init__(self, images: PackedImages, pictures: PackedImages) -> None:
        self._pictures = pictures
        self._places = _places(images, pictures)
        for i, place in enumerate(self._places):
            self._require_same_shape(images, i, place)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names and the files."""
        return self._pictures.fingerprint

    def pixels(self, image: int, resolution: int) -> ImageArray:
        """The control picture (H, W, 3) of an image."""
        return self._pictures.pixels(self._places[image], resolution)

    def _require_same_shape(self, images: PackedImages, i: int, place: int) -> None:
        """Both are cropped to their central square, which must be the same part of both."""
        (width, height), (own_width, own_height) = images.size(i), self._pictures.size(place)
        # One of the two may have been scaled, and its sides rounded to whole pixels.
        if abs(width * own_height - height * own_width) > max(width, height, own_width, own_height):
            raise DataError(
                f"{self._pictures.name(place)}: the control picture has {own_width} x {own_height} "
                f"pixels, which is another aspect ratio than the {width} x {height} of its image "
                f"{images.name(i)}"
            )


def _places(images: PackedImages, pictures: PackedImages) -> list[int]:
    """The place of each image's control picture among all of them."""
    names = [images.name(i) for i in range(len(images))]
    fewest: list[str] = names
    for key in (_whole, _without_extension, _up_to_first_dot):
        found = {key(pictures.name(i)): i for i in range(len(pictures))}
        missing = [name for name in names if key(name) not in found]
        if not missing and len(found) == len(pictures):
            return [found[key(name)] for name in names]
        fewest = min(fewest, missing, key=len)
    shown = ", ".join(fewest[:NUM_SHOWN]) or "two have the same name"
    reasons = "".join(f"; {bad}" for bad in pictures.bad[:NUM_SHOWN])
    raise DataError(
        f"{len(fewest):,} of {len(images):,} images have no control picture of their name: "
        f"{shown}{reasons}"
    )


def _whole(name: str) -> str:
    return name


def _without_extension(name: str) -> str:
    return posixpath.splitext(name)[0]


def _up_to_first_dot(name: str) -> str:
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.partition(".")[0])

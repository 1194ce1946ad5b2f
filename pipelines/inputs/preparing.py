"""From the pictures that one image names to the arrays that condition it.

Every picture is decoded and fitted for itself, to the size of its own image, so that no other row
decides a pixel of it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import (
    NO_IMAGES,
    ConditionImages,
    Conditioning,
    Pixels,
)
from nightpress.pipelines.errors import InputChanged, InputError, InputUndecodable
from nightpress.pipelines.inputs.decoding import (
    Undecodable,
    decode_colour,
    decode_mask,
    limits_of,
)
from nightpress.pipelines.inputs.fitting import (
    Canvas,
    Fit,
    Placement,
    Size,
    bounded,
    fitted,
    fitted_mask,
    same_shape,
)
from nightpress.pipelines.inputs.memory_cache import MemoryCache
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.inputs.references import public_form, shown
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.records import InputInfo, PlannedInput
from nightpress.pipelines.storage import Options

LONGEST_REFERENCE = 2048
"""Pixels of a reference image's longer side; a larger one is made smaller."""

NOT_FITTED = "none"
"""The recorded fit of a reference image: its encoder brings it to its own size."""

CACHE_BYTES = 256 * 2**20
"""Memory for pictures that several rows use."""

DIGITS = 12
"""Digits of a hash that a message shows."""

Expected = Callable[[str], Sequence[frozenset[str]]]
"""URL -> the sets of SHA-256 of which each must hold that of the picture."""


def nothing_expected(url: str) -> Sequence[frozenset[str]]:
    """Where pictures were not used before."""
    return ()


@dataclass(frozen=True)
class PreparedInputs:
    """The pictures of one image, ready to condition it, or why they are not."""

    images: ConditionImages = NO_IMAGES
    infos: tuple[InputInfo, ...] = ()
    """All of them, also where there is a problem."""
    problem: InputError | None = None
    """The first thing that is wrong with them; None if they can be used."""


NO_INPUTS = PreparedInputs()


@dataclass(frozen=True)
class _Decoded:
    """A decoded picture, or why there is none."""

    sha256: str | None
    """None if it has too many bytes to read all of them."""
    image: Image.Image | None
    problem: str = ""

    @property
    def num_bytes(self) -> int:
        if self.image is None:
            return 0
        return self.image.width * self.image.height * len(self.image.getbands())


@dataclass(frozen=True)
class _Fitted:
    """A picture at its final size, or why there is none."""

    sha256: str | None
    source_size: Size
    """Its own size, once it is turned; (0, 0) if it cannot be decoded."""
    pixels: Pixels
    """Empty if there are none."""
    problem: str = ""

    def __post_init__(self) -> None:
        self.pixels.flags.writeable = False  # rows share it

    @property
    def num_bytes(self) -> int:
        return int(self.pixels.nbytes)


NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class _Picture:
    """One picture of an image, as far as it could be prepared."""

    info: InputInfo
    fitted: _Fitted | None
    problem: InputError | None


def input_info(planned: PlannedInput, fit: str, sha256: str | None = None) -> InputInfo:
    """What is recorded of a picture."""
    is_fitted = not _has_role(planned, "reference_image")
    return InputInfo(
        planned.role, public_form(planned.url), sha256, fit if is_fitted else NOT_FITTED
    )


class InputPreparer:
    """Reads, decodes and fits pictures; safe to share between threads.

    Args:
        spec: how they are fitted, and how large they may be.
        reader: reads their bytes.
        cache_bytes: memory for pictures that several images use.
    """

    def __init__(
        self, spec: InputsSpec, reader: InputReader, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._fit: Fit = spec.fit
        self._reader = reader
        self._limits = limits_of(spec)
        # Decoded pictures are large: most are needed once, at one size.
        self._decoded_cache = MemoryCache(cache_bytes // 2)
        self._fitted_cache = MemoryCache(cache_bytes // 2)

    def prepare(
        self,
        inputs: Sequence[PlannedInput],
        conditioning: Conditioning,
        size: Size,
        expected: Expected = nothing_expected,
    ) -> PreparedInputs:
        """The pictures of one image.

        Args:
            inputs: the pictures, in the order of the plan.
            conditioning: how they are used.
            size: (width, height) of the image in pixels.
            expected: the bytes that they had when they were used before.

        Raises:
            StoreError: the store fails.
        """
        if not inputs:
            return NO_INPUTS
        canvas = Canvas(*(conditioning.canvas or ()))
        init: _Fitted | None = None
        pictures: list[_Picture] = []
        for planned in inputs:
            picture = self._picture(planned, size, canvas, init, expected)
            init = picture.fitted if planned.role == "init_image" else init
            pictures.append(picture)
        infos = tuple(picture.info for picture in pictures)
        problem = next((each.problem for each in pictures if each.problem is not None), None)
        if problem is not None:
            return PreparedInputs(infos=infos, problem=problem)
        return PreparedInputs(_images(inputs, pictures, conditioning, canvas, size), infos)

    def _picture(
        self,
        planned: PlannedInput,
        size: Size,
        canvas: Canvas,
        init: _Fitted | None,
        expected: Expected,
    ) -> _Picture:
        named = f"{planned.role} {shown(planned.url)}"
        try:
            found = self._fitted(planned, size, canvas, init)
        except InputError as error:
            reason = type(error)(f"{named}: {error}")
            return _Picture(input_info(planned, self._fit), None, reason)
        info = input_info(planned, self._fit, found.sha256)
        wrong = _changed(planned, found.sha256, expected)
        if wrong is not None:
            return _Picture(info, found, InputChanged(f"{named}: {wrong}"))
        if found.problem:
            return _Picture(info, found, InputUndecodable(f"{named}: {found.problem}"))
        return _Picture(info, found, None)

    def _fitted(
        self, planned: PlannedInput, size: Size, canvas: Canvas, init: _Fitted | None
    ) -> _Fitted:
        """A picture at the size at which it is used; from the cache if it was prepared before."""
        key = self._reader.key(planned)
        if _has_role(planned, "reference_image"):
            return self._fitted_cache.get(("reference", key), lambda: self._reference(planned))
        if planned.role == "mask_image":
            of = (0, 0) if init is None else init.source_size
            return self._fitted_cache.get(
                ("mask", key, size, canvas, of), lambda: self._mask(planned, size, canvas, of)
            )
        if planned.role != "init_image":  # a control image covers the canvas too
            canvas = Canvas()
        return self._fitted_cache.get(
            ("colour", key, size, canvas), lambda: self._colour(planned, size, canvas)
        )

    def _colour(self, planned: PlannedInput, size: Size, canvas: Canvas) -> _Fitted:
        room, decoded = canvas.room(size), self._decoded(planned)
        if decoded.image is None or min(room) < 1:
            return _unusable(decoded, f"the canvas leaves nothing of {size[0]} x {size[1]} pixels")
        image = decoded.image
        pixels = fitted(image, Placement.of(image.size, room, self._fit), room)
        return _Fitted(decoded.sha256, image.size, canvas.extend(pixels))

    def _mask(self, planned: PlannedInput, size: Size, canvas: Canvas, init: Size) -> _Fitted:
        """The mask of a picture of the size `init`, at the place of that picture."""
        room, decoded = canvas.room(size), self._decoded(planned, is_mask=True)
        if decoded.image is None or min(*room, *init) < 1:
            return _unusable(decoded, "its init_image cannot be used")
        mask = decoded.image
        if not same_shape(init, mask.size):
            return _unusable(
                decoded,
                f"{mask.width} x {mask.height} pixels, but its init_image has "
                f"{init[0]} x {init[1]}; a mask must have the aspect ratio of its picture",
            )
        placement = Placement.of(init, room, self._fit).for_picture(init, mask.size)
        pixels = fitted_mask(mask, placement, room)
        return _Fitted(decoded.sha256, mask.size, canvas.extend_mask(pixels))

    def _reference(self, planned: PlannedInput) -> _Fitted:
        decoded = self._decoded(planned)
        if decoded.image is None:
            return _unusable(decoded, "")
        pixels = bounded(decoded.image, LONGEST_REFERENCE)
        return _Fitted(decoded.sha256, decoded.image.size, pixels)

    def _decoded(self, planned: PlannedInput, *, is_mask: bool = False) -> _Decoded:
        def make() -> _Decoded:
            data = self._reader.read(planned)
            is_all = len(data) <= self._limits.max_bytes
            sha256 = hashlib.sha256(data).hexdigest() if is_all else None
            decode = decode_mask if is_mask else decode_colour
            try:
                return _Decoded(sha256, decode(data, self._limits))
            except Undecodable as error:
                return _Decoded(sha256, None, str(error))

        return self._decoded_cache.get((self._reader.key(planned), is_mask), make)


def prepare(
    inputs: Sequence[PlannedInput],
    conditioning: Conditioning,
    size: Size,
    spec: InputsSpec,
    options: Options,
    reader: InputReader | None = None,
) -> PreparedInputs:
    """Read, decode and fit the pictures of a single image.

    Args:
        inputs: the pictures, in the order of the plan.
        conditioning: how they are used.
        size: (width, height) of the image in pixels.
        spec: how they are fitted.
        options: fsspec options by protocol.
        reader: reads their bytes; by default one that knows no earlier runs.

    Raises:
        InputError: one of them cannot be used.
        StoreError: the store fails.
    """
    preparer = InputPreparer(spec, reader or InputReader(spec, options))
    prepared = preparer.prepare(inputs, conditioning, size)
    if prepared.problem is not None:
        raise prepared.problem
    return prepared


def _has_role(planned: PlannedInput, setting: str) -> bool:
    """Whether a picture is one of a setting, with or without a name: `control_image.depth`."""
    return planned.role.partition(".")[0] == setting


def _unusable(decoded: _Decoded, otherwise: str) -> _Fitted:
    return _Fitted(decoded.sha256, (0, 0), NO_PIXELS, decoded.problem or otherwise)


def _changed(planned: PlannedInput, sha256: str | None, expected: Expected) -> str | None:
    """In which way a picture is not the one that was used before; None if it is."""
    if sha256 is None:  # too large, which is reported instead
        return None
    sets = [] if planned.url is None else [(each, "used before") for each in expected(planned.url)]
    if planned.sha256 is not None:
        sets.append((frozenset([planned.sha256]), "checked"))
    for allowed, when in sets:
        if allowed and sha256 not in allowed:
            before = " or ".join(sorted(each[:DIGITS] for each in allowed))
            return (
                f"its bytes have changed: sha256 {sha256[:DIGITS]} now, {before} when it was "
                f"{when}; put the old picture back, or start a new run"
            )
    return None


def _images(
    inputs: Sequence[PlannedInput],
    pictures: Sequence[_Picture],
    conditioning: Conditioning,
    canvas: Canvas,
    size: Size,
) -> ConditionImages:
    def of(setting: str) -> Iterator[Pixels]:
        for planned, picture in zip(inputs, pictures, strict=True):
            if _has_role(planned, setting) and picture.fitted is not None:
                yield picture.fitted.pixels

    mask = next(of("mask_image"), None)
    if mask is None and conditioning.canvas is not None:
        width, height = canvas.room(size)
        mask = canvas.extend_mask(np.zeros((height, width), np.uint8))
    references = of("reference_image")
    return ConditionImages(
        init_image=next(of("init_image"), None),
        mask_image=mask,
        last_image=next(of("last_image"), None),
        control_images=tuple(of("control_image")),
        reference_images=tuple(
            tuple(islice(references, number)) for number in conditioning.num_references
        ),
    )

"""Clips as pictures: an MP4 file as Pillow's image of its first frame, and all frames of a file."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from nightpress.pipelines.image_files.clips.mp4 import decoded_frames
from nightpress.pipelines.image_files.clips.mp4_boxes import is_mp4, read_shape


class Mp4Image(ImageFile.ImageFile):
    """The first frame of an MP4 file, which is decoded when it is needed.

    The size, the number of frames and the XMP packet are there without decoding.
    """

    format = "MP4"
    format_description = "H.264 in MP4"

    def _open(self) -> None:
        self._data = self.fp.read() if self.fp is not None else b""
        shape = read_shape(self._data)
        self._mode, self._size = "RGB", (shape.width, shape.height)
        self.n_frames, self.is_animated = shape.num_frames, shape.num_frames > 1
        self.fps = shape.fps
        if shape.xmp is not None:
            self.info["xmp"] = shape.xmp

    def load(self) -> Any:
        """Decode the first frame.

        Raises:
            SpecError: `av` is not installed.
            ValueError: the file is damaged.
        """
        if self._data:
            frame = next(decoded_frames(self._data), None)
            if frame is None or frame.shape[1::-1] != self.size:
                raise ValueError("truncated or invalid MP4 file: it has no first frame")
            self.im, self._data = Image.fromarray(frame).im, b""
        return Image.Image.load(self)


def open_mp4(data: bytes) -> Mp4Image:
    """Open an MP4 file.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return Mp4Image(BytesIO(data))
    except SyntaxError as error:  # what Pillow turns every error of a header into
        raise ValueError("truncated or invalid MP4 file") from error


def frames_in(data: bytes) -> Iterator[NDArray[np.uint8]]:
    """The frames of a file of any format, (H, W, 3) RGB each; one of a still image.

    Raises:
        SpecError: it is MP4, and `av` is not installed.
        ValueError, OSError: the file is damaged.
    """
    if is_mp4(data):
        yield from decoded_frames(data)
        return
    with Image.open(BytesIO(data), formats=("WEBP", "PNG", "JPEG")) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            yield np.asarray(image.convert("RGB"))

"""MP4 files with H.264, through PyAV: the package `av`, which the extra `video` brings.

One thread and FFmpeg's bit-exact flags make equal frames equal bytes on every machine with the same
version of `av`; another version of the encoder may write other bytes.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips.frames import Frames

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

INSTALL = "pip install 'nightpress[video]'"

CRF = 16
"""Quality of x264, from 0 to 51; below 18 most people see no difference."""

PRESET = "medium"

BT709 = 1
"""FFmpeg's number of BT.709, for matrix, primaries and transfer characteristics."""

LIMITED_RANGE = 1
"""FFmpeg's number of luma from 16 to 235, which players expect."""

BIT_EXACT = 1 << 23
"""FFmpeg's AV_CODEC_FLAG_BITEXACT."""

MAX_DENOMINATOR = 1001
"""Keeps 23.976 and 29.97 frames a second, which are 24000/1001 and 30000/1001, short."""

START_CODE = re.compile(rb"(?=\x00\x00\x01)")
ENCODER_NOTE = b"\x06\x05"
"""How an unregistered SEI message begins; x264 writes its version and settings into one."""

MAX_REASON = 200


def has_av() -> bool:
    """Whether the package that writes and decodes MP4 files is installed."""
    return find_spec("av") is not None


def require_av(what: str) -> None:
    """Check that `av` is installed.

    Args:
        what: what needs it, for the message.

    Raises:
        SpecError: it is not installed.
    """
    if not has_av():
        raise SpecError(f"{what} needs the package av; {INSTALL} brings it")


def exact_rate(fps: float) -> Fraction:
    """A frame rate as MP4 files hold it."""
    return Fraction(fps).limit_denominator(MAX_DENOMINATOR)


def encode_mp4(frames: Frames, fps: float, tags: Mapping[str, str]) -> bytes:
    """An MP4 file with one H.264 track, 4:2:0, BT.709, with its index in front.

    Args:
        frames: (F, H, W, 3), RGB; height and width are even.
        fps: frames a second.
        tags: metadata of the container.

    Raises:
        SpecError: `av` is not installed.
    """
    require_av("images.format: mp4")
    import av

    with tempfile.TemporaryDirectory(prefix="nightpress-") as folder:
        path = Path(folder, "clip.mp4")  # the index can only be moved to the front of a real file
        options = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
        with av.open(str(path), "w", format="mp4", container_options=options) as container:
            container.metadata.update(tags)
            stream = container.add_stream("libx264", rate=exact_rate(fps))
            _, stream.height, stream.width, _ = frames.shape
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(CRF), "preset": PRESET}
            _set_exact(stream.codec_context)
            for frame in (*converted(frames), None):
                for packet in stream.encode(frame):
                    container.mux(_without_note(packet))
        return path.read_bytes()


def _set_exact(context: Any) -> None:
    context.thread_count = 1
    context.flags |= BIT_EXACT
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def converted(frames: Iterable[NDArray[np.uint8]]) -> Iterator["VideoFrame"]:
    """Frames of video, 4:2:0 in BT.709, of RGB frames, (H, W, 3) each."""
    from av import VideoFrame

    for pixels in frames:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        yield frame.reformat(
            format="yuv420p",
            dst_colorspace="ITU709",
            src_color_range="JPEG",
            dst_color_range="MPEG",
        )


def _without_note(packet: Any) -> Any:
    """A packet without the note in which x264 names its version and settings."""
    data = bytes(packet)
    units = START_CODE.split(data)
    kept = b"".join(unit for unit in units if unit[3:5] != ENCODER_NOTE)
    if len(kept) == len(data):
        return packet
    from av import Packet

    clean = Packet(kept)
    for name in ("pts", "dts", "time_base", "stream", "is_keyframe", "duration"):
        setattr(clean, name, getattr(packet, name))
    return clean


def decoded_frames(data: bytes) -> Iterator[NDArray[np.uint8]]:
    """The frames of an MP4 file, (H, W, 3) RGB each; they are not exactly those it was made from.

    Raises:
        SpecError: `av` is not installed.
        ValueError: the file is damaged.
    """
    require_av("decoding an MP4 file")
    import av
    from av.error import FFmpegError

    try:
        with av.open(BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for packet in container.demux(stream):
                for frame in packet.decode():
                    yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (FFmpegError, IndexError) as error:
        reason = one_line(error, MAX_REASON)
        raise ValueError(f"truncated or invalid MP4 file: {reason}") from error

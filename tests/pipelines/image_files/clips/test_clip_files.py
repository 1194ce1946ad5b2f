"""Files of clips: facts and frames come back, and equal frames are equal bytes."""

import hashlib
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.moving_pictures import HAS_FFPROBE, clip_facts, moving, probed

from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips import mp4
from nightpress.pipelines.image_files.clips.frames import durations_ms, frames_sha256
from nightpress.pipelines.image_files.clips.mp4_boxes import read_shape
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, parameters_text
from nightpress.pipelines.image_files.encoding import (
    decoded,
    encode,
    is_whole,
    opened,
    read_facts,
)
from nightpress.pipelines.job.images_section import ImagesSpec

FORMATS = ("mp4", "webp")
RATES = (1, 8, 23.976, 24, 29.97, 60)
PROMPTS = (
    "café, 猫 🐈‍⬛",
    "first\nsecond\r\nthird",
    "nul \x00 bell \x07",
    "a=b;c#\\",
    "a" * 100_000,
)


def encoded(kind: str, num_frames: int = 6, fps: float = 24.0) -> bytes:
    frames = moving(num_frames)
    return encode(frames, clip_facts(frames, fps), ImagesSpec(format=kind))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_facts_come_back_from_every_format_whatever_the_prompt(kind: str, prompt: str) -> None:
    frames = moving()
    facts = clip_facts(frames, prompt=prompt, to_prompt=prompt[::-1])
    data = encode(frames, facts, ImagesSpec(format=kind))
    assert read_facts(data) == facts
    assert is_whole(data)
    assert AI_GENERATED.encode() in data


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("embed", ["full", "minimal", "none"])
def test_the_same_clip_is_the_same_bytes(kind: str, embed: str) -> None:
    frames = moving()
    facts, spec = clip_facts(frames), ImagesSpec(format=kind)
    first = encode(frames, facts, spec, embed)
    assert first == encode(frames.copy(), replace(facts), spec, embed)
    assert (read_facts(first) is not None) == (embed == "full")
    assert (b"a cat" in first) == (embed == "full"), embed


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_a_webp_has_every_frame_exactly_also_those_that_are_equal(num_frames: int) -> None:
    frames = moving(num_frames)
    frames = np.concatenate([frames, frames[-1:], frames[-1:], frames[:1]])
    data = encode(frames, clip_facts(frames), ImagesSpec(format="webp"))
    found = np.stack(list(frames_in(data)))
    assert np.array_equal(found, frames)
    assert frames_sha256(found) == read_facts(data).frames_sha256


@pytest.mark.parametrize("changed", ["corner", "column", "pixel"])
def test_a_webp_is_exact_wherever_a_frame_differs_from_the_one_before(changed: str) -> None:
    frames = np.repeat(moving(1, 33, 47), 2, axis=0)
    place = {"corner": (32, 46), "column": (slice(None), 5), "pixel": (7, 9)}[changed]
    frames[1][place] = 1, 2, 3
    data = encode(frames, clip_facts(frames), ImagesSpec(format="webp"))
    assert np.array_equal(np.stack(list(frames_in(data))), frames)


def test_h264_adds_little_to_the_loss_of_colour_that_every_player_expects() -> None:
    frames = moving(12, 64, 96)
    found = list(frames_in(encode(frames, clip_facts(frames), ImagesSpec(format="mp4"))))
    subsampled = [frame.to_ndarray(format="rgb24") for frame in mp4.converted(frames)]
    assert min(image_psnrs_db(subsampled, found)) > 36
    greys = np.repeat(frames.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    found = list(frames_in(encode(greys, clip_facts(greys), ImagesSpec(format="mp4"))))
    assert min(image_psnrs_db(list(greys), found)) > 38


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
def test_an_mp4_keeps_plain_colours(colour: tuple[int, int, int]) -> None:
    frames = np.full((3, 32, 32, 3), colour, np.uint8)
    for frame in frames_in(encode(frames, clip_facts(frames), ImagesSpec(format="mp4"))):
        assert np.abs(frame.astype(int) - frames[0]).max() <= 3


@pytest.mark.parametrize("fps", RATES)
def test_an_mp4_says_its_size_frames_and_rate_without_a_video_library(fps: float) -> None:
    shape = read_shape(encoded("mp4", num_frames=9, fps=fps))
    assert (shape.width, shape.height, shape.num_frames, shape.codec) == (48, 32, 9, "avc1")
    assert shape.fps == pytest.approx(float(mp4.exact_rate(fps)), rel=1e-4)


@pytest.mark.parametrize("fps", RATES)
def test_frames_of_a_webp_never_drift_from_the_rate(fps: float) -> None:
    durations = list(durations_ms(1000, fps))
    assert sum(durations) == round(1000 * 1000 / fps)
    assert max(durations) - min(durations) <= 1
    data = encoded("webp", num_frames=5, fps=fps)
    with Image.open(BytesIO(data)) as image:
        assert image.n_frames == 5
        assert image.info["loop"] == 0
        starts = []
        for number in range(5):
            image.seek(number)
            image.load()
            starts.append(image.info["timestamp"])
    assert [b - a for a, b in pairwise(starts)] == list(durations_ms(5, fps))[:4]


def test_no_file_names_its_encoder_or_the_time() -> None:
    data = encoded("mp4")
    for name in (b"x264", b"Lavf", b"Lavc", b"options:"):
        assert name not in data
    header = data[data.index(b"mvhd") + 8 :][:8]
    assert header == bytes(8)  # created and modified


@pytest.mark.parametrize("kind", FORMATS)
def test_a_clip_opens_as_its_first_frame(kind: str) -> None:
    frames = moving()
    data = encode(frames, clip_facts(frames), ImagesSpec(format=kind))
    with opened(data) as image:
        assert (image.format, image.size, image.n_frames) == (kind.upper(), (48, 32), 6)
    still = np.asarray(decoded(data).convert("RGB"))
    assert still.shape == (32, 48, 3)
    assert np.abs(still.astype(int) - frames[0]).mean() < 8
    if kind == "webp":
        assert np.array_equal(still, frames[0])


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_found_wherever_it_is(kind: str) -> None:
    data = encoded(kind)
    for place in np.linspace(0, len(data) - 1, 97).astype(int).tolist():
        flipped = bytearray(data)
        flipped[place] ^= 4
        assert not is_whole(bytes(flipped)), place
    for length in (0, 3, 100, len(data) // 2, len(data) - 1):
        assert not is_whole(data[:length])
        with pytest.raises(ValueError, match=r"truncated|not a PNG|invalid"):
            decoded(data[:length])


def test_a_clip_without_a_rate_or_in_a_format_of_stills_is_refused() -> None:
    frames = moving()
    with pytest.raises(ValueError, match="without a frame rate"):
        encode(frames, replace(clip_facts(frames), fps=None), ImagesSpec(format="mp4"))
    with pytest.raises(ValueError, match="png files hold one image, not a clip"):
        encode(frames, clip_facts(frames), ImagesSpec(format="png"))


def test_without_av_mp4_is_refused_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded("mp4")
    monkeypatch.setattr(mp4, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'nightpress\[video\]'"):
        encoded("mp4")
    assert read_facts(data) is not None  # what a file says is read without it
    assert read_shape(data).num_frames == 6


def test_the_hash_of_frames_is_of_their_number_size_and_pixels() -> None:
    frames = moving()
    expected = hashlib.sha256(b"6 x 48 x 32 " + frames.tobytes()).hexdigest()
    assert frames_sha256(frames) == expected
    assert frames_sha256(frames[:, ::-1]) != expected
    assert frames_sha256(frames.reshape(6, 48, 32, 3)) != expected


@pytest.mark.skipif(not HAS_FFPROBE, reason="ffprobe is not installed")
@pytest.mark.parametrize("fps", RATES)
def test_ffprobe_reads_h264_in_420_with_the_frames_the_rate_and_the_facts(
    fps: float, tmp_path: Path
) -> None:
    frames = moving(9)
    facts = clip_facts(frames, fps)
    file = tmp_path / "clip.mp4"
    file.write_bytes(encode(frames, facts, ImagesSpec(format="mp4")))
    found = probed(file)
    assert (found["codec_name"], found["pix_fmt"]) == ("h264", "yuv420p")
    assert (found["width"], found["height"]) == (48, 32)
    assert (found["nb_read_frames"], found["nb_frames"]) == ("9", "9")
    rate = mp4.exact_rate(fps)
    assert Fraction(found["avg_frame_rate"]) == rate
    assert float(found["duration"]) == pytest.approx(9 / float(rate), abs=1e-3)
    assert (found["color_space"], found["color_range"]) == ("bt709", "tv")
    assert found["tags"]["comment"] == parameters_text(facts)
    assert '"num_frames":9' in found["tags"]["nightpress"]

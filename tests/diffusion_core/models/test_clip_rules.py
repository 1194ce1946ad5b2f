"""Which models make clips, of how many frames, and which are refused."""

import json
from pathlib import Path

import diffusers
import pytest
from support import clip_table, tiny_clips, tiny_models
from support.clip_table import save

from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models.clip_rules import (
    CLIP_CLASSES,
    MOST_FRAMES,
    REFUSED_CLIPS,
    ClipRules,
    clip_rules,
)
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import describe
from nightpress.diffusion_core.models.modes import FAMILIES, modes_of
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.spec import ModelSpec

WAN = ClipRules(81, 16, frame_multiple=4, frame_offset=1)
LTX = ClipRules(161, 25, frame_multiple=8, frame_offset=1)
ANIMATEDIFF = ClipRules(16, 8, max_frames=32)


def info_of(folder: Path) -> ModelInfo:
    return describe(folder, ModelSpec(source=str(folder)))


@pytest.mark.parametrize("rules", [WAN, LTX, ANIMATEDIFF], ids=["wan", "ltx", "animatediff"])
def test_every_number_of_frames_has_the_nearest_allowed_neighbours(rules: ClipRules) -> None:
    allowed = [
        number
        for number in range(2, rules.max_frames + 1)
        if (number - rules.frame_offset) % rules.frame_multiple == 0
    ]
    assert rules.min_frames == allowed[0]
    for number in range(-3, 1_200):
        expected = (
            max((each for each in allowed if each <= number), default=None),
            min((each for each in allowed if each >= number), default=None),
        )
        assert rules.neighbours(number) == expected, number
        assert (rules.why_not(number) is None) == (number in allowed), number


@pytest.mark.parametrize(
    ("rules", "number", "reason"),
    [
        (WAN, 80, "num_frames 80: this model makes 4k + 1 frames; use 77 or 81"),
        (WAN, 0, "num_frames 0: this model makes 4k + 1 frames; use 5"),
        (LTX, 10_000, "num_frames 10000: this model makes at most 1025 frames; use 1025"),
        (ANIMATEDIFF, 1, "num_frames 1: use 2"),
        (ANIMATEDIFF, 33, "num_frames 33: this model makes at most 32 frames; use 32"),
    ],
)
def test_a_number_that_the_model_would_round_is_refused_with_its_neighbours(
    rules: ClipRules, number: int, reason: str
) -> None:
    assert rules.why_not(number) == reason


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("AnimateDiffPipeline", ClipRules(16, 8, max_frames=24), (128, 128, 8)),
        ("CogVideoXPipeline", ClipRules(9, 8, 8, 1), (64, 64, 16)),
        (
            "CogVideoXImageToVideoPipeline",
            ClipRules(9, 8, 8, 1, modes=("image",)),
            (64, 64, 16),
        ),
        ("HunyuanVideoPipeline", ClipRules(129, 24, 4, 1), (1280, 720, 16)),
        (
            "LTXPipeline",
            ClipRules(161, 25, 8, 1, takes_fps=True, modes=("text", "image")),
            (704, 512, 32),
        ),
        (
            "StableVideoDiffusionPipeline",
            ClipRules(4, 7, takes_fps=True, takes_prompt=False, modes=("image",)),
            (1024, 576, 16),
        ),
        ("WanPipeline", ClipRules(81, 16, 4, 1), (832, 480, 16)),
    ],
)
def test_a_saved_model_says_which_clips_it_makes(
    name: str, expected: ClipRules, size: tuple[int, int, int], tmp_path: Path
) -> None:
    info = info_of(save(name, tmp_path))
    assert info.clips == expected
    assert info.modes == expected.modes
    assert (info.width, info.height, info.size_multiple) == size
    assert ModelInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info
    assert info.samplers_for(info.modes[0]) == info.samplers


def test_a_model_of_still_images_makes_no_clips_and_its_record_stays_as_it_was(
    tmp_path: Path,
) -> None:
    info = info_of(tiny_models.save("sd", tmp_path))
    assert info.clips is None
    assert "clips" not in info.as_dict()


def test_a_folder_that_ltx_saved_for_pictures_makes_clips_from_prompts_too(tmp_path: Path) -> None:
    parts = tiny_clips.ltx().components
    diffusers.LTXImageToVideoPipeline(**parts).save_pretrained(tmp_path)
    info = info_of(tmp_path)
    assert (info.pipeline, info.modes) == ("LTXPipeline", ("text", "image"))


@pytest.mark.parametrize(
    ("transformer", "index", "modes"),
    [
        ({}, {}, ("image", "first-last")),
        ({"image_dim": 16, "added_kv_proj_dim": 24}, {}, ("image",)),
        (
            {"image_dim": 16, "added_kv_proj_dim": 24, "pos_embed_seq_len": 34},
            {},
            ("first-last",),
        ),
        ({}, {"expand_timesteps": True}, ("image",)),
    ],
    ids=["2.2", "2.1", "2.1 first and last", "2.2 small"],
)
def test_wan_reads_the_pictures_that_each_of_its_models_was_made_for(
    transformer: dict[str, int],
    index: dict[str, bool],
    modes: tuple[str, ...],
    tmp_path: Path,
) -> None:
    tiny_clips.wan_from_image(**transformer).save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    kind = diffusers.WanImageToVideoPipeline
    rules = clip_rules(PipelineFolder.read(tmp_path), kind, modes_of(kind.__name__))
    assert rules is not None
    assert rules.modes == modes


def test_every_class_of_diffusers_for_clips_is_sampled_or_refused_with_a_reason() -> None:
    siblings = {
        name
        for kind in CLIP_CLASSES
        for name in FAMILIES.get(kind, FAMILIES["FluxPipeline"]).classes.values()
    }
    assert set(REFUSED_CLIPS) <= set(clip_table.clip_classes())
    for name, reason in clip_table.clip_classes().items():
        assert (reason is None) == (name in {*CLIP_CLASSES, *siblings}), name
    assert set(CLIP_CLASSES) == set(tiny_clips.CLIP_MAKERS)


@pytest.mark.parametrize("name", sorted(REFUSED_CLIPS))
def test_a_class_for_clips_that_no_row_can_sample_is_refused_in_one_line(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{name}"}}')
    with pytest.raises(UnsupportedModel) as caught:
        info_of(tmp_path)
    assert str(caught.value).endswith(f"{name} is not supported: it {REFUSED_CLIPS[name]}")
    assert "\n" not in str(caught.value)


def test_a_clip_is_never_longer_than_the_limit() -> None:
    assert ClipRules(16, 8).why_not(MOST_FRAMES) is None
    assert ClipRules(16, 8).why_not(MOST_FRAMES + 1) is not None

"""Clips of models that make clips; `support/clip_table.py` measures all of them."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import clip_table, tiny_clips
from support.clip_table import Trial, picture, save

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel
from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.faults import Fault
from nightpress.diffusion_core.sampling.sampler import Sampler

Trials = Callable[[str], Trial]
FEW = ["LTXPipeline", "WanPipeline", "AnimateDiffPipeline", "StableVideoDiffusionPipeline"]
"""Classes that differ: pictures and fps, its own solver, frames as images, no prompt."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return functools.cache(lambda name: save(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def trials(folders: Callable[[str], Path]) -> Trials:
    return functools.cache(lambda name: Trial.of(folders(name)))


@pytest.mark.parametrize("name", FEW)
def test_a_clip_is_exactly_that_of_plain_diffusers(name: str, trials: Trials) -> None:
    trial = replace(trials(name))
    trial = replace(trial, sampler=Sampler(trial.model, batch_size=1))
    for mode in trial.info.modes:
        in_mode = trial.with_mode(mode)
        clip = in_mode.sample([in_mode.row()])
        assert clip.shape == (
            1,
            trial.params.num_frames,
            trial.params.height,
            trial.params.width,
            3,
        )
        np.testing.assert_array_equal(clip[0], in_mode.plain(in_mode.row()))


@pytest.mark.parametrize("name", FEW)
def test_bits_of_a_clip_depend_neither_on_its_place_nor_on_other_clips(
    name: str, trials: Trials
) -> None:
    trial = trials(name)
    rows = [trial.row(1), trial.row(2)]
    alone = [trial.sample([row])[0] for row in rows]
    np.testing.assert_array_equal(trial.sample(rows), np.stack(alone))
    np.testing.assert_array_equal(trial.sample(rows[::-1]), np.stack(alone[::-1]))


def test_a_prompt_is_encoded_before_its_clip_where_embeddings_suffice(trials: Trials) -> None:
    trial = trials("LTXPipeline")
    sampler = Sampler(trial.model, batch_size=2)
    assert sampler.shares_batches
    expected = sampler.sample([trial.row()], trial.params).pixels
    fresh = Sampler(trial.model, batch_size=2)
    fresh.prepare([trial.row()], trial.params)
    encoder = trial.model.pipeline.text_encoder
    forward = encoder.forward
    try:
        encoder.forward = None
        np.testing.assert_array_equal(fresh.sample([trial.row()], trial.params).pixels, expected)
    finally:
        encoder.forward = forward


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_clip_is_sampled_in_the_type_of_the_job(
    dtype: str, folders: Callable[[str], Path]
) -> None:
    trial = Trial.of(folders("WanPipeline"), dtype)
    assert trial.model.pipeline.transformer.dtype == getattr(torch, dtype)
    assert trial.sample([trial.row()]).shape[1] == 5


@pytest.mark.parametrize(
    ("name", "argument"), [("LTXPipeline", "frame_rate"), ("StableVideoDiffusionPipeline", "fps")]
)
def test_frames_a_second_reach_the_models_that_are_told_them(
    name: str, argument: str, trials: Trials
) -> None:
    trial = replace(trials(name), sampler=Sampler(trials(name).model, batch_size=1))
    clip = trial.sample([trial.row()], fps=12.0)[0]
    np.testing.assert_array_equal(clip, trial.plain(trial.row(), **{argument: 12}))
    assert not np.array_equal(clip, trial.sample([trial.row()])[0])


def test_frames_that_attend_to_each_other_are_decoded_in_the_classs_own_chunks(
    folders: Callable[[str], Path], trials: Trials
) -> None:
    folder = folders("StableVideoDiffusionPipeline")
    speed = SpeedSpec(vae_batch_size=1)
    model = load(folder, ModelSpec(source=str(folder), speed=speed), "cpu")
    trial = replace(trials("StableVideoDiffusionPipeline"), sampler=Sampler(model, batch_size=1))
    clip = trial.sample([trial.row()])[0]
    np.testing.assert_array_equal(clip, trial.plain(trial.row(), decode_chunk_size=1))
    assert not np.array_equal(clip, trial.plain(trial.row()))


def test_clips_whose_decoder_is_told_a_timestep_are_decoded_one_by_one(tmp_path: Path) -> None:
    pipeline = tiny_clips.ltx(timestep_conditioning=True)
    pipeline.save_pretrained(tmp_path)
    for speed in (SpeedSpec(), SpeedSpec(vae_batch_size=1)):
        trial = Trial.of(tmp_path)
        model = load(tmp_path, ModelSpec(source=str(tmp_path), speed=speed), "cpu")
        trial = replace(trial, sampler=Sampler(model, batch_size=2))
        both = trial.sample([trial.row(1), trial.row(2)])
        for row, clip in zip((trial.row(1), trial.row(2)), both, strict=True):
            theirs = trial.plain(row).astype(int)
            assert np.abs(clip.astype(int) - theirs).max() <= 2
    from_image = trial.with_mode("image")
    ours = from_image.sample([from_image.row()])[0].astype(int)
    assert np.abs(ours - from_image.plain(from_image.row()).astype(int)).max() <= 2


def spoiled(trial: Trial, spoil: Callable[[torch.Tensor], Any], monkeypatch: Any) -> Any:
    """The faults of two clips whose decoded frames are changed."""
    vae = trial.model.pipeline.vae
    decode = vae.decode

    def changed(*args: Any, **values: Any) -> Any:
        found = decode(*args, **values)
        spoil(found[0])
        return found

    monkeypatch.setattr(vae, "decode", changed)
    return trial.sampler.sample([trial.row(1), trial.row(2)], trial.params)


@pytest.mark.parametrize("name", ["LTXPipeline", "AnimateDiffPipeline"])
def test_one_value_that_is_not_finite_spoils_its_clip_and_no_other(
    name: str, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trials(name)
    calls: list[int] = []

    def spoil(frames: torch.Tensor) -> None:
        calls.append(len(frames))
        if len(calls) == 1:  # both clips of LTX, or the first of AnimateDiff
            frames[0, ..., 3, 3] = float("inf")

    batch = spoiled(trial, spoil, monkeypatch)
    assert batch.faults == (Fault.NON_FINITE, None)
    assert not batch.pixels[0].any()
    assert batch.pixels[1].any()


def test_a_value_that_is_not_finite_is_found_in_a_later_chunk_of_frames(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trials("AnimateDiffPipeline")
    trial = replace(trial, params=replace(trial.params, num_frames=18))
    calls: list[int] = []

    def spoil(frames: torch.Tensor) -> None:
        calls.append(len(frames))
        if len(calls) == 2:
            frames[0, 0, 3, 3] = float("nan")

    assert spoiled(trial, spoil, monkeypatch).faults == (Fault.NON_FINITE, None)
    assert calls == [16, 2, 16, 2]


def test_a_clip_is_blank_if_every_frame_has_one_colour(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the colours of the frames differ."""

    def fade(frames: torch.Tensor) -> None:
        frames.copy_(torch.linspace(-1, 1, frames.shape[2]).view(1, 1, -1, 1, 1).expand_as(frames))

    assert spoiled(trials("LTXPipeline"), fade, monkeypatch).faults == (Fault.BLANK,) * 2


def test_a_clip_with_one_blank_frame_is_not_blank(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(frames: torch.Tensor) -> None:
        frames[:, :, 1] = 0

    assert spoiled(trials("LTXPipeline"), one, monkeypatch).faults == (None, None)


def test_a_clip_that_does_not_move_is_a_fault_of_its_own(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def freeze(frames: torch.Tensor) -> None:
        frames.copy_(frames[:, :, :1].expand_as(frames).clone())

    assert spoiled(trials("LTXPipeline"), freeze, monkeypatch).faults == (Fault.STILL,) * 2


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("LTXPipeline", {"num_frames": None}, "num_frames: this model makes clips; its default"),
        ("LTXPipeline", {"num_frames": 10}, "num_frames 10: .* use 9 or 17"),
        ("LTXPipeline", {"fps": 0.5}, "fps 0.5: must be 1 to 120"),
        ("WanPipeline", {"fps": 16.0}, "fps 16: the frames a second are no input of this model"),
        ("StableVideoDiffusionPipeline", {"fps": 7.5}, "fps 7.5: this model takes whole numbers"),
        ("WanPipeline", {"conditioning": Conditioning("image")}, "'image'.* has the modes text"),
        (
            "LTXPipeline",
            {"conditioning": Conditioning("image", strength=0.5)},
            "strength: init_image is the first frame",
        ),
        ("LTXPipeline", {"passes": (Pass(2.0, 0.5, 2, 32, 96, 64, 192),)}, "passes: a clip"),
    ],
)
def test_settings_that_a_model_for_clips_does_not_have_are_refused(
    name: str, changes: dict[str, Any], reason: str, trials: Trials
) -> None:
    trial = trials(name)
    with pytest.raises(SettingsError, match=reason):
        trial.sampler.sample([trial.row()], replace(trial.params, **changes))


def test_rows_that_a_model_for_clips_cannot_read_are_refused(trials: Trials) -> None:
    svd, ltx = trials("StableVideoDiffusionPipeline"), trials("LTXPipeline")
    with pytest.raises(SettingsError, match="reads no prompt; leave it empty"):
        svd.sample([svd.row(prompt="a cat")])
    with pytest.raises(SettingsError, match="needs a picture init_image"):
        svd.sample([svd.row(images=ConditionImages())])
    with pytest.raises(SettingsError, match="to_seed is the end of a walk: this model makes clips"):
        ltx.sample([ltx.row(to_seed=5)])
    wrong = replace(ltx.params, width=ltx.params.width + 32)
    from_image = ltx.with_mode("image")
    with pytest.raises(SettingsError, match="init_image has shape"):
        from_image.sample([from_image.row(images=ConditionImages(picture(wrong, 1)))])


def test_wan_from_pictures_needs_a_package_that_diffusers_does_not_ask_for(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = folders("WanImageToVideoPipeline")
    with pytest.raises(UnsupportedModel, match="needs the package ftfy, which is not installed"):
        describe(folder, ModelSpec(source=str(folder)))


def test_the_readme_lists_every_class_of_diffusers_for_clips() -> None:
    classes, rows = clip_table.clip_classes(), clip_table.written_rows()
    for name, reason in classes.items():
        if reason is not None:
            assert rows.pop(name) == f"| `{name}` | refused: it {reason} | | | | | |"
    assert set(rows) == set(clip_table.CLIP_MAKERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(clip_table.CLIP_MAKERS))
def test_each_row_of_the_readmes_table_is_what_is_measured(name: str) -> None:
    if clip_table.lacks_package(name):
        pytest.skip("needs a package that is not installed")
    assert clip_table.measured_row(name) == clip_table.written_rows()[name]

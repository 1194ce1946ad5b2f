"""Trials that are kept for later runs on the same machine."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import (
    LOADING_SHARE,
    MAX_AGE,
    KeptTrial,
    KeptTrials,
)
from nightpress.diffusion_core.tuning.search import ConfigTrial

FULL, LAST = TuningConfig.of(compile="full"), TuningConfig.of(channels_last=True)
TODAY = date(2026, 11, 30)
SUBJECT = {"model": "abc", "shapes": [64, 64]}


def trial(config: TuningConfig = FULL, warm_s: float = 105.0) -> ConfigTrial:
    return ConfigTrial(config, 0.8, 1.2, (99.0, 88.04), warm_s)


def kept(config: TuningConfig = FULL, today: date = TODAY) -> KeptTrial:
    return KeptTrial.of(trial(config), 5.0, today)


def test_what_is_kept_is_read_again_with_its_way_as_the_key() -> None:
    trials = KeptTrials(SUBJECT)
    assert trials.read(TODAY) == {}
    trials.keep(kept(), TODAY)
    trials.keep(kept(LAST), TODAY)
    assert KeptTrials(SUBJECT).read(TODAY) == {FULL: kept(), LAST: kept(LAST)}
    assert KeptTrials(SUBJECT | {"model": "abd"}).read(TODAY) == {}
    assert trials.path.parent == cache_folder() / "auto_speed"
    assert [path.name for path in trials.path.parent.iterdir()] == [trials.path.name]


def test_a_later_trial_of_a_way_replaces_the_earlier_one() -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept(), TODAY)
    trials.keep(replace(kept(), ratio=1.5), TODAY)
    assert trials.read(TODAY)[FULL].ratio == 1.5


def test_trials_older_than_a_month_are_made_again() -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept(), TODAY)
    assert trials.read(TODAY + MAX_AGE)
    assert trials.read(TODAY + MAX_AGE + timedelta(days=1)) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "7", "{}", '[{"speed": "{}"}]', "[[1]]", '[{"speed": 1}]']
)
def test_a_file_that_is_not_what_this_version_writes_is_no_trial(text: str) -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept(), TODAY)
    trials.path.write_text(text)
    assert trials.read(TODAY) == {}
    trials.keep(kept(LAST), TODAY)
    assert list(trials.read(TODAY)) == [LAST]


def test_a_way_that_is_unknown_to_this_version_is_no_trial() -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept(), TODAY)
    (values,) = json.loads(trials.path.read_text())
    trials.path.write_text(json.dumps([values | {"speed": '{"warp": 9}'}]))
    assert trials.read(TODAY) == {}


def test_loading_compiled_code_is_a_share_of_compiling_until_it_was_measured() -> None:
    found = kept()
    assert found.compile_s == 100.0
    assert found.as_trial(5.0).warm_s == pytest.approx(100.0 * LOADING_SHARE + 5.0)
    again = found.loaded_again(replace(trial(warm_s=18.0), psnr_db=(60.0,)), 6.0)
    assert again.as_trial(6.0).warm_s == 18.0
    assert (again.compile_s, again.ratio, again.lowest_db) == (100.0, 1.2, 88.0)


def test_a_trial_that_was_used_again_keeps_the_date_of_its_timing() -> None:
    assert kept().loaded_again(trial(), 5.0).measured_on == "2026-11-30"
    assert kept().as_trial(5.0).lowest_db == 88.0


def test_pixels_that_are_all_equal_are_kept_as_such() -> None:
    same = KeptTrial.of(replace(trial(), psnr_db=(float("inf"),)), 5.0, TODAY)
    assert same.lowest_db is None
    assert same.as_trial(5.0).lowest_db == float("inf")

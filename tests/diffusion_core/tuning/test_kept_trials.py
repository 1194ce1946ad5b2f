"""Trials that are kept for later runs on the same machine."""

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from nightpress.diffusion_core.cache_folder import cache_folder, replace_text
from nightpress.diffusion_core.tuning import kept_trials
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import (
    LOADING_SHARE,
    LOST,
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
    trials.keep(kept())
    trials.keep(kept(LAST))
    assert KeptTrials(SUBJECT).read(TODAY) == {FULL: kept(), LAST: kept(LAST)}
    assert KeptTrials(SUBJECT | {"model": "abd"}).read(TODAY) == {}
    assert trials.folder.parent == cache_folder() / "auto_speed"
    assert [path.suffix for path in trials.folder.iterdir()] == [".json"] * 2


def test_a_later_trial_of_a_way_replaces_the_earlier_one() -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept())
    trials.keep(replace(kept(), ratio=1.5))
    assert trials.read(TODAY)[FULL].ratio == 1.5


def test_trials_older_than_a_month_are_made_again() -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept())
    assert trials.read(TODAY + MAX_AGE)
    assert trials.read(TODAY + MAX_AGE + timedelta(days=1)) == {}


def test_two_runs_at_once_do_not_lose_each_others_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = KeptTrials(SUBJECT), KeptTrials(SUBJECT)

    def late(path: Path, text: str) -> None:
        monkeypatch.undo()
        other.keep(kept(LAST))
        replace_text(path, text)

    monkeypatch.setattr(kept_trials, "replace_text", late)
    one.keep(kept())
    assert set(one.read(TODAY)) == {FULL, LAST}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "7", "{}", "[[1]]", '{"speed": "{}", "ratio": 1.2}'),
        '{"speed": "{}", "measured_on": "2026-11-30"}',
        '{"speed": 1, "measured_on": 2, "ratio": 1.2}',
    ],
)
def test_a_file_that_is_not_what_this_version_writes_is_no_trial(text: str) -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept())
    (path,) = trials.folder.iterdir()
    path.write_text(text)
    assert trials.read(TODAY) == {}
    trials.keep(kept(LAST))
    assert list(trials.read(TODAY)) == [LAST]


def test_a_way_that_is_unknown_to_this_version_is_no_trial() -> None:
    trials = KeptTrials(SUBJECT)
    trials.keep(kept())
    (path,) = trials.folder.iterdir()
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"speed": '{"warp": 9}'}))
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


@pytest.mark.parametrize("ratio", [1.0, 1.0297])
def test_a_way_that_was_not_faster_is_kept_without_a_psnr(ratio: float) -> None:
    slow = KeptTrial.of(replace(trial(), ratio=ratio, psnr_db=()), 5.0, TODAY)
    assert not slow.is_compared
    assert not slow.as_trial(5.0).is_compared
    assert not slow.as_trial(5.0).is_faster
    assert slow.is_known


def test_a_way_is_given_up_after_two_failures_in_a_row_and_not_before() -> None:
    once = KeptTrial.untimed(FULL, TODAY).failed()
    assert (once.is_known, once.is_given_up, once.failure) == (False, False, LOST)
    twice = once.failed("it needs 9 GiB")
    assert (twice.is_known, twice.is_given_up, twice.failure) == (True, True, "it needs 9 GiB")
    trials = KeptTrials(SUBJECT)
    trials.keep(twice)
    assert trials.read(TODAY) == {FULL: twice}
    trials.forget(FULL)
    trials.forget(FULL)
    assert trials.read(TODAY) == {}


def test_a_timing_survives_a_failure_and_loading_it_again_ends_the_count() -> None:
    once = kept().failed()
    assert (once.ratio, once.is_known, once.is_given_up) == (1.2, True, False)
    again = once.loaded_again(trial(), 5.0)
    assert (again.failures, again.failure) == (0, None)
    assert kept().failed().failed().is_given_up

"""A run records the packages that decide its images, and says when one has changed."""

from dataclasses import replace

import pytest
from support.plans import MODEL

from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory import versions
from nightpress.pipelines.run_directory.versions import version_differences, versions_for

STILLS = RunSpec.from_dict({"name": "r", "output": "none"})
WAN = replace(MODEL, pipeline="WanPipeline")


def test_a_run_records_what_decides_its_own_images() -> None:
    plain = versions_for(STILLS, [MODEL])
    assert {"python", "nightpress", "torch", "diffusers"} <= plain.keys()
    assert not {"av", "ftfy"} & plain.keys()
    clips = RunSpec.from_dict({"name": "r", "output": "none", "images": {"format": "mp4"}})
    assert versions_for(clips, [MODEL]).keys() == plain.keys() | {"av"}
    assert versions_for(STILLS, [MODEL, WAN]).keys() == plain.keys() | {"ftfy"}


def test_that_a_package_for_prompts_is_missing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "find_spec", lambda name: None)
    missing = versions_for(STILLS, [WAN])
    assert missing["ftfy"] == "not installed"
    assert version_differences(missing, missing | {"ftfy": "6.3.1"}) == [
        "ftfy is 6.3.1 and was not installed when the run began; prompts may be read differently"
    ]


def test_a_change_is_said_with_what_it_means() -> None:
    before = {"python": "3.11.1", "torch": "2.8.0", "av": "16", "ray": "2.60"}
    now = {"python": "3.12.0", "torch": "2.13.0", "av": "18", "ray": "2.61", "pillow": "13"}
    assert version_differences(before, now) == [
        "av is 18 and was 16 when the run began; the bytes of MP4 files may differ, and their "
        "frames do not",
        "torch is 2.13.0 and was 2.8.0 when the run began; the last bits of a pixel may differ",
    ]
    assert version_differences(now, now) == []

"""The example of a campaign makes the images that it says, and a person can pick from them."""

from pathlib import Path

import pytest
import yaml
from support.conditioned_runs import made_example
from support.marked_runs import say

from nightpress import MarkChoice, export_picks
from nightpress.pipelines import Run

EXAMPLE = Path("jobs/examples/shoes.yaml")
CAMPAIGN = EXAMPLE.with_suffix(".campaign.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The example with one step for each image."""
    output = tmp_path_factory.mktemp("press")
    return made_example(EXAMPLE, output, num_steps=1, batch_size=4)


def test_it_makes_two_images_of_each_combination_that_the_rule_leaves(run: Run) -> None:
    campaign = yaml.safe_load(CAMPAIGN.read_text())
    shoes, backgrounds = (campaign["axes"][axis] for axis in ("shoe", "background"))
    expected = {f"{shoe}-{each}" for shoe in shoes for each in backgrounds} - {"hiking-white"}
    images = run.metadata.to_table().to_pylist()
    assert sorted(image["image_id"] for image in images) == sorted(
        f"{row}_{variant:02}" for row in expected for variant in range(2)
    )
    assert {image["status"] for image in images} == {"ok"}
    styled = {image["id"] for image in images if image["prompt"].endswith(", 3D style")}
    assert len(styled) == len(expected) // 2


def test_its_picked_images_are_exported(run: Run, tmp_path: Path) -> None:
    say(run, "anna", ("running-blue_01", "flag", "pick"), ("heels-white_00", "flag", "reject"))
    export_picks(run.url, str(tmp_path / "picks"), marks=MarkChoice(flag="pick"))
    pictures = [each.name for each in (tmp_path / "picks").iterdir() if each.suffix == ".png"]
    assert pictures == ["running-blue_01.png"]

"""The example jobs are found where they say, from a folder that has them in `jobs/examples`."""

from pathlib import Path

import pytest

from nightpress import RunSpec, plan

REPOSITORY = Path(__file__).parents[3]
EXAMPLES = Path("jobs/examples")


@pytest.fixture(autouse=True)
def folder_with_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has the examples, but no run of them."""
    (tmp_path / EXAMPLES.parent).mkdir()
    (tmp_path / EXAMPLES).symlink_to(REPOSITORY / EXAMPLES)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "num_images"), [("first", 64), ("walk", 2), ("shoes", 16)])
def test_an_example_is_planned_as_it_stands(name: str, num_images: int) -> None:
    spec = RunSpec.from_file(EXAMPLES / f"{name}.yaml")
    assert Path(spec.url).absolute() == Path("press", name).absolute()
    assert plan(spec).num_images == num_images


def test_every_example_job_writes_into_the_same_folder() -> None:
    jobs = [each for each in EXAMPLES.glob("*.yaml") if not each.name.endswith(".campaign.yaml")]
    assert jobs
    assert [each.name for each in jobs if "\noutput: press\n" not in each.read_text()] == []

"""The export file: what it allows, and what it says of everything else."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.spec import ExportSpec

SMALLEST = {"name": "set", "from": "press/run", "output": "sets"}


def refused(**keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        ExportSpec.from_dict(SMALLEST | keys)
    return str(caught.value)


def test_runs_and_an_output_are_enough() -> None:
    spec = ExportSpec.from_dict(SMALLEST)
    assert (spec.url, spec.runs, spec.layout) == ("sets/set", ["press/run"], "hf-parquet")
    assert (spec.caption, spec.metadata) == ("{prompt}", "minimal")
    assert (spec.splits, spec.leaks) == (("train",), "keep")


def test_a_file_gives_an_export_its_name_and_overrides_replace_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "shoes-v1.yaml"
    path.write_text("from: [press/a, press/b]\noutput: sets\nsplit: {test: 5%}\n")
    spec = ExportSpec.from_file(path, ["split.test=7.5%", "metadata=full"])
    assert (spec.name, spec.metadata) == ("shoes-v1", "full")
    assert spec.split is not None
    assert spec.split.shares == {
        "test": Decimal("0.075"),
        "validation": Decimal(0),
        "train": Decimal("0.925"),
    }
    assert (spec.splits, spec.leaks) == (("train", "test"), "exact")


def test_an_export_is_read_back_from_its_own_values() -> None:
    keys = {"split": {"validation": "5%"}, "select": {"where": "seed > 1"}, "seed": 4}
    spec = ExportSpec.from_dict(SMALLEST | keys)
    assert ExportSpec.from_dict(spec.as_dict()) == spec


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layout": "tfrecord"}, "layout: 'tfrecord': must be 'hf-parquet', "),
        ({"split": {"validation": "60%", "test": "41%"}}, "are 101% together"),
        ({"split": {"validation": "101%"}}, "split.validation: '101%': a share is at most 100%"),
        ({"split": {"validation": 5}}, "split.validation: 5: must be a text, and it must be"),
        ({"splits": {}}, "splits: no such key; allowed here: name, from, output"),
        ({"from": []}, "from: []: must not be empty"),
        ({"from": ["a", "a"]}, "from: a is named twice"),
        ({"from": "s3://key:secret@press/run"}, "contains credentials"),
        ({"select": "../other"}, "must be the name of a selection"),
        ({"name": "a/b"}, "name: 'a/b'"),
        ({"caption": ""}, "caption: ''"),
        ({"layout": "diffusiondb", "split": {"test": "5%"}}, "diffusiondb has no splits"),
        ({"layout": "diffusiondb", "metadata": "none"}, "metadata cannot be none"),
        ({"layout": "preference"}, "rank_by names the score of the layout preference"),
        ({"rank_by": "clip"}, "no other layout has it"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(keys: dict[str, Any], said: str) -> None:
    assert said in refused(**keys)


def test_a_job_is_not_taken_for_an_export(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: prompts.csv\noutput: press\n")
    with pytest.raises(SpecError, match="this is a job, not an export"):
        ExportSpec.from_file(path)


def test_where_an_export_runs_is_not_part_of_what_it_is() -> None:
    moved = SMALLEST | {"output": "elsewhere", "cluster": {"address": "ray://head"}}
    assert ExportSpec.from_dict(moved).identity() == ExportSpec.from_dict(SMALLEST).identity()
    other = SMALLEST | {"caption": "{id}"}
    assert ExportSpec.from_dict(other).identity() != ExportSpec.from_dict(SMALLEST).identity()

"""Columns in the names of folders, compared with what pyarrow reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.plans import MODEL, job, manifest_changes, planned, problems_of, write

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.partitions import NULL, partition_of
from nightpress.pipelines.planning import PlanLayout, check
from nightpress.pipelines.run_directory.record import new_record

WIDTH = ("width", "64")


def fingerprint(spec: RunSpec) -> str:
    return new_record(spec, MODEL, "cpu", 1, check(spec, MODEL)).fingerprint


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".txt"])
def test_folders_give_settings_and_carried_columns_in_every_format(
    tmp_path: Path, suffix: str
) -> None:
    for category, width in (("01", 64), (NULL, 128)):
        write(tmp_path / f"set/category={category}/width={width}/x{suffix}", [{"prompt": "a"}])
    layout, plan = planned(job(tmp_path, tmp_path / "set"))
    assert {(row["category"], row["width"]) for row in plan.to_pylist()} == {
        ("01", 64),
        (None, 128),
    }
    assert PlanLayout.from_dict(layout.as_dict()) == layout


def test_a_data_set_that_pyarrow_wrote_has_the_columns_that_pyarrow_reads(tmp_path: Path) -> None:
    values = ["01", "a b", "c/d", "é=%", "1+1", None, "__x"]
    table = pa.table({"prompt": [f"p{n}" for n in range(7)], "kind of": values, "b": ["1"] * 7})
    ds.write_dataset(
        table, tmp_path / "set", format="parquet", partitioning=["kind of", "b"],
        partitioning_flavor="hive",
    )  # fmt: skip
    schema = pa.schema([("kind of", pa.string()), ("b", pa.string())])
    wanted = ds.dataset(tmp_path / "set", partitioning=ds.partitioning(schema, flavor="hive"))
    rows = {row["prompt"]: row for row in wanted.to_table().to_pylist()}
    _, plan = planned(job(tmp_path, tmp_path / "set"))
    assert {row["prompt"]: row["kind of"] for row in plan.to_pylist()} == {
        prompt: row["kind of"] for prompt, row in rows.items()
    }
    assert set(plan["b"].to_pylist()) == {"1"}


@pytest.mark.parametrize(
    ("url", "named", "partition"),
    [
        ("/d/k=1/j=2/x.csv", "/d", (("k", "1"), ("j", "2"))),
        ("/d/k=1/j=2/x.csv", "/d/k=1", (("k", "1"), ("j", "2"))),
        ("/d/k=1/j=2/x.csv", "/d/k=1/j=2", (("k", "1"), ("j", "2"))),
        ("/d/k=1/in/j=2/x.csv", "/d/k=1/in", (("j", "2"),)),
        ("/d/k=1/in/x.csv", "/d/k=1", (("k", "1"),)),
        ("/k=1/x.csv", "/", (("k", "1"),)),
        ("s3://b/d/k=1/x.csv", "s3://b/d/k=1/", (("k", "1"),)),
        ("zip://k=1/x.csv::s3://b/a.zip", "zip://k=1::s3://b/a.zip", (("k", "1"),)),
        ("/d/k=1/j=2/x.csv", "/d/k=1/j=2/x.csv", (("k", "1"), ("j", "2"))),
        ("/d/k=1/in/x.csv", "/d/k=1/in/x.csv", ()),
        ("/d/k=1/in/j=2/x.csv", "/d/k=1/in/j=2/x.csv", (("j", "2"),)),
        ("/d/k=1/x.csv", "/d/k=*/x.csv", (("k", "1"),)),
        ("/d/k=1/x.csv", "/d/**/*.csv", (("k", "1"),)),
        ("/d/k=1/x.csv", "/d/k=1/*.csv", (("k", "1"),)),
        ("/r=1/d/k=1/x.csv", "/r=1/d/*/*.csv", (("k", "1"),)),
        ("/d/[a]/k=1/x.csv", "/d/[a]", (("k", "1"),)),
        ("/d/k=a=b/x.csv", "/d", (("k", "a=b"),)),
        ("/d/k=/x.csv", "/d", (("k", ""),)),
        ("/d/k=a%2Fb+c%20%25/x.csv", "/d", (("k", "a/b+c %"),)),
        ("/d/k=1/k=1/x.csv", "/d", (("k", "1"),)),
        (f"/d/k={NULL}/x.csv", "/d", (("k", None),)),
        ("/d/x=1.csv", "/d", ()),
        ("s3://b/d/k=1/x.csv", "s3://b/d/", (("k", "1"),)),
        ("s3://b=1/d/x.csv", "s3://b=1/d/*.csv", ()),
        ("https://h/k=a%2520b/x.csv?q=1/z=2", "https://h/k=a%2520b/x.csv?q=1/z=2", (("k", "a b"),)),
        ("zip://k=1/x.csv::s3://b/j=2/a.zip", "zip://*/x.csv::s3://b/j=2/a.zip", (("k", "1"),)),
    ],
)  # fmt: skip
def test_which_folders_count(url: str, named: str, partition: Any) -> None:
    assert partition_of(url, named) == partition


def test_folders_that_contradict_each_other_or_are_no_text_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"column k: two folders give this column, as '1' and"):
        partition_of("/d/k=1/k=2/x.csv", "/d")
    with pytest.raises(ManifestError, match="is not UTF-8 text when its percent signs"):
        partition_of("/d/k=%ff/x.csv", "/d")


@pytest.mark.parametrize(
    "named", [["x=1", "x=2"], ["x=1", ""], ["", "x=2"], ["x=1/in", ""], ["x=1/in", "x=*/**"]]
)
def test_the_columns_of_folders_do_not_depend_on_how_the_files_are_named(
    tmp_path: Path, named: list[str]
) -> None:
    for value in "12":
        write(tmp_path / f"set/x={value}/in/a.csv", [{"prompt": f"p{value}"}])
    plan = planned(job(tmp_path, [tmp_path / "set" / name for name in named]))[1].to_pylist()
    assert {(row["prompt"], row["x"]) for row in plan} == {("p1", "1"), ("p2", "2")}


def test_files_with_other_folders_have_null(tmp_path: Path) -> None:
    write(tmp_path / "set/kind=a/x.csv", [{"prompt": "p"}])
    write(tmp_path / "set/style=b/x.csv", [{"prompt": "q"}])
    write(tmp_path / "set/x.csv", [{"prompt": "r"}])
    _, plan = planned(job(tmp_path, tmp_path / "set"))
    rows = {row["prompt"]: (row["kind"], row["style"]) for row in plan.to_pylist()}
    assert rows == {"p": ("a", None), "q": (None, "b"), "r": (None, None)}


@pytest.mark.parametrize(
    ("column", "folder", "agrees"),
    [
        (pa.array(["01"]), "01", True),
        (pa.array([1]), "1", True),
        (pa.array([None], pa.string()), NULL, True),
        (pa.array(["1"]), "01", False),
        (pa.array([2]), "1", False),
        (pa.array([1]), "one", False),
        (pa.array([None], pa.string()), "01", False),
        (pa.array([[1]]), "1", False),
    ],
)
def test_a_column_that_the_folder_gives_too_must_agree(
    tmp_path: Path, column: pa.Array, folder: str, agrees: bool
) -> None:
    path = tmp_path / f"set/kind={folder}/x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["a"], "kind": column}), path)
    spec = job(tmp_path, tmp_path / "set")
    if agrees:
        assert planned(spec)[1]["kind"].to_pylist() == column.to_pylist()
    else:
        (problem,) = problems_of(spec)
        assert "x.parquet, row 0 (counted from 0), column kind: it is " in problem
        assert "but the folder gives this column too" in problem


def test_a_setting_in_a_folder_name_is_checked_like_any_other(tmp_path: Path) -> None:
    write(tmp_path / "set/width=100/x.csv", [{"prompt": "a"}])
    (problem,) = problems_of(job(tmp_path, tmp_path / "set"))
    assert problem.startswith("set/width=100/x.csv, line 2, column width: 100 is not a multiple")


def test_prompts_may_come_from_a_folder_alone(tmp_path: Path) -> None:
    write(tmp_path / "set/prompt=a%20cat/x.csv", [{"note": "n"}])
    _, plan = planned(job(tmp_path, tmp_path / "set"))
    assert plan.select(["prompt", "note"]).to_pylist() == [{"prompt": "a cat", "note": "n"}]


def test_the_folders_are_part_of_a_runs_identity(tmp_path: Path) -> None:
    write(tmp_path / "set/width=64/x.csv", [{"prompt": "a"}])
    spec = job(tmp_path, tmp_path / "set")
    layout, first = check(spec, MODEL), fingerprint(spec)
    assert manifest_changes(layout, spec) == []
    elsewhere = (tmp_path / "set").rename(tmp_path / "moved")
    assert fingerprint(job(tmp_path, elsewhere)) == first
    (elsewhere / "width=64").rename(elsewhere / "width=128")
    (change,) = manifest_changes(layout, job(tmp_path, elsewhere))
    assert ("width=64" in str(change.old), "width=128" in str(change.new)) == (True, True)
    assert fingerprint(job(tmp_path, elsewhere)) != first
    inside = job(tmp_path, elsewhere / "width=128")
    assert fingerprint(inside) == fingerprint(job(tmp_path, elsewhere))


def test_a_plan_without_such_folders_is_stored_as_before(tmp_path: Path) -> None:
    layout = check(job(tmp_path, write(tmp_path / "m.csv", [{"prompt": "a"}])), MODEL)
    (file,) = layout.as_dict()["files"]
    assert "partition" not in file
    assert replace(layout.files[0], partition=()).identity == layout.files[0].identity

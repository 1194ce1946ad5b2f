"""Runs whose manifest is a table in memory: its rows and no others, and everything in the store."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.plans import MODEL
from support.polars_like import PolarsLike
from support.run_files import files_of, hashes, read_metadata

from nightpress import RunSpec, open_run, plan, preview, run, verify
from nightpress.jobs.runs.table_manifest import TableManifest
from nightpress.pipelines.errors import Damaged, ManifestError, ManifestGrown, SpecError
from nightpress.pipelines.planning import PlanLayout, check
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

ROWS = [
    {"prompt": f"picture {n}", "seed": n, "width": 32, "mood": f"mood {n % 3}"} for n in range(6)
]
TABLE = pa.Table.from_pylist(ROWS)


FRAMES = {"pyarrow": TABLE, "pandas": pd.DataFrame(ROWS), "polars": PolarsLike(TABLE)}


@pytest.fixture
def spec(make_spec: MakeSpec) -> RunSpec:
    """A job that names no manifest."""
    values = {k: v for k, v in make_spec().as_dict().items() if k != "manifest"}
    return RunSpec.from_dict(values | {"batch": {"size": 2, "shard_size": 3}})


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_plan_takes_a_table_of_every_library_and_writes_nothing(spec: RunSpec, frame: Any) -> None:
    planned = plan(spec, manifest=frame)
    assert (planned.num_rows, planned.num_images, planned.num_shards) == (6, 6, 2)
    assert planned == plan(spec, manifest=TABLE)
    assert not Path(spec.output).exists()


def test_a_job_without_manifest_and_table_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    for function in (plan, run):
        with pytest.raises(SpecError, match=r"^job: manifest: missing"):
            function(spec)
    job = tmp_path / "job.yaml"
    job.write_text("output: runs\n")
    with pytest.raises(SpecError, match=r"job\.yaml: manifest: missing$"):
        RunSpec.from_file(job)
    assert RunSpec.from_file(job, ["manifest=prompts.txt"]).manifests == ["prompts.txt"]
    assert not Path(spec.output).exists()


def test_problems_of_a_table_name_the_table_row_and_column(spec: RunSpec) -> None:
    bad = pd.DataFrame(ROWS).assign(width=[32, 31, 32, 32, 32, 33])
    with pytest.raises(ManifestError) as caught:
        plan(spec, manifest=bad[1:])
    places = [(problem.file, problem.row, problem.column) for problem in caught.value.problems]
    assert places == [("table", 0, "width"), ("table", 4, "width")]
    with pytest.raises(ManifestError, match="table: the manifest has no rows"):
        plan(spec, manifest=bad[:0])


@pytest.mark.usefixtures("local_ray")
def test_a_run_of_a_table_makes_its_rows_and_can_be_resumed_and_repaired_without_it(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(spec, manifest=pd.DataFrame(ROWS))
    assert (result.num_images, result.num_ok) == (6, 6)
    metadata = read_metadata(spec).to_pylist()
    assert [(row["prompt"], row["seed"], row["mood"]) for row in metadata] == [
        (row["prompt"], row["seed"], row["mood"]) for row in ROWS
    ]
    record = open_run(spec.url).record
    (file,) = record.layout.files
    (path,) = Path(spec.url, "manifest").iterdir()
    assert Path(file.url) == Path(record.spec.manifests[0]) == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    assert pq.read_table(path).to_pylist() == ROWS

    # The same table from another library, and no table at all, resume the run.
    kept, images = path.stat(), hashes(spec)
    Path(spec.url, shard_path(1)).unlink()
    assert run(spec, manifest=PolarsLike(TABLE)).num_ok == 6
    for lost in (shard_path(1), "plan/part-00000.parquet", "images/00000005_00.png"):
        Path(spec.url, lost).unlink()
    assert run(spec).num_made == 1
    assert path.stat().st_mtime_ns == kept.st_mtime_ns
    assert hashes(spec) == images

    # Another table, or a file with the same rows, is another manifest.
    before = files_of(spec)
    for number, other in ((5, TABLE.slice(1)), (6, TABLE.append_column("x", [list("abcdef")]))):
        with pytest.raises(ManifestGrown, match=f"{number} images changed: 00000000_00, "):
            run(spec, manifest=other)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(ManifestGrown, match="the images are the same as before"):
        run(spec.model_copy(update={"manifest": str(rows)}))
    assert files_of(spec) == before

    # A repair needs the run directory alone, wherever it is started.
    harmed = Path(spec.url, "images/00000004_00.png")
    whole = harmed.read_bytes()
    harmed.write_bytes(b"harmed")
    Path(spec.url, "plan/part-00000.parquet").write_bytes(b"harmed")
    monkeypatch.chdir(tmp_path)
    assert verify(spec.url, repair=True).is_sound
    assert harmed.read_bytes() == whole

    # A longer table extends the run, which then keeps both.
    longer = pa.concat_tables([TABLE, TABLE.slice(2, 2)])
    assert run(spec, manifest=longer, extend=True).num_made == 2
    assert run(spec).num_made == run(spec, manifest=PolarsLike(longer)).num_made == 0
    assert {name: hashes(spec)[name] for name in images} == images
    assert len(list(Path(spec.url, "manifest").iterdir())) == 2


@pytest.mark.usefixtures("local_ray")
def test_a_bad_table_leaves_nothing_behind(spec: RunSpec) -> None:
    bad = pd.DataFrame(ROWS).assign(width=31)
    with pytest.raises(
        ManifestError, match=r"table, rows 0, 1, .*\(counted from 0\), column width"
    ):
        run(spec, manifest=bad)
    assert not Path(spec.url).exists() or files_of(spec) == {}


@pytest.mark.usefixtures("local_ray")
def test_a_preview_takes_a_table(spec: RunSpec) -> None:
    assert preview(spec, 2, manifest=FRAMES["pandas"]).width > 32
    assert not Path(spec.output).exists()


def kept_in(store: Store, spec: RunSpec) -> tuple[TableManifest, PlanLayout]:
    """A table that is planned and then kept in a store."""
    table = TableManifest.of(TABLE)
    with table.temporary_job(spec) as over_copy:
        layout = check(over_copy, MODEL)
    return table, replace(layout, files=(table.keep(store, layout.files[0]),))


def test_bytes_of_another_arrow_version_are_the_same_table() -> None:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, compression="gzip", row_group_size=2)
    table = TableManifest.of(TABLE)
    assert sink.getvalue() != table.data
    assert table._equals(sink.getvalue())
    assert not TableManifest.of(TABLE.slice(1))._equals(sink.getvalue())
    assert not table._equals(sink.getvalue()[:-9])


def test_a_name_that_holds_another_file_is_refused(spec: RunSpec) -> None:
    store = Store(spec.url)
    table, layout = kept_in(store, spec)
    assert table.keep(store, layout.files[0]) == layout.files[0]
    store.put(table.path, b"somebody else's")
    with pytest.raises(Damaged, match="its content does not match the sha256 in its name"):
        table.keep(store, layout.files[0])

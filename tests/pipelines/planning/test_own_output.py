"""A job never reads its own run directory as a manifest."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.plans import MODEL, planned, write

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check
from nightpress.pipelines.planning.own_output import refuse_own_files, refuse_own_output
from nightpress.pipelines.storage import Source


def job(manifest: str | Sequence[str], output: str, name: str = "night") -> RunSpec:
    manifests = [manifest] if isinstance(manifest, str) else list(manifest)
    return RunSpec.from_dict({"name": name, "manifest": manifests, "output": output})


@pytest.mark.parametrize(
    ("manifest", "output"),
    [
        ("/data", "/data"),
        ("/data", "/data/"),
        ("/data/", "/data/runs"),
        ("/data", "file:///data/runs/2026"),
        ("/data/../data", "/data/runs"),
        ("/", "/data/runs"),
        (["/prompts/a.csv", "/data"], "/data/runs"),
        ("/data/**", "/data/runs"),
        ("/data/**/*.parquet", "/data/runs"),
        ("/data/**/part-*", "/data"),
        ("/data/*/*/plan/*.parquet", "/data/runs"),
        ("/data/*/*/metadata/shard-0000[0-4].parquet", "/data/runs"),
        ("/data/*/*/metadata/shard-0077*.parquet", "/data/runs"),
        ("/data/**/shard-00050.parquet", "/data/runs"),
        ("/data/**/part-[!0-3]????.parquet", "/data"),
        ("/data/**/shard-*-*e*dead*.parquet", "/data"),
        ("/data/**/shard-123456.parquet", "/data"),
        ("/data/**/night/**/*/*", "/data"),
        ("/data/**/**/*0*0*.parquet", "/data"),
        ("/data/[v2]/**/*.parquet", "/data/[v2]"),
        ("s3://b/**/shard-00050.parquet", "s3a://b/runs"),
        ("/data/*/night/**", "/data/runs"),
        ("/data/?uns/**/*.p*", "/data/runs"),
        ("s3://b", "s3://b/runs"),
        ("s3://b/data/", "s3a://b/data/runs"),
        ("s3://b/**/*.parquet", "s3://b/runs"),
        ("memory://data", "memory://data/runs"),
        ("/data/runs/night", "/data/runs"),
        ("/data/runs/night/metadata", "/data/runs"),
        ("/data/runs/night/metadata/*.parquet", "/data/runs"),
    ],
)
def test_a_manifest_that_covers_the_jobs_own_run_is_refused(
    manifest: str | list[str], output: str
) -> None:
    with pytest.raises(SpecError, match="run directory of this") as caught:
        refuse_own_output(job(manifest, output))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("manifest", "output"),
    [
        ("/data/a.csv", "/data"),
        ("/data/prompts", "/data"),
        ("/data/*.parquet", "/data/runs"),
        ("/data/**/*.csv", "/data/runs"),
        ("/data/**/shard-0005.parquet", "/data/runs"),
        ("/data/**/shard-012345.parquet", "/data/runs"),
        ("/data/**/shard-x*.parquet", "/data/runs"),
        ("/data/**/part-[!0-9]*", "/data/runs"),
        ("/data/**/plan/shard-*", "/data/runs"),
        ("/data/**/plan/*/**", "/data/runs"),
        ("/data/**/metadata/*/*.parquet", "/data/runs"),
        ("s3://b/**/shard-00050.parquet", "/b/runs"),
        ("/data/run", "/data/runs"),
        ("/data/night", "/data/runs"),
        ("/data/runs/evening/metadata", "/data/runs"),
        ("/data/runs/evening*/metadata/*.parquet", "/data/runs"),
        ("/data/runs/night/manifest/table-0123456789abcdef.parquet", "/data/runs"),
        ("s3://b/data", "s3://b/runs"),
        ("s3://data", "memory://data/runs"),
        ("s3://data/", "/data/runs"),
        ("hf://datasets/a/b/**/*.parquet", "s3://b/runs"),
    ],
)
def test_other_files_and_other_runs_may_be_a_manifest(manifest: str, output: str) -> None:
    refuse_own_output(job(manifest, output))


@pytest.mark.parametrize("manifest", ["data", "link", "link/**/*", "data/**/*.parquet"])
@pytest.mark.parametrize("output", ["data/runs", "link/runs"])
def test_symbolic_links_do_not_hide_it(tmp_path: Path, manifest: str, output: str) -> None:
    write(tmp_path / "data" / "a.csv", [{"prompt": "a"}])
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(SpecError, match="also covers the run directory"):
        check(job(str(tmp_path / manifest), str(tmp_path / output)), MODEL)


def test_a_link_below_the_manifests_folder_is_found_once_the_run_exists(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.parquet", [{"prompt": "a"}])
    spec = job(f"{tmp_path}/data/*/**/*.parquet", f"{tmp_path}/runs")
    write(tmp_path / "data" / "sub" / "a.parquet", [{"prompt": "a"}])
    os.symlink(tmp_path / "runs", tmp_path / "data" / "runs")
    planned(spec)
    with pytest.raises(SpecError, match="also covers the run directory"):
        check(spec, MODEL)


def test_a_link_below_a_folder_is_found_at_once(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", [{"prompt": "a"}])
    (tmp_path / "runs").mkdir()
    spec = job(f"{tmp_path}/data", f"{tmp_path}/runs")
    (tmp_path / "data" / "_runs").symlink_to("../runs")
    assert check(spec, MODEL).num_rows == 1
    (tmp_path / "data" / "runs").symlink_to("../runs")
    with pytest.raises(SpecError, match="data/runs also covers the run directory of this job"):
        check(spec, MODEL)


def test_the_metadata_of_another_run_is_a_manifest(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "evening" / "metadata" / "shard-00000.parquet", [{"prompt": "a"}])
    spec = job(f"{tmp_path}/runs/evening/metadata", f"{tmp_path}/runs")
    planned(spec)
    assert check(spec, MODEL).num_rows == 1


@pytest.mark.parametrize(
    ("url", "output", "own"),
    [
        ("s3://b/runs/night/metadata/shard-00000.parquet", "s3a://b/runs/", True),
        ("memory://runs/night/plan/part-00000.parquet", "memory://runs", True),
        ("zip://a.csv::s3://b/runs/night/a.zip", "s3://b/runs", True),
        ("s3://b/runs/night/manifest/table-0123456789abcdef.parquet", "s3://b/runs", False),
        ("s3://b/runs/nights/metadata/shard-00000.parquet", "s3://b/runs", False),
        ("s3://runs/night/metadata/shard-00000.parquet", "memory://runs", False),
    ],
)
def test_files_that_are_found_in_the_jobs_own_run_are_refused(
    url: str, output: str, own: bool
) -> None:
    spec = job("s3://b/other.csv", output)
    if own:
        with pytest.raises(SpecError, match="also covers the run directory"):
            refuse_own_files(spec, [Source(url, 1, "")])
    else:
        refuse_own_files(spec, [Source(url, 1, "")])

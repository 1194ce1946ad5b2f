"""Campaigns as manifests: found by name, planned, and told apart by all that they read."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.campaigns import table_of, write_campaign
from support.plans import job, planned

from nightpress.jobs.runs.expand import expand
from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.manifest import campaigns
from nightpress.pipelines.manifest.campaigns import campaign_rows, load_campaign, scan_campaign
from nightpress.pipelines.manifest.file_records import RowRange
from nightpress.pipelines.manifest.files import load_table, read_rows, scan, sha256_of
from nightpress.pipelines.manifest.formats import format_of, manifest_files
from nightpress.pipelines.planning import compare_manifest
from nightpress.pipelines.storage import find

TEXT = """
    prompt: "__style__ of ${p.name} at ${place}"
    lists: lists
    axes: {p: {from: p.csv}, place: [sea, hill]}
"""
FILES = {
    "p_DOT_csv": "sku,name\na,boot\nb,shoe\n",
    "lists__style_DOT_txt": "film\nstudio\n",
    "lists__unused_DOT_txt": "x\n",
}


def test_a_campaign_is_known_by_its_name() -> None:
    assert format_of("s3://b/Shoes.Campaign.yaml") == ("campaign", None)
    assert format_of("shoes.campaign.yml") == ("campaign", None)
    assert format_of("shoes.yaml") is None


def test_another_suffix_is_told_of_campaigns(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("prompt: a\n")
    with pytest.raises(ManifestError, match=r"\.campaign\.yaml"):
        manifest_files(str(tmp_path / "x.yaml"), find([str(tmp_path / "x.yaml")]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "sku,name\na,boot\nb,sock\n"),
        ("lists/style.txt", "film\nstudio\nnight\n"),
        ("shoes.campaign.yaml", 'prompt: "a ${p}"\naxes: {p: [1]}\n'),
    ],
)
def test_the_fingerprint_covers_every_file_that_decides_a_row(
    tmp_path: Path, name: str, content: str
) -> None:
    path = write_campaign(tmp_path, TEXT, **FILES)
    before = sha256_of(path, {})
    (tmp_path / name).write_text(content)
    assert sha256_of(path, {}) != before


def test_the_fingerprint_does_not_cover_where_files_are_or_what_nothing_uses(
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    before = sha256_of(write_campaign(here, TEXT, **FILES), {})
    assert sha256_of(write_campaign(there, TEXT, **FILES), {}) == before
    (there / "lists" / "unused.txt").write_text("y\n")
    (there / "lists" / "another.txt").write_text("z\n")
    assert sha256_of(str(there / "shoes.campaign.yaml"), {}) == before


def test_rows_of_a_campaign_that_has_changed_since_its_scan_are_refused(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, TEXT, **FILES)
    (source,) = find([path])
    loaded = load_campaign(source.url, {}, load_table)
    (tmp_path / "lists" / "style.txt").write_text("other\n")
    with pytest.raises(ManifestError, match="has changed since it was checked"):
        campaign_rows(source.url, loaded.sha256, {}, load_table)


def test_one_load_serves_the_scan_and_every_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Mock(side_effect=campaigns.load_lists)
    monkeypatch.setattr(campaigns, "load_lists", counted)
    path = write_campaign(tmp_path, TEXT, **FILES)
    (source,) = find([path])
    file = scan(source, {})
    for first_row in range(file.num_rows):
        assert list(read_rows(RowRange(file, first_row, 1), file.schema.names, {}))
    assert counted.call_count == 1
    expand(path).write(str(tmp_path / "rows.parquet"))
    assert counted.call_count == 2


def test_what_may_not_be_meant_is_said(tmp_path: Path) -> None:
    text = """
        prompt: "{a|9::b} ${p}"
        axes: {p: {x: {widht: 64}, y: {widht: 32}}}
        draw: {rows: 4, cover: {axes: [p, "{a|9::b}"], strength: 2}}
    """
    path = write_campaign(tmp_path, text)
    _, notes = scan_campaign(path, {}, load_campaign(path, {}, load_table))
    assert notes == (
        "p.widht is carried and sets nothing; did you mean width?",
        "{a|9::b}: its weights do not count, as draw.cover combines it with other values",
    )


def test_a_plan_has_the_axes_as_columns(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, TEXT, **FILES)
    spec = job(tmp_path, Path(path), images={"file_name": "{place}/{p.sku}/{image_id}.png"})
    layout, plan = planned(spec)
    assert sorted(plan["file"].to_pylist())[0] == "images/hill/a/a-hill_00.png"
    assert set(plan["p.name"].to_pylist()) == {"boot", "shoe"}
    assert compare_manifest(layout.files, spec).changes == ()
    (tmp_path / "lists" / "style.txt").write_text("film\nother\n")
    changes = compare_manifest(layout.files, spec).changes
    assert [change.field for change in changes] == [f"manifest {path}"]


def test_what_travels_with_a_campaign_is_what_it_names_by_relative_paths(tmp_path: Path) -> None:
    far = tmp_path / "far"
    (far / "far.csv").parent.mkdir()
    (far / "far.csv").write_text("sku\na\n")
    text = TEXT + '      \n    columns: {far: "${f}"}\n    id: "${p}-${place}-${f}"\n'
    text = text.replace("place: [sea, hill]", f"place: [sea, hill], f: {{from: {far}/far.csv}}")
    path = write_campaign(tmp_path / "near", text, **FILES)
    beside = load_campaign(path, {}, load_table).beside
    names = {Path(url).relative_to(tmp_path / "near").as_posix() for url in beside}
    assert names == {"p.csv", "lists/style.txt", "lists/unused.txt"}


def test_two_processes_make_the_same_rows(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, TEXT + "    draw: {rows: 3, seed: 5}\n", **FILES)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]);"
        "from support.campaigns import table_of; print(table_of(sys.argv[1]).to_pylist())"
    )
    tests = str(Path(__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", code, path, tests], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(table_of(path).to_pylist())

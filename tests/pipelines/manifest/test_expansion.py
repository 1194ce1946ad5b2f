"""Campaigns written out as files, and compared row by row."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.campaigns import scanned, table_of, write_campaign

from nightpress.pipelines.errors import ManifestError, StoreDenied, StoreError
from nightpress.pipelines.manifest import expansion
from nightpress.pipelines.manifest.expansion import compare_rows, write_rows
from nightpress.pipelines.manifest.files import scan
from nightpress.pipelines.storage import Store, find

TEXT = """
    prompt: "{film|studio} photo of ${n}"
    axes: {n: {count: %d}}
    canvas: [0, 64, 0, 64]
    width: 64
"""


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_written_file_has_the_rows_of_the_campaign(tmp_path: Path, suffix: str) -> None:
    campaign = scanned(write_campaign(tmp_path, TEXT % 7))
    output = str(tmp_path / f"x.{suffix}")
    write_rows(campaign, output, {})
    (source,) = find([output])
    difference = compare_rows([scan(source, {})], [campaign], {})
    assert (difference.num_stayed, difference.num_new, difference.num_old) == (7, 7, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shoes.campaign.yaml",
        f"x.{suffix}",
    ]


def test_large_numbers_are_the_same_in_every_format(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, 'prompt: "${n}"\naxes: {n: [1]}\ncolumns: {c: 1.0e+20}\n')
    write_rows(scanned(path), str(tmp_path / "x.csv"), {})
    (source,) = find([str(tmp_path / "x.csv")])
    assert compare_rows([scan(source, {})], [scanned(path)], {}).num_stayed == 1


def test_everything_comes_where_nothing_was(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,prompt\n")
    (source,) = find([str(tmp_path / "x.csv")])
    new = scanned(write_campaign(tmp_path, TEXT % 3))
    difference = compare_rows([scan(source, {})], [new], {})
    assert (difference.num_came, difference.num_new) == (3, 3)


def test_a_parquet_file_keeps_the_types(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, TEXT % 3)
    write_rows(scanned(path), str(tmp_path / "x.parquet"), {})
    assert pq.read_table(tmp_path / "x.parquet").equals(table_of(path))


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    campaign = scanned(write_campaign(tmp_path, TEXT % 3))
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(StoreDenied, match="is there already"):
        write_rows(campaign, str(tmp_path / "x.csv"), {})
    assert (tmp_path / "x.csv").read_text() == "mine"


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_a_file_whose_writing_is_stopped_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, is_remote: bool
) -> None:
    def stopped(*_: object) -> Iterator[pa.Table]:
        yield from tables(campaign, {})
        raise KeyboardInterrupt

    campaign, tables = scanned(write_campaign(tmp_path, TEXT % 3)), expansion._tables
    folder = f"memory://{tmp_path.name}-{suffix}" if is_remote else str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(expansion, "_tables", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_rows(campaign, f"{folder}/x.{suffix}", {})
    assert Store(folder).list() == {}
    assert not any((tmp_path / "out").iterdir())
    monkeypatch.undo()
    write_rows(campaign, f"{folder}/x.{suffix}", {})
    assert list(Store(folder).list()) == [f"x.{suffix}"]


def test_a_folder_or_a_link_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    campaign = scanned(write_campaign(tmp_path, TEXT % 3))
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "y.csv").symlink_to(tmp_path / "none")
    for name in ("x.csv", "y.csv"):
        with pytest.raises(StoreDenied, match=f"{name}: a folder or a link is there already"):
            write_rows(campaign, str(tmp_path / name), {})
    assert not (tmp_path / "none").exists()


def test_a_url_takes_no_file_that_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = scanned(write_campaign(tmp_path, TEXT % 3))
    monkeypatch.setattr(expansion, "MAX_REMOTE_BYTES", 10)
    with pytest.raises(StoreDenied, match="at a URL it has at most"):
        write_rows(campaign, f"memory://{tmp_path.name}/x.csv", {})
    assert Store(f"memory://{tmp_path.name}").list() == {}
    write_rows(campaign, str(tmp_path / "x.csv"), {})


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[pa.Table]:
        yield from ()
        raise OSError(errno.ENOSPC, "No space left on device")

    campaign = scanned(write_campaign(tmp_path, TEXT % 3))
    monkeypatch.setattr(expansion, "_tables", full)
    with pytest.raises(StoreError, match=r"nightpress-.*No space left on device"):
        write_rows(campaign, f"memory://{tmp_path.name}/x.csv", {})


@pytest.mark.parametrize("is_remote", [False, True])
def test_of_two_that_write_the_same_file_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_remote: bool
) -> None:
    def late(*_: object) -> Iterator[pa.Table]:
        assert Store(folder).create("x.csv", b"theirs")
        yield from tables(campaign, {})

    campaign, tables = scanned(write_campaign(tmp_path, TEXT % 3)), expansion._tables
    folder = f"memory://{tmp_path.name}" if is_remote else str(tmp_path)
    monkeypatch.setattr(expansion, "_tables", late)
    with pytest.raises(StoreDenied, match="another process has written"):
        write_rows(campaign, f"{folder}/x.csv", {})
    assert Store(folder).read("x.csv") == b"theirs"


def test_rows_come_go_change_and_stay(tmp_path: Path) -> None:
    def manifest(name: str, rows: list[dict[str, object]]) -> list[object]:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return [scan(source, {}) for source in find([str(tmp_path / name)])]

    old = [{"id": str(n), "prompt": f"p{n}", "width": 64} for n in range(5)]
    new = [{"id": str(n), "prompt": f"p{n}", "width": 64.0} for n in (4, 3, 2, 7)]
    new[2] = {"id": "2", "prompt": "other", "width": 128.0}
    difference = compare_rows(manifest("old.parquet", old), manifest("new.parquet", new), {})
    assert (difference.came, difference.went) == (("7",), ("0", "1"))
    (change,) = difference.changed
    assert (change.id, change.columns, change.old, change.new) == (
        "2",
        ("prompt", "width"),
        "p2",
        "other",
    )
    assert (difference.num_stayed, difference.num_redrawn) == (2, 0)


def test_what_only_drew_otherwise_is_told_apart(tmp_path: Path) -> None:
    before = scanned(write_campaign(tmp_path / "a", TEXT % 900))
    after = scanned(write_campaign(tmp_path / "b", TEXT % 920))
    difference = compare_rows([before], [after], {})
    assert difference.num_came == 20
    assert difference.num_changed == difference.num_went == 0
    assert 0 < difference.num_redrawn < 20
    assert all(change.columns == ("prompt",) for change in difference.redrawn)


def test_an_id_that_is_there_twice_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,prompt\na,b\na,c\n")
    file = scan(find([str(path)])[0], {})
    with pytest.raises(ManifestError, match="'a' is there twice"):
        compare_rows([file], [file], {})

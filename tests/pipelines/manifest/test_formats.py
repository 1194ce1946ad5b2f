"""Which files of a folder are one manifest, and which are refused rather than guessed."""

from pathlib import Path

import pytest
from support.plans import MODEL, job, problems_of

from nightpress.pipelines.manifest.formats import format_of
from nightpress.pipelines.planning import check

DATA = {
    "csv": b"prompt\na\n",
    "tsv": b"prompt\na\n",
    "jsonl": b'{"prompt": "a"}\n',
    "txt": b"a\n",
    "ndjson": b'{"prompt": "a"}\n',
    "md": b"about",
}


def folder_with(tmp_path: Path, names: str) -> Path:
    for name in names.split():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA[path.suffix[1:].lower()])
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ("a.csv b.csv", ""),
        ("a.csv b.CSV c.md", ""),
        ("a.txt b.txt", ""),
        ("a.jsonl b.ndjson", ""),
        ("a.csv b.txt", "/*.csv"),
        ("x/a.csv y/a.csv", "/**/*.csv"),
        ("a.csv sub/a.txt", "/*"),
    ],
)
def test_files_of_one_format_are_one_manifest(tmp_path: Path, names: str, pattern: str) -> None:
    found = check(job(tmp_path, Path(f"{folder_with(tmp_path, names)}{pattern}")), MODEL)
    assert found.num_rows == len(found.files)


@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_several_formats_are_counted_and_one_is_suggested(tmp_path: Path, pattern: str) -> None:
    folder = folder_with(tmp_path, "a.csv b.csv SHA256SUMS.txt README.md")
    (problem,) = problems_of(job(tmp_path, Path(f"{folder}{pattern}")))
    assert problem == (
        f"set{pattern}: it holds 1 text file (SHA256SUMS.txt) and 2 csv files (a.csv, ...), but a "
        "folder or pattern must hold one format; name the format, such as `manifest: set/*.csv`"
    )


def test_formats_below_the_folder_are_suggested_with_their_depth(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "x/a.jsonl y/b.csv")
    (problem,) = problems_of(job(tmp_path, folder))
    assert problem.endswith("such as `manifest: set/**/*.jsonl`")


@pytest.mark.parametrize("names", ["a.csv a.CSV", "x/a.jsonl x/a.ndjson"])
def test_the_same_list_twice_is_refused(tmp_path: Path, names: str) -> None:
    (problem,) = problems_of(job(tmp_path, folder_with(tmp_path, names)))
    assert "look like the same list twice" in problem


def test_a_compressed_copy_is_the_same_list(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.csv")
    (folder / "a.csv.gz").write_bytes(b"")
    (problem,) = problems_of(job(tmp_path, folder))
    assert problem.startswith("set: a.csv and a.csv.gz look like the same list twice")


@pytest.mark.parametrize("pattern", ["", "/**/*.csv", "/*/*.csv"])
def test_a_file_that_a_link_shows_again_is_refused(tmp_path: Path, pattern: str) -> None:
    folder = folder_with(tmp_path, "2026/a.csv 2027/a.csv")
    assert check(job(tmp_path, Path(f"{folder}{pattern}")), MODEL).num_rows == 2
    (folder / "latest").symlink_to("2027")
    (problem,) = problems_of(job(tmp_path, Path(f"{folder}{pattern}")))
    assert "set/2027/a.csv and set/latest/a.csv are the same file, in a folder that" in problem


ABOUT = """SHA256SUMS.txt README.txt LICENSE.txt LICENSE-MIT.txt requirements.txt md5.txt
x.sha256.txt third-party-licences.txt read_me.txt sha256sums.TXT checksum.txt"""


@pytest.mark.parametrize("name", ABOUT.split())
def test_text_about_other_files_is_not_taken_for_prompts(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path, f"prompts.txt {name}")
    (problem,) = problems_of(job(tmp_path, folder))
    assert problem.startswith(f"set: {name} does not sound like prompts")
    assert check(job(tmp_path, folder / name), MODEL).num_rows == 1


def test_a_list_may_mix_formats(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.csv a.jsonl b.txt")
    assert check(job(tmp_path, sorted(folder.iterdir())), MODEL).num_rows == 3


@pytest.mark.parametrize(
    ("url", "format_name"),
    [
        ("what?.csv", "csv"),
        ("s3://bucket/why?.txt", "text"),
        ("https://host/a.csv?sig=x.parquet", "csv"),
        ("simplecache::https://host/a.csv?sig=1", "csv"),
        ("zip://a.jsonl::s3://bucket/lists.zip", "jsonl"),
        ("notes::old.csv", "csv"),
    ],
)
def test_the_format_is_that_of_the_files_own_name(url: str, format_name: str) -> None:
    assert format_of(url) == (format_name, None)

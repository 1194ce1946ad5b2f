"""Lists of words: what is read out of a folder, under which names, and what is refused."""

from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.list_files import read_lists
from nightpress.pipelines.campaign.lists import WordLists, load_lists
from nightpress.pipelines.errors import ManifestError, StoreMissing


def folder(path: Path, files: Mapping[str, str | bytes]) -> WordLists:
    for name, text in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_lists(str(path))


def entries(lists: WordLists, name: str) -> list[str]:
    (found,) = lists.find(name)
    return list(found.entries.to_pylist())


def refusal(path: Path, files: Mapping[str, str | bytes]) -> str:
    with pytest.raises(ManifestError) as raised:
        folder(path, files)
    return str(raised.value).replace(f"{path}/", "")


def test_a_text_file_is_one_entry_a_line_under_its_path(tmp_path: Path) -> None:
    lists = folder(tmp_path, {"colours/warm.txt": "# warm\n\n  red \n\tdeep orange\r\n # no\n#\n"})
    (warm,) = lists.find("colours/warm")
    assert lists.names == ("colours/warm",)
    assert warm.entries.to_pylist() == ["red", "deep orange"]
    assert warm.weights is None
    assert warm.places.lines.tolist() == [3, 4]
    assert warm.file == str(tmp_path / "colours/warm.txt")


def test_entries_may_begin_with_a_weight(tmp_path: Path) -> None:
    lists = folder(
        tmp_path, {"metals.txt": "3::gold\nsilver\n0.5 :: tin\n.5::a::b\n2::\nratio 1::2\n"}
    )
    (metals,) = lists.find("metals")
    assert metals.entries.to_pylist() == ["gold", "silver", "tin", "a::b", "", "ratio 1::2"]
    assert metals.weights == ("3", "1", "0.5", ".5", "2", "1")


@pytest.mark.parametrize("weight", ["-1", "1,5", "1e3", "50%", "1.2.3"])
def test_a_malformed_weight_is_refused_with_its_line(weight: str, tmp_path: Path) -> None:
    told = refusal(tmp_path, {"a.txt": f"x\n{weight}::gold\n"})
    reason = f"the weight '{weight}' is not a decimal number such as 2 or 0.5"
    assert told == f"a.txt, line 2, character 1: {reason}"


def test_keys_of_yaml_and_json_give_the_names_below_the_folder(tmp_path: Path) -> None:
    lists = folder(
        tmp_path,
        {
            "any.yaml": "clothes: {shoes: [boots, 2::clogs]}\ncolour: red\nnone:\n",
            "in/other.yml": "a:\n  - |\n    # how to use it\n    one,\n    two\n  - 1990\n  - no\n",
            "in/more.json": '{"b": {"c": ["x",\n\t1.50, "\\u00e9"]}}',
            "in/plain.json": '["p", "q"]',
        },
    )
    assert lists.names == ("clothes/shoes", "colour", "in/a", "in/b/c", "in/plain", "none")
    assert entries(lists, "clothes/shoes") == ["boots", "clogs"]
    assert entries(lists, "colour") == ["red"]
    assert entries(lists, "in/a") == ["# how to use it\none,\ntwo", "1990", "no"]
    assert entries(lists, "in/b/c") == ["x", "1.50", "é"]
    assert lists.find("in/b/c")[0].places.lines.tolist() == [1, 2, 2]
    assert entries(lists, "in/plain") == ["p", "q"]


def test_an_empty_list_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    (empty,) = folder(tmp_path, {"empty.txt": "# later\n", "full.txt": "a"}).find("empty")
    with pytest.raises(ManifestError, match=r"empty\.txt: the list empty has no entries"):
        empty.require_entries()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"a.txt": "red\nna\xefve\n".encode("cp1252")},
            "a.txt, line 2, character 3: not UTF-8 text: byte 0xef, 'ï' in Windows-1252; save the "
            "file as UTF-8",
        ),
        (
            {"a.txt": "red\n".encode("utf-16")},
            "a.txt: it is UTF-16 text; save the list as text in UTF-8",
        ),
        (
            {"a.txt": "red\rblue\n"},
            "a.txt, line 1, character 4: a line ends in CR alone; save the file with LF or CRLF "
            "line ends",
        ),
        (
            {"a.txt": "ré\x07d\n"},
            "a.txt, line 1, character 3: it has the control character U+0007, which is not text; "
            "remove it",
        ),
        (
            {"a.yaml": "a: [x]\nb: [y]\na: [z]\n"},
            "a.yaml, line 3, character 1: the key 'a' is given twice, first on line 1",
        ),
        (
            {"a.json": '{"a": ["x"],\n "a": ["y"]}'},
            "a.json, line 2, character 2: the key 'a' is given twice, first on line 1",
        ),
        (
            {"a.yaml": "a:\n  - b: c\n"},
            "a.yaml, line 2, character 5: an entry is a mapping, not text; text with ': ' "
            "in it needs quotes",
        ),
        (
            {"a.yaml": "a:\n  - x\n  -\n"},
            'a.yaml, line 3, character 4: an entry is empty; write "" for an empty text',
        ),
        (
            {"a.json": '{"a": [null]}'},
            "a.json, line 1, character 8: an entry is null, not text; write it in quotes",
        ),
        (
            {"a.json": '{"a": ["x", "\\ud800"]}'},
            "a.json, line 1, character 13: it has half a character, the lone surrogate "
            "U+D800, which is not text",
        ),
        (
            {"a.yaml": 'a: ["\\0"]\n'},
            "a.yaml, line 1, character 5: it has a NUL character, which is not text",
        ),
        (
            {"a.yaml": "just text\n"},
            "a.yaml, line 1, character 1: a list, or a mapping of names to lists, should "
            "stand here",
        ),
        (
            {"a.yaml": "a: &x [b]\nc: *x\n"},
            "a.yaml, line 2, character 4: the alias *x is not allowed; write the list out",
        ),
        (
            {"a.yaml": "[" * 100_000},
            "a.yaml, line 1, character 51: lists and mappings are nested more than 50 deep",
        ),
        (
            {"a.json": "[" * 100_000 + "]" * 100_000},
            "a.json: lists and mappings are nested more than 50 deep",
        ),
        (
            {"c.txt": "a", "c.yaml": "[b]"},
            "c.yaml: the list c is in {tmp}c.txt too; give one of the two another name",
        ),
        (
            {"c.yaml": "a: {b: [x]}\na/b: [y]\n"},
            "c.yaml: the list a/b is in this file too; give one of the two another name",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_read_is_refused_with_its_place(
    files: dict[str, str | bytes], told: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, files) == told.replace("{tmp}", "")


def test_problems_of_several_files_are_told_together(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"a.txt": "-1::x", "b.yaml": "a: [", "c.txt": "fine"})
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "a.txt, line 1, character 1",
        "b.yaml, line 2, character 1",
    ]


def test_what_is_no_list_is_passed_over_and_said(tmp_path: Path) -> None:
    files = {
        ".git/x.txt": "a",
        ".DS_Store": "a",
        "a.csv": "a",
        "b__c.txt": "a",
        "d.txt": b"\xef\xbb\xbfa",
    }
    lists = folder(tmp_path, files)
    assert lists.names == ("d",)
    assert entries(lists, "d") == ["a"]
    assert [str(each).replace(f"{tmp_path}/", "") for each in lists.skipped] == [
        "a.csv: not one of .txt .yaml .yml .json",
        "b__c.txt: the list 'b__c' cannot be used: a name has letters, digits, blanks and . / - + "
        "& ' ( ) _, not __, and begins with a letter or digit",
    ]


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"a.csv": "x"}).endswith(
        "there is no list here; lists are .txt .yaml .yml .json files"
    )
    with pytest.raises(StoreMissing, match="there is no such folder of lists, or it is empty"):
        load_lists(str(tmp_path / "nowhere"))


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("x")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "lists/b.txt").symlink_to(tmp_path / "elsewhere/a.txt")
    assert load_lists(str(tmp_path / "lists")).names == ("b", "linked/a")


def test_a_star_stays_in_its_folder_and_two_go_below(tmp_path: Path) -> None:
    names = ("a", "fold", "folder/a", "folder/b/c", "x/folder/a")
    lists = folder(tmp_path, {f"{name}.txt": "x" for name in names})

    def found(pattern: str) -> list[str]:
        return [each.name for each in lists.find(pattern)]

    assert found("fold*") == ["fold"]
    assert found("fold**") == ["fold", "folder/a", "folder/b/c"]
    assert found("folder/*") == ["folder/a"]
    assert found("fol?") == ["fold"]
    assert found("**/a") == ["folder/a", "x/folder/a"]
    assert found("**") == sorted(names)
    assert found("a") == ["a"]
    assert found("A") == found("nothing*") == []


def test_near_names_differ_in_case_folder_or_spelling(tmp_path: Path) -> None:
    lists = folder(
        tmp_path, dict.fromkeys(("clothes/Shoes.txt", "colours.txt", "animals.txt"), "x")
    )
    assert lists.near("clothes/shoes") == ("clothes/Shoes",)
    assert lists.near("shoes") == ("clothes/Shoes",)
    assert lists.near("colors") == ("colours",)
    assert lists.near("zebra") == ()


def test_files_are_noted_with_their_hashes(tmp_path: Path) -> None:
    lists = folder(tmp_path, {"b.txt": "x", "a.txt": "abc"})
    assert [Path(file.url).name for file in lists.files] == ["a.txt", "b.txt"]
    assert lists.files[0].num_bytes == 3
    assert lists.files[0].sha256.startswith("ba7816bf")
    assert lists.files[0].version


def test_lists_are_read_from_several_urls_and_patterns(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/words/deep/a.txt", b"x")
    folder(tmp_path, {"b.txt": "y", "c.yaml": "c: [z]"})
    lists = load_lists(["memory://words", str(tmp_path / "b.txt"), str(tmp_path / "*.yaml")])
    assert lists.names == ("b", "c", "deep/a")


LINE = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)


@given(st.lists(LINE, max_size=10), st.sampled_from(["", "2::", " .5 ::\t"]))
def test_an_entry_of_a_text_file_begins_at_its_character(lines: list[str], weight: str) -> None:
    lines = [f"{weight}{line.replace('::', '')}" for line in lines]
    (found,) = read_lists("a.txt", "\n".join(lines).encode())
    for number, entry in enumerate(found.entries.to_pylist()):
        place = found.places.of(number)
        assert lines[place.line - 1][place.character - 1 :].startswith(entry)
        assert found.places.of(number, 3).character == place.character + 3


def test_an_entry_of_yaml_begins_where_it_is_written() -> None:
    (found,) = read_lists("a.yaml", b'- x\n-  "2::\\ty"\n')
    assert found.entries.to_pylist() == ["x", "y"]
    assert [found.places.of(number, 1) for number in range(2)] == [(1, 3), (2, 4)]


def test_a_comment_does_not_change_the_digest_of_a_list(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (found,) = folder(tmp_path, {"a.txt": text}).find("a")
        return found.digest

    plain = digest("x\ny\n")
    assert digest("# words\n x\n\ny\n") == plain
    assert len({plain, digest("y\nx\n"), digest("x\n2::y\n"), digest("x\ny\nz\n")}) == 4


@given(st.lists(LINE, max_size=30), st.integers(1, 40))
def test_lines_are_read_as_python_reads_them_whatever_the_blocks(
    lines: list[str], block_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nightpress.pipelines.campaign.list_files.BLOCK_BYTES", block_bytes)
        lines = [line.replace("::", "") for line in lines]
        (found,) = read_lists("a.txt", "\n".join(lines).encode())
    kept = [
        (number, line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.strip().startswith("#")
    ]
    assert list(zip(found.places.lines.tolist(), found.entries.to_pylist(), strict=True)) == kept
    assert found.places.lines.dtype == np.int64

"""A wildcard folder becomes lists and a campaign that expands; nothing is dropped silently."""

from collections.abc import Mapping
from pathlib import Path

import fsspec
import pytest
from support.campaigns import rows_of

from nightpress.pipelines.campaign.importing.importer import Imported, import_lists
from nightpress.pipelines.campaign.lists import load_lists
from nightpress.pipelines.errors import ManifestError, NotConverted, StoreDenied


def wildcards(path: Path, files: Mapping[str, str | bytes]) -> str:
    folder = path / "wild cards"
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def text_of(path: Path, name: str) -> str:
    return (path / "out/lists" / f"{name}.txt").read_text(encoding="utf-8")


def said(path: Path, imported: Imported, kind: str) -> list[str]:
    found = [str(each.problem) for each in imported.findings if each.kind == kind]
    return [text.replace(f"{path}/wild cards/", "") for text in found]


def test_a_folder_of_swarmui_becomes_a_campaign_that_expands(tmp_path: Path) -> None:
    files = {
        "clothes/shoes.txt": "# all of them\nboots\n<random:red, blue> clogs\n{plain} text\n",
        "people.txt": "a man in <wildcard:shoes>\n2::a woman in <wc:clothes/shoes>\n",
        "people.jpg": b"\xff\xd8",
    }
    imported = import_lists(wildcards(tmp_path, files), str(tmp_path / "out"))
    assert (imported.tool, imported.num_lists, imported.num_entries) == ("swarmui", 2, 5)
    assert text_of(tmp_path, "clothes/shoes") == (
        "# all of them\nboots\n{red|blue} clogs\n\\{plain\\} text\n"
    )
    assert text_of(tmp_path, "people") == (
        "a man in __clothes/shoes__\n2::a woman in __clothes/shoes__\n"
    )
    assert said(tmp_path, imported, "converted") == [
        "people.txt, line 1, character 10: shoes becomes clothes/shoes",
        "people.txt, line 2, character 1: 2:: is read as a weight, which a .txt did not have",
    ]
    assert [Path(each.file).name for each in imported.skipped] == ["people.jpg"]
    assert imported.campaign == "wild-cards.campaign.yaml"
    rows = rows_of(str(tmp_path / "out" / imported.campaign))
    assert len(rows) == 2
    assert all(" in " in row["prompt"] for row in rows)


def test_a_folder_of_dynamic_prompts_with_yaml_and_json(tmp_path: Path) -> None:
    files = {
        "library.yaml": "art:\n  styles:\n    - |\n      # usage\n      a __media__,\n      big\n"
        "    - {text: oil, weight: 2}\n    - 3::ink\n    - ink of ${name}\n",
        "in/media.json": '{"media": ["{2$$ and $$pen|ink}", "pen", "pen"]}',
    }
    imported = import_lists(wildcards(tmp_path, files), str(tmp_path / "out"))
    assert imported.tool == "dynamic-prompts"
    assert text_of(tmp_path, "art/styles") == (
        "# usage\na __in/media__, big\n2::oil\n3::ink\nink of ${name}\n"
    )
    assert text_of(tmp_path, "in/media") == "{2$$ and $$pen|ink}\npen\n"
    assert said(tmp_path, imported, "converted") == [
        "in/media.json: the list in/media: 1 repeated entry is left out",
        "library.yaml, line 3, character 7: what follows # or // is a comment",
        "library.yaml, line 3, character 7: media becomes in/media",
        "library.yaml, line 9, character 14: ${name} becomes the axis name of the campaign",
    ]
    assert len(rows_of(str(tmp_path / "out" / imported.campaign))) == 2


def test_other_encodings_and_line_ends_are_mended_and_said(tmp_path: Path) -> None:
    files = {
        "a.txt": "d\xe9j\xe0 vu\r\n".encode("cp1252"),
        "b.txt": b"\xef\xbb\xbfx\n",
        "c.txt": "\u00e9\n".encode("utf-16"),
        "d.txt": "x\ry\r",
    }
    imported = import_lists(wildcards(tmp_path, files), str(tmp_path / "out"))
    assert [text_of(tmp_path, name) for name in "abcd"] == [
        "d\xe9j\xe0 vu\n",
        "x\n",
        "\xe9\n",
        "x\ny\n",
    ]
    assert said(tmp_path, imported, "converted") == [
        "a.txt: it was read as Windows-1252; the list is UTF-8",
        "a.txt: lines ended in CRLF; in the list, in LF",
        "b.txt: its byte order mark is left out",
        "c.txt: it was UTF-16; the list is UTF-8",
        "d.txt: lines ended in CR; in the list, in LF",
    ]


BAD = {
    "a.txt": "fine\nsee <wc:b>\n<lora:x>\n<wc:nowhere>\n",
    "b.txt": "<wc:a>\n",
    "c.txt": "<wc:empty>\n",
    "empty.txt": "# nothing\n",
    "f.yaml": "x: [a\n",
    "g.txt": "a\x07b\n",
}
PROBLEMS = [
    "a.txt, line 2, character 5: the list b has no entries that can be used",
    "a.txt, line 3, character 1: <lora> asks SwarmUI for more than text; there is no counterpart",
    "a.txt, line 4, character 1: there is no list nowhere",
    "b.txt, line 1, character 1: the list refers back to itself: b -> a -> b",
    "c.txt, line 1, character 1: the list empty has no entries that can be used",
    "f.yaml, line 2, character 1: not valid YAML: did not find expected ',' or ']'",
    "g.txt, line 1, character 1: an entry has the control character U+0007, which is not text",
]


def test_what_cannot_be_converted_ends_the_import_and_nothing_is_written(tmp_path: Path) -> None:
    folder = wildcards(tmp_path, BAD)
    with pytest.raises(NotConverted) as raised:
        import_lists(folder, str(tmp_path / "out"))
    assert str(raised.value).replace(f"{folder}/", "").splitlines() == [
        *PROBLEMS,
        "nothing was written; --leave-out leaves these entries out",
    ]
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_stays_in_the_lists_as_comments(tmp_path: Path) -> None:
    imported = import_lists(wildcards(tmp_path, BAD), str(tmp_path / "out"), leave_out=True)
    left_out = said(tmp_path, imported, "not converted")
    assert left_out == PROBLEMS
    assert imported.num_left_out == len(left_out)
    assert "# left out: there is no list nowhere\n# <wc:nowhere>\n" in text_of(tmp_path, "a")
    lists = load_lists(str(tmp_path / "out/lists"))
    assert "empty" not in lists.names
    assert len(rows_of(str(tmp_path / "out" / imported.campaign))) == 1


def test_lists_get_names_that_templates_can_have(tmp_path: Path) -> None:
    files = {"a__b.txt": "x", "a_b.txt": "y", "c.txt": "<wc:a__b>\n", "#1, big!.txt": "z"}
    imported = import_lists(wildcards(tmp_path, files), str(tmp_path / "out"))
    assert load_lists(str(tmp_path / "out/lists")).names == ("1_ big", "a_b", "a_b-2", "c")
    assert text_of(tmp_path, "c") == "__a_b-2__\n"
    assert "a__b.txt: the list 'a__b' becomes 'a_b-2', a name that templates can have" in said(
        tmp_path, imported, "converted"
    )


def test_two_lists_of_one_name_are_told(tmp_path: Path) -> None:
    folder = wildcards(tmp_path, {"a.txt": "x", "b.yaml": "a: [y]"})
    with pytest.raises(NotConverted, match=r"b\.yaml: the list a is in .*a\.txt too"):
        import_lists(folder, str(tmp_path / "out"))


def test_an_output_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    folder = wildcards(tmp_path, {"a.txt": "x"})
    with pytest.raises(StoreDenied, match="this folder is not empty; name a new one"):
        import_lists(folder, folder)
    assert [file.name for file in Path(folder).iterdir()] == ["a.txt"]


def test_a_folder_without_entries_is_refused(tmp_path: Path) -> None:
    folder = wildcards(tmp_path, {"a.txt": "# nothing"})
    with pytest.raises(ManifestError, match="there is no list here"):
        import_lists(folder, str(tmp_path / "out"))


def test_folders_are_read_and_written_at_any_url() -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/wild/deep/a.txt", b"<random:x,y>\n")
    imported = import_lists("memory://wild", "memory://tame", tool="swarmui")
    assert store.cat("/tame/lists/deep/a.txt") == b"{x|y}\n"
    assert imported.url == "memory://tame"
    assert b'prompt: "__deep/a__"' in store.cat("/tame/wild.campaign.yaml")

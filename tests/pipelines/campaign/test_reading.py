"""Campaigns that cannot be used: what is wrong, with the file, the line and the character."""

from pathlib import Path

import pytest
from support.campaigns import NAME, refusal_of, rows_of, scanned, write_campaign

from nightpress.pipelines.errors import StoreMissing

STYLES = {"lists__style_DOT_txt": "film\nstudio\n"}
SHOES = {"p_DOT_csv": "sku,name\na,boot\nb,\n"}
XY = "axes: {a: [x, y]}\n"


@pytest.mark.parametrize(
    ("text", "files", "place", "message"),
    [
        ('prompt: "__stile__"\nlists: lists\n', STYLES, "1, 10", "did you mean __style__"),
        ('prompt: "__style__"\n', {}, "1, 10", "there are no lists"),
        (f'prompt: "on ${{b}}"\n{XY}', {}, "1, 13", "${b}: no such axis; the axes are: a"),
        ('prompt: "${p.nme}"\naxes: {p: {from: p.csv}}\n', SHOES, "1, 10", "p.name"),
        ('prompt: "${x:y} a"\n', {}, "1, 10", "a default after `:`"),
        ('prompt: "a {b|c"\n', {}, "1, 12", "not closed"),
        ("prompt: |\n  a cat\n  on {b|c\n", {}, "3, 6", "not closed"),
        (f"prompt: a\n{XY}", {}, "2, 8", "the axis a is not used"),
        (
            'prompt: "${a} ${b}"\naxes: {a: [1, 2], b: [1, 2, 3]}\nzip: [[a, b]]\n',
            {},
            "3, 7",
            "a has 2 values, b has 3 values",
        ),
        (f'prompt: "${{a}}"\n{XY}zip: [[a, b]]\n', {}, "3, 11", "b: no such axis"),
        (f'prompt: "${{a}}"\n{XY}rules: [{{forbid: {{a: [x, y]}}}}]\n', {}, "3, 8", "no combi"),
        (f'prompt: "${{a}}"\n{XY}rules: [{{forbid: {{a: xx}}}}]\n', {}, "3, 22", "did you mean x?"),
        (f'prompt: "${{a}}"\n{XY}rules: [{{forbid: {{b: x}}}}]\n', {}, "3, 22", "no such axis"),
        (f'prompt: "${{a}}"\n{XY}rules: [{{require_text: z}}]\n', {}, "3, 9", "no row is left"),
        (f'prompt: "${{a}}"\n{XY}rules: [{{forbd: 3}}]\n', {}, "3, 17", "no such key"),
        (f'prompt: "${{a}}"\n{XY}draw: {{rows: 3}}\n', {}, "3, 14", "more than the 2 combi"),
        (f'prompt: "${{a}}"\n{XY}draw: some\n', {}, "3, 7", "'all'"),
        (
            'prompt: "${a} ${b}"\naxes: {a: [x, y], b: [1, 2]}\nid: "${a}"\n',
            {},
            "3, 5",
            "rows that differ in b only would have the same id",
        ),
        (f'prompt: "${{a}}"\n{XY}id: "{{s|t}}"\n', {}, "3, 5", "an id cannot be drawn"),
        (f'prompt: "${{a}}"\n{XY}seed_by: [b]\n', {}, "3, 11", "no such axis"),
        (f'prompt: "${{a}}"\n{XY}seed: 3\nseed_by: [a]\n', {}, "4, 10", "give one of the two"),
        (
            f'prompt: "${{a}} {{q|r|s}}"\n{XY}draw: {{rows: 2, cover: ["{{q|r|s}}"]}}\n',
            {},
            "3, 25",
            "draw at least 3",
        ),
        (f'prompt: "${{a}}"\n{XY}draw: {{cover: [b]}}\n', {}, "3, 16", "no such axis"),
        (
            'prompt: "${a} ${b}"\naxes: {a: {count: 3}, b: {count: 3}}\n'
            "draw: {rows: 4, cover: {strength: 2}}\n",
            {},
            "3, 14",
            "4 rows cannot cover every pair; draw at least 9",
        ),
        ('prompt: "a {b|c}"\ndraw: {rows: 9}\n', {}, "1, 9", "7 rows repeat the prompt"),
        ('prompt: "{3$$a|b}"\n', {}, "1, 10", "asks for 3 of 2 alternatives"),
        ('prompt: "${a}"\naxes: {a: ["{x|y}"]}\n', {}, "2, 12", "looks like a template"),
        ('prompt: "${a}"\naxes: {a: [x, x]}\n', {}, "2, 15", "the value 'x' twice"),
        ('prompt: "${a}"\naxes: {a: []}\n', {}, "2, 11", "at least one value"),
        ('prompt: "${a}"\naxes: {a: x}\n', {}, "2, 11", "an axis is a list of values"),
        (f'prompt: "${{a}}"\n{XY}columns: {{a: b}}\n', {}, "3, 14", "that of an axis"),
        (f'prompt: "${{a}}"\n{XY}columns: {{draw_key: b}}\n', {}, "3, 21", "choose another"),
        (f'prompt: "${{a}}"\n{XY}rules: [{{forbid_text: ""}}]\n', {}, "3, 9", "text is empty"),
        (f'prompt: "${{a.b}}"\n{XY}', {}, "1, 10", "the axis a has no such column"),
        (
            'prompt: "${a.x}"\naxes: {a: [{n: f, x: 3}, {n: g}]}\n',
            {},
            "2, 26",
            "the value 'g' of the axis a has no x",
        ),
        (
            'prompt: "${a} ${b}"\naxes: {a: [x, x-y], b: [y-z, z]}\n',
            {},
            "2, 7",
            "the id 'x-y-z' twice: a = x, b = y-z and a = x-y, b = z",
        ),
        (
            'prompt: "${a} ${b}"\naxes: {a: [x, y], b: [1, 2]}\nid: "${a}"\ndraw: 3\n',
            {},
            "3, 5",
            "the id 'y' is there twice",
        ),
        (f"prompt: >\n  a\n  # b\n  ${{a}}\n{XY}", {}, "3, 3", "YAML joins these lines"),
        (f'prompt: "a\n  # b\n  ${{a}}"\n{XY}', {}, "2, 3", "YAML joins these lines"),
        (
            'prompt: "{x|y} ${a}"\naxes: {a: [q, r, s, t, u]}\n'
            "draw: {rows: 3, cover: [a]}\nrules: [{forbid_text: x}]\n",
            {},
            "3, 14",
            "draw at least 5",
        ),
        (
            'prompt: "{x|y} ${a} ${b}"\naxes: {a: [q, r, s, t, u], b: {count: 2}}\n'
            "draw: {rows: 5, cover: [a]}\nrules: [{forbid_text: x}]\n",
            {},
            "3, 24",
            "no row with a = ",
        ),
        (
            f'prompt: "${{a}} {{q|r}}"\n{XY}'
            'draw: {rows: 2, cover: ["{q|r}"], weights: independent}\n',
            {},
            "3, 25",
            "may never be drawn",
        ),
        ('prompt: "${a}"\naxes: {a: {x: 3}}\n', {}, "2, 15", "must be a mapping of columns"),
        ('prompt: "${a}"\naxes: {a: {x: {seed: 3}}}\n', {}, "2, 22", "cannot set seed"),
        ('prompt: "${width}"\naxes: {width: [1]}\n', {}, "2, 15", "is a column already"),
        (
            'prompt: "${a}"\nwidth: 64\naxes: {a: {x: {width: 64}}}\n',
            {},
            "3, 11",
            "width is given by the campaign itself too",
        ),
        ('prompt: "a"\nwidht: 12\n', {}, "2, 1", "did you mean width?"),
        ('prompt: ""\n', {}, "1, 10", "the prompt is empty"),
        ('prompt: "# a cat"\n', {}, "1, 10", "begins with # is a comment"),
        ('prompt: "{0.123456789::a|b}"\n', {}, "1, 10", "fewer digits"),
    ],
)
def test_a_mistake_in_the_campaign_has_line_and_character(
    tmp_path: Path, text: str, files: dict[str, str], place: str, message: str
) -> None:
    refusal = refusal_of(write_campaign(tmp_path, text, **files))
    line, character = place.split(", ")
    assert refusal.startswith(f"{NAME}, line {line}, character {character}, ")
    assert message in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("text", "files", "refusal"),
    [
        ('prompt: "a"\nprompt: "b"\n', {}, f"{NAME}, line 2: the key 'prompt' is given twice"),
        ('prompt:\t"a"\n', {}, f"{NAME}, line 1: not valid YAML"),
        ("prompt: {a|b} cat\n", {}, "put a text with {"),
        ("- a\n", {}, f"{NAME}, line 1: a campaign is a mapping"),
        ("", {}, f"{NAME}, line 1: a campaign is a mapping"),
        (
            'prompt: "${p.name}"\naxes: {p: {from: p.csv}}\n',
            SHOES,
            "p.csv, line 3, column name: the value 'b' of the axis p has no name",
        ),
        (
            'prompt: "${p.name}"\naxes: {p: {from: p.csv}}\n',
            {"p_DOT_csv": "sku,name\na,caf\u00e9\n".encode("cp1252")},
            "p.csv, line 2: not UTF-8 text: byte 0xe9, '\u00e9' in Windows-1252",
        ),
        (
            'prompt: "${p.name}"\naxes: {p: {from: p.csv}}\n',
            {"p_DOT_csv": "sku,name\na,x\na,y\n"},
            "p.csv, line 3, column sku: 'a' is there twice",
        ),
        (
            'prompt: "${p}"\naxes: {p: {from: p.csv}}\n',
            {"p_DOT_csv": "sku,name\n"},
            "p.csv: the table has no rows",
        ),
        (
            'prompt: "__a__"\nlists: lists\n',
            {"lists__a_DOT_txt": "x __b__\n", "lists__b_DOT_txt": "y\n\nz __a__\n"},
            "lists/b.txt, line 3, character 3: the list a refers to itself: a -> b -> a",
        ),
        (
            'prompt: "__a__"\nlists: lists\n',
            {"lists__a_DOT_txt": "x\nx {b\n"},
            "lists/a.txt, line 2, character 3: { opens a choice that is not closed",
        ),
        (
            'prompt: "__a__"\nlists: lists\n',
            {"lists__a_DOT_txt": "# none\n"},
            "lists/a.txt: the list a has no entries",
        ),
    ],
)
def test_a_mistake_elsewhere_names_its_file_and_line(
    tmp_path: Path, text: str, files: dict[str, str], refusal: str
) -> None:
    assert refusal in refusal_of(write_campaign(tmp_path, text, **files))


def test_a_campaign_in_another_encoding_names_the_byte(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, "")
    Path(path).write_bytes('id: a\nprompt: "caf\u00e9"\n'.encode("cp1252"))
    assert f"{NAME}, line 2: byte 0xe9 is not UTF-8" in refusal_of(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, "")
    Path(path).write_bytes('prompt: "a cat"\n'.encode("utf-8-sig"))
    assert [row["prompt"] for row in rows_of(path)] == ["a cat"]


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, 'prompt: "${p}"\naxes: {p: {from: p.csv}}\n')
    with pytest.raises(StoreMissing, match=r"p\.csv"):
        scanned(path)


def test_a_pattern_of_several_tables_is_no_axis(tmp_path: Path) -> None:
    tables = {"t__a_DOT_csv": "sku\nx\n", "t__b_DOT_csv": "sku\ny\n"}
    path = write_campaign(tmp_path, 'prompt: "${p}"\naxes: {p: {from: "t/*.csv"}}\n', **tables)
    assert "an axis is one table, but these are 2 files" in refusal_of(path)


def test_a_huge_product_is_refused_with_its_size(tmp_path: Path) -> None:
    axes = "\n".join(f"  a{n}: {{count: 1000}}" for n in range(5))
    names = " ".join(f"${{a{n}}}" for n in range(5))
    path = write_campaign(tmp_path, f'prompt: "{names}"\naxes:\n{axes}\n')
    assert "1,000,000,000,000,000 combinations are more than" in refusal_of(path)

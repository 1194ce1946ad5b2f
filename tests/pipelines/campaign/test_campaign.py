"""The rows of a campaign: what stays the same when it grows, is reordered, or is read in parts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.campaigns import prompts_of, rows_of, scanned, table_of, write_campaign

SHOES = """
    prompt: "__style__ photo of ${product.name} on ${surface}, {soft|2::golden} light"
    lists: lists/
    axes:
      product: {from: products.csv}
      surface: [marble, oak, cork]
      format: {square: {width: 128, height: 128}, story: {width: 64, height: 128}}
    id: "${product.sku}-${surface}-${format}"
    seed_by: [product, surface]
"""
FILES = {
    "products_DOT_csv": "sku,name,line\na1,boot,rain\na2,shoe,sun\n007,clog,sun\n",
    "lists__style_DOT_txt": "film\n2::studio\n{moody|bright} __adj__\n",
    "lists__adj_DOT_txt": "wide\nclose\n",
}


def test_a_row_has_its_axes_as_columns_and_settings(tmp_path: Path) -> None:
    row = rows_of(write_campaign(tmp_path, SHOES, **FILES))[-1]
    assert row["id"] == "007-cork-story"
    assert (row["width"], row["height"], row["format"]) == (64, 128, "story")
    assert (row["product"], row["product.name"], row["surface"]) == ("007", "clog", "cork")
    assert " photo of clog on cork, " in row["prompt"]


def test_the_shares_of_all_rows_are_exact(tmp_path: Path) -> None:
    prompts = prompts_of(write_campaign(tmp_path, SHOES, **FILES)).values()
    lights = Counter("golden" if "golden" in prompt else "soft" for prompt in prompts)
    assert lights == {"golden": 12, "soft": 6}
    styles = Counter(prompt.split()[0] for prompt in prompts)
    assert styles["studio"] == 9
    assert styles["moody"] + styles["bright"] in (4, 5)


@pytest.mark.parametrize("draw", ["all", "{rows: 11, seed: 3}", "{weights: independent}"])
def test_any_range_is_the_same_as_in_the_whole(tmp_path: Path, draw: str) -> None:
    path = write_campaign(tmp_path, f"{SHOES}    draw: {draw}\n", **FILES)
    whole = table_of(path)
    for first, number in ((0, 1), (3, 5), (whole.num_rows - 1, 1)):
        assert table_of(path, first, number).equals(whole.slice(first, number))


def test_more_rows_keep_the_first_ones(tmp_path: Path) -> None:
    few = rows_of(write_campaign(tmp_path, SHOES + "    draw: {rows: 7}\n", **FILES))
    many = rows_of(write_campaign(tmp_path, SHOES + "    draw: {rows: 15}\n", **FILES))
    assert many[:7] == few
    assert len({row["id"] for row in many}) == 15


@pytest.mark.parametrize("draw", ["all", "{rows: 13}"])
def test_the_order_of_axes_and_values_changes_no_row(tmp_path: Path, draw: str) -> None:
    text = f"{SHOES}    draw: {draw}\n"
    before = {row["id"]: row for row in rows_of(write_campaign(tmp_path, text, **FILES))}
    axes = text.replace("[marble, oak, cork]", "[cork, marble, oak]").replace(
        "{square: {width: 128, height: 128}, story: {width: 64, height: 128}}",
        "{story: {width: 64, height: 128}, square: {width: 128, height: 128}}",
    )
    files = FILES | {"products_DOT_csv": "sku,name,line\n007,clog,sun\na1,boot,rain\na2,shoe,sun\n"}
    after = {row["id"]: row for row in rows_of(write_campaign(tmp_path, axes, **files))}
    assert after == before


def test_reordering_a_prompt_keeps_its_picks(tmp_path: Path) -> None:
    axes = "\n    axes: {n: {count: 60}}\n"
    one = write_campaign(tmp_path, 'prompt: "{a|b} then {c|d|e} ${n}"' + axes.replace("    ", ""))
    first = {key: set(prompt.split()) for key, prompt in prompts_of(one).items()}
    two = write_campaign(tmp_path, 'prompt: "${n}: {c|d|e} then {a|b}"' + axes.replace("    ", ""))
    second = {key: set(prompt.replace(":", "").split()) for key, prompt in prompts_of(two).items()}
    assert first == second


def test_a_new_value_of_an_axis_moves_few_other_picks(tmp_path: Path) -> None:
    text = 'prompt: "{a|b|c} ${n}"\naxes: {n: {count: %d}}\n'
    before = prompts_of(write_campaign(tmp_path, text % 900))
    after = prompts_of(write_campaign(tmp_path, text % 910))
    assert sum(after[key] != prompt for key, prompt in before.items()) <= 20


def test_independent_rows_keep_every_pick(tmp_path: Path) -> None:
    text = 'prompt: "{a|b|c} ${n}"\naxes: {n: {count: %d}}\ndraw: {weights: independent}\n'
    before = prompts_of(write_campaign(tmp_path, text % 900))
    after = prompts_of(write_campaign(tmp_path, text % 910))
    assert all(after[key] == prompt for key, prompt in before.items())


def test_the_draw_key_changes_with_the_wording_and_not_with_the_other_rows(tmp_path: Path) -> None:
    def keys(text: str) -> dict[str, str]:
        return {row["id"]: row["draw_key"] for row in rows_of(write_campaign(tmp_path, text))}

    text = 'prompt: "{a|b|c} ${n}"\naxes: {n: {count: %d}}\n'
    before = keys(text % 90)
    assert {key: before[key] for key in before} == {key: keys(text % 95)[key] for key in before}
    other = keys((text % 90).replace("|c}", "|d}"))
    assert not set(other.values()) & set(before.values())


@pytest.mark.parametrize("other", ["width: 128", "height: 64"])
def test_the_draw_key_changes_with_every_setting(tmp_path: Path, other: str) -> None:
    def keys(setting: str, text: str) -> set[str]:
        path = write_campaign(tmp_path, f'prompt: "{{a|b}} ${{n}}"\n{text % setting}\n')
        return {row["draw_key"] for row in rows_of(path)}

    for text in ("axes: {n: {x: {%s}}}", "axes: {n: [x]}\n%s"):
        assert not keys("width: 64", text) & keys(other, text)


def test_the_formats_of_one_scene_share_their_seed(tmp_path: Path) -> None:
    rows = rows_of(write_campaign(tmp_path, SHOES, **FILES))
    seeds: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        seeds.setdefault((row["product"], row["surface"]), set()).add(row["seed"])
    assert all(len(each) == 1 for each in seeds.values())
    assert len({min(each) for each in seeds.values()}) == len(seeds) == 9


def test_axes_in_step_are_not_crossed(tmp_path: Path) -> None:
    path = write_campaign(
        tmp_path,
        """
        prompt: "${season} in ${market}, {a|b}"
        axes: {season: [summer, winter], market: [chile, norway], take: {count: 3}}
        zip: [[season, market]]
        duplicates: keep
        """,
    )
    found = {(row["season"], row["market"]) for row in rows_of(path)}
    assert found == {("summer", "chile"), ("winter", "norway")}
    assert len(rows_of(path)) == 6


def test_forbidden_combinations_do_not_occur(tmp_path: Path) -> None:
    rule = "    rules: [{forbid: {surface: [oak, cork], product.line: sun}}]\n"
    rows = rows_of(write_campaign(tmp_path, SHOES + rule, **FILES))
    assert len(rows) == 18 - 8
    assert not any(r["surface"] != "marble" and r["product.line"] == "sun" for r in rows)


def test_rules_about_text_leave_rows_out_and_drawing_makes_up_for_them(tmp_path: Path) -> None:
    rules = "    rules: [{require_text: golden}, {forbid_text: moody}]\n"
    path = write_campaign(tmp_path, SHOES + rules, **FILES)
    assert all("golden" in p and "moody" not in p for p in prompts_of(path).values())
    assert "left out by rules about the text" in scanned(path).notes[0]
    drawn = write_campaign(tmp_path, SHOES + rules + "    draw: {rows: 6}\n", **FILES)
    assert len(rows_of(drawn)) == 6


def test_duplicates_are_dropped_or_kept_as_the_campaign_says(tmp_path: Path) -> None:
    text = 'prompt: "a {red|blue} cat"\ndraw: {rows: %d}\nduplicates: %s\n'
    assert len(rows_of(write_campaign(tmp_path, text % (10, "keep")))) == 10
    dropped = rows_of(write_campaign(tmp_path, text % (2, "drop")))
    assert sorted(row["prompt"] for row in dropped) == ["a blue cat", "a red cat"]


def test_a_campaign_without_axes_numbers_its_rows(tmp_path: Path) -> None:
    text = 'prompt: "a {red|blue} cat {x|y|z}"\ndraw: {rows: 30}\nduplicates: keep\n'
    rows = rows_of(write_campaign(tmp_path, text))
    assert [row["id"] for row in rows[:2]] == ["00000000", "00000001"]
    assert Counter(row["prompt"].split()[1] for row in rows) == {"red": 15, "blue": 15}


@pytest.mark.parametrize(("cover", "number"), [("[product, surface]", 6), ("{strength: 2}", 12)])
def test_what_is_covered_occurs(tmp_path: Path, cover: str, number: int) -> None:
    draw = f"    draw: {{rows: {number}, cover: {cover}}}\n"
    rows = rows_of(write_campaign(tmp_path, SHOES + draw, **FILES))
    assert len({row["product"] for row in rows}) == len({row["surface"] for row in rows}) == 3
    if number == 12:
        assert len({(row["product"], row["surface"]) for row in rows}) == 9
        assert len({(row["format"], row["surface"]) for row in rows}) == 6


def test_covered_choices_occur_with_every_value_of_an_axis(tmp_path: Path) -> None:
    path = write_campaign(
        tmp_path,
        """
        prompt: "__style__ ${n} {x|y|z}"
        lists: lists
        axes: {n: [a, b, c]}
        draw: {rows: 12, cover: {axes: [n, __style__], strength: 2}}
        """,
        lists__style_DOT_txt="film\nstudio\nnight\nday\n",
    )
    pairs = {tuple(row["prompt"].split()[:2]) for row in rows_of(path)}
    assert len(pairs) == 12


def test_several_alternatives_are_different_and_joined(tmp_path: Path) -> None:
    path = write_campaign(
        tmp_path,
        """
        prompt: "{2-3$$ & $$a|b|3::c|d} ${n} with {2$$__x__}"
        lists: lists
        axes: {n: {count: 200}}
        """,
        lists__x_DOT_txt="one\ntwo\nthree\n",
    )
    first = [prompt.split(" with ") for prompt in prompts_of(path).values()]
    picks = [head.rsplit(" ", 1)[0].split(" & ") for head, _ in first]
    assert {len(each) for each in picks} == {2, 3}
    assert all(len(set(each)) == len(each) for each in picks)
    words = [tail.split(", ") for _, tail in first]
    assert all(len(set(each)) == 2 for each in words)


def test_nested_choices_have_shares_of_the_rows_that_reach_them(tmp_path: Path) -> None:
    for draw in ("all", "{rows: 600}"):
        text = f'prompt: "{{a {{x|2::y}}|b}} ${{n}}"\naxes: {{n: {{count: 600}}}}\ndraw: {draw}\n'
        prompts = prompts_of(write_campaign(tmp_path, text)).values()
        counts = Counter(tuple(prompt.split()[:2]) for prompt in prompts if prompt[0] == "a")
        assert counts == {("a", "x"): 100, ("a", "y"): 200}


def test_numbers_of_a_table_are_text_as_they_are_written(tmp_path: Path) -> None:
    path = write_campaign(
        tmp_path,
        'prompt: "${p.price} for ${p.code}, ${p.size}"\naxes: {p: {from: p.csv}}\n',
        p_DOT_csv="code,price,size\n007,1.50,3\n008,1e5,4\n",
    )
    assert [row["prompt"] for row in rows_of(path)] == ["1.50 for 007, 3", "1e5 for 008, 4"]


def test_settings_may_be_templates_numbers_or_lists(tmp_path: Path) -> None:
    path = write_campaign(
        tmp_path,
        """
        prompt: "${n}"
        guidance_scale: "{4|7}"
        num_images: 3
        canvas: [0, 64, 0, 64]
        columns: {shelf: "s${n}", batch: 7}
        axes: {n: [1, 2]}
        """,
    )
    row = rows_of(path)[0]
    assert row["guidance_scale"] in ("4", "7")
    assert (row["num_images"], row["canvas"], row["n"]) == (3, [0, 64, 0, 64], 1)
    assert (row["shelf"], row["batch"]) == ("s1", 7)


@pytest.mark.slow
def test_ten_million_rows_of_a_trillion_are_read_anywhere(tmp_path: Path) -> None:
    values = ", ".join(f"v{n}" for n in range(100))
    axes = "\n".join(f"  a{n}: [{values}]" for n in range(6))
    names = " ".join(f"${{a{n}}}" for n in range(6))
    path = write_campaign(
        tmp_path,
        f'prompt: "{names} {{x|y}}"\naxes:\n{axes}\ndraw: {{rows: 10000000}}\nduplicates: keep\n',
    )
    rows = rows_of(path, 9_999_990, 10)
    assert len({row["id"] for row in rows}) == 10
    assert not np.array([row["prompt"] in ("", None) for row in rows]).any()

"""The report: everything on one page, which runs and loads nothing from elsewhere."""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.fakes.fake_runs import finished_run
from support.made_runs import NUM_IMAGES, begin, colour, commit, failed, finish, made

from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines.formatting import duration, size
from nightpress.pipelines.records import FailureType, InputInfo
from nightpress.pipelines.reporting.collect import Limits, collect
from nightpress.pipelines.reporting.failures import EXPLANATIONS
from nightpress.pipelines.reporting.gallery import text
from nightpress.pipelines.reporting.report import LIMITS, render, write_report
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import store_atlas, store_index
from nightpress.pipelines.storage import Store

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title></dl></figure><h1>broken",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    "<!-- --><![CDATA[",
    "nul \x00 and bell \x07",
)


SIZE = "16 \N{MULTIPLICATION SIGN} 16"


class Page(HTMLParser):
    """The elements and the words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.captions: list[list[str]] = []
        """The words of each caption."""
        self._silent, self._in_caption = 0, False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")
        self._in_caption = tag == "figcaption" or (self._in_caption and tag == "p")
        if tag == "figcaption":
            self.captions.append([])

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data.strip())
        if self._in_caption and data.strip():
            self.captions[-1].append(data.strip())

    def values(self, attribute: str) -> Iterator[str]:
        return (attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs)

    def links(self) -> list[str]:
        """Those of images."""
        return [each for each in self.values("href") if each.startswith("images/")]

    def pictures(self) -> list[str]:
        return [
            attrs["src"] or "" for tag, attrs in self.elements if "src" in attrs and tag == "img"
        ]


def html(run: Run) -> str:
    """The report of a run."""
    return render(run, collect(run, LIMITS))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin(str(tmp_path))


def test_the_report_is_written_beside_the_record_and_replaced_later(run: Run) -> None:
    write_report(run, run.store)
    first = run.store.read("report.html")
    finish(run)
    write_report(run, run.store)
    assert run.store.read("report.html") != first
    assert run.store.read("report.html").decode() == html(run)


def test_the_same_run_makes_the_same_report(run: Run) -> None:
    finish(run)
    assert html(run) == html(run)


def test_a_run_that_has_just_begun_has_a_report(run: Run) -> None:
    page = Page(html(run))
    assert page.pictures() == []
    assert "0 / 3" in page.words


def test_the_totals_and_fingerprints_are_on_the_page(run: Run) -> None:
    finish(run)
    words = Page(html(run)).words
    for value in ("9", "1", "100%", "10 s", "0.90", "3 / 3"):
        assert value in words
    assert words[words.index("0.90") + 1] == "images/s of sampling time"
    assert run.record.fingerprint in words
    assert run.record.model.fingerprint in words


def test_every_image_is_a_small_thumbnail_in_the_page_and_links_its_file(run: Run) -> None:
    finish(run)
    page = Page(html(run))
    assert len(page.pictures()) == 9
    assert all(each.startswith("data:image/webp;base64,") for each in page.pictures())
    assert len(page.links()) == 9
    for address in page.links():
        assert run.store.size(unquote(address)) is not None


def test_thumbnails_come_from_atlases_where_there_are_some(run: Run) -> None:
    finish(run)
    marked = np.full((16, 16, 3), (250, 10, 20), np.uint8)
    hashes = run.hashes()
    cells = {9: ("1_00", hashes["1_00"]), 10: ("2_00", "e" * 64)}
    store_index(run.store, 0, [store_atlas(run.store, 0, cells, dict.fromkeys(cells, marked))])
    run.store.delete("images/1_00.png")
    red, other = (pixel(each) for each in Page(html(run)).pictures()[1:3])
    assert np.abs(np.subtract(red, (250, 10, 20))).max() < 12
    assert np.abs(np.subtract(other, colour(2))).max() < 12
    for path in run.store.list("thumbs"):
        if path.endswith(".webp"):
            run.store.put(path, b"damaged")
    assert "9; 1 of them cannot be read" in " ".join(Page(html(run)).words)


def test_of_the_thumbnails_of_a_run_only_those_of_shown_shards_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(run)
    for shard in range(3):
        marked = np.full((16, 16, 3), 80 * shard, np.uint8)
        cells = {0: (f"{4 * shard}_00", run.hashes()[f"{4 * shard}_00"])}
        store_index(run.store, shard, [store_atlas(run.store, shard, cells, {0: marked})])
    read: list[str] = []
    read_if_any = Store.read_if_any

    def noted(self: Store, path: str) -> bytes | None:
        read.append(path)
        return read_if_any(self, path)

    monkeypatch.setattr(Store, "read_if_any", noted)
    page = Page(render(run, collect(run, Limits(images=1, failures=0))))
    assert len(page.pictures()) == 1
    assert [path[:18] for path in read if path.endswith(".json") and "thumbs" in path] == [
        "thumbs/shard-00000"
    ]


def pixel(data_url: str) -> tuple[int, ...]:
    """The middle of a picture."""
    image = Image.open(BytesIO(b64decode(data_url.partition(",")[2]))).convert("RGB")
    found = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(found, tuple)
    return found


def test_the_filter_searches_prompts_and_ids_and_no_checksum(run: Run) -> None:
    finish(run)
    page = Page(html(run))
    assert list(page.values("data-find"))[:2] == ["0_00 0 a cat", "1_00 1 a cat"]


def test_captions_have_carried_columns_and_no_seed(run: Run) -> None:
    topics, same = pa.array(["shoes", "hats"]), pa.array(["x", "x"])
    commit(run, 0, [made(run, n) for n in (0, 1)], topic=topics, same=same)
    captions = Page(html(run)).captions
    assert captions == [["a cat", "shoes", "0_00"], ["a cat", "hats", "1_00"]]


def test_the_page_says_how_to_pick(run: Run) -> None:
    finish(run)
    words = Page(html(run)).words
    assert f"nightpress review {run.url}" in words
    assert "the review page" not in words
    run.store.put("review.html", b"page")
    assert "the review page" in Page(html(run)).words


def test_file_names_are_percent_encoded(run: Run) -> None:
    name = 'images/ä b/100% #1?&"<x>.png'
    commit(run, 0, [made(run, 0, file=name)])
    (address,) = Page(html(run)).links()
    assert address.isascii()
    assert not set(address) & set(' #?&"<>')
    assert unquote(address) == name


@pytest.mark.parametrize("packing", ["webdataset", "parquet"])
def test_packed_images_are_embedded_in_the_page(tmp_path: Path, packing: str) -> None:
    packed = Run(*finished_run(tmp_path, ["a", "b", "c", "nan"], shard_size=2, packing=packing))
    pictures = Page(html(packed)).pictures()
    assert len(pictures) == 3
    for row, address in zip(packed.metadata.to_table().to_pylist(), pictures, strict=False):
        start, _, data = address.partition(",")
        assert start == "data:image/webp;base64"
        shown = Image.open(BytesIO(b64decode(data)))
        seed = row["seed"]
        assert shown.size == (row["width"], row["height"])
        wanted = (seed % 256, seed // 256 % 256, 7)
        assert np.abs(np.subtract(shown.getpixel((9, 9)), wanted)).max() < 8  # type: ignore[arg-type]
    assert packing in Page(html(packed)).words


def test_an_image_whose_pack_is_missing_is_shown_as_an_empty_one(tmp_path: Path) -> None:
    packed = Run(*finished_run(tmp_path, ["a", "b", "c"], shard_size=2, packing="webdataset"))
    Path(packed.packs[1]).unlink()
    kinds = [address.partition(";")[0] for address in Page(html(packed)).pictures()]
    assert kinds == ["data:image/webp", "data:image/webp", "data:image/gif"]


def test_nothing_is_loaded_from_elsewhere(run: Run) -> None:
    finish(run)
    page = Page(html(run))
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    for attribute in ("src", "href", "srcset", "action"):
        for value in page.values(attribute):
            assert value.startswith(("images/", "#", "data:image/webp;base64,"))
    assert "@import" not in html(run)
    assert "url(" not in html(run)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markup_in_a_row_stays_text(run: Run, hostile: str) -> None:
    records = [made(run, 0, hostile), failed(run, 1, hostile)]
    records[1] = replace(records[1], error_type=hostile, error=hostile)
    commit(run, 0, records, **{hostile: pa.array([hostile, hostile])})
    mild = begin(run.url, name="mild")
    commit(mild, 0, [made(mild, 0), failed(mild, 1)], topic=pa.array(["a", "b"]))

    page, expected = Page(html(run)), Page(html(mild))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in expected.elements]
    assert [set(attrs) for _, attrs in page.elements] == [set(a) for _, a in expected.elements]
    shown = hostile.replace("\x00", "\ufffd").replace("\x07", "\ufffd")
    assert page.words.count(shown) >= 5
    assert "\x00" not in html(run)


def test_failed_rows_are_listed_with_their_errors(run: Run) -> None:
    finish(run)
    words = Page(html(run)).words
    assert "NonFinite" in words
    assert "not finite" in words
    assert "5_00" in words


def test_only_the_first_hundred_failures_are_listed(run: Run) -> None:
    commit(run, 0, [failed(run, number) for number in range(130)])
    words = Page(html(run)).words
    assert words.count("NonFinite") == 100 + 1  # their kind is counted above them
    assert "the first: 100 of 130" in words


def test_settings_are_summed_over_shards(run: Run) -> None:
    finish(run)
    words = Page(html(run)).words
    row = words[words.index(SIZE) :]
    cells = [word for word in row if word][:7]
    assert cells == [SIZE, "euler", "20", "4.5", str(NUM_IMAGES), "1", "1"]
    assert "LoRAs" not in words
    assert "1 combination" in words


def test_settings_with_different_loras_are_counted_separately(run: Run) -> None:
    brand, ink = LoraInfo("brand", "b" * 64, 0.8), LoraInfo("ink", "a" * 64, 1.0)
    used = [(), (brand,), (brand, ink), (brand, ink)]
    records = [made(run, number) for number in range(4)]
    facts = [replace(r.facts, loras=loras) for r, loras in zip(records, used, strict=True)]
    commit(run, 0, [replace(r, facts=f) for r, f in zip(records[:2], facts[:2], strict=True)])
    commit(run, 1, [replace(r, facts=f) for r, f in zip(records[2:], facts[2:], strict=True)])
    settings = collect(run, Limits(images=4, failures=4)).settings
    counts = {row["with_loras"]: row["num_images"] for row in settings}
    assert counts == {"": 1, "brand at 0.8": 1, "brand at 0.8, ink at 1": 2}
    words = Page(html(run)).words
    assert words.count("brand at 0.8, ink at 1") == 3  # two pictures and a setting
    assert "LoRAs" in words


def test_carried_columns_are_shown_and_empty_values_are_not(run: Run) -> None:
    values = pa.array([{"x": 1}, None], pa.struct([("x", pa.int64())]))
    commit(run, 0, [made(run, 0), made(run, 1)], box=values, raw=pa.array([b"1234", None]))
    words = Page(html(run)).words
    assert '{"x": 1}' in words
    assert "4 bytes" in words
    assert words.count("box") == words.count("raw") == 1


def test_a_large_run_shows_evenly_spaced_images(run: Run) -> None:
    for shard in range(3):
        first = shard * 4
        commit(run, shard, [made(run, number) for number in range(first, first + 4)])
    images = collect(run, Limits(images=6, failures=0)).images
    assert [(shard, row["seed"]) for shard, row in images] == [
        (0, 0),
        (0, 2),
        (1, 4),
        (1, 6),
        (2, 8),
        (2, 10),
    ]


def test_long_values_are_cut() -> None:
    assert len(text("x" * 100_000)) == 2_000
    assert text("x" * 30, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.84, "0.8 s"),
        (42, "42 s"),
        (730, "12 min 10 s"),
        (25_400, "7 h 03 min"),
        (4e6, "1,111 h 06 min"),
    ],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (73_400_000, "73.4 MB"), (5.2e15, "5,200.0 TB")],
)
def test_sizes_read_well(num_bytes: float, words: str) -> None:
    assert size(num_bytes) == words


def test_prompts_that_were_cut_are_counted_and_shown(tmp_path: Path) -> None:
    run = begin(str(tmp_path), model={"prompts": {"long": "cut"}})
    records = [made(run, number) for number in range(4)]
    cut = replace(records[1].facts, prompt_cut="and a <b>fox</b>", negative_prompt_cut="blur")
    records[1] = replace(records[1], facts=cut)
    commit(run, 0, records)
    found = collect(run, LIMITS)
    assert (found.num_cut, [row["image_id"] for row in found.cut]) == (1, ["1_00"])
    words = " ".join(Page(render(run, found)).words)
    assert "1 with a prompt that was cut" in words
    assert words.count("and a <b>fox</b>") == 2  # in the table, and with the image
    assert "cut from the negative prompt blur" in words
    uncut = begin(str(tmp_path / "other"))
    commit(uncut, 0, [made(uncut, number) for number in range(4)])
    assert "was cut" not in " ".join(Page(render(uncut, collect(uncut, LIMITS))).words)


def test_pictures_and_passes_of_an_image_are_in_its_details(run: Run) -> None:
    inputs = (
        InputInfo("init_image", "photos/<a>.png", "a" * 64, "cover"),
        InputInfo("mask_image", None, "b" * 64, "contain"),
    )
    larger = Pass(2.0, 0.4, 10, 8, 8, 16, 16)
    record = made(run, 0)
    facts = replace(
        record.facts,
        mode="inpaint+control",
        strength=0.6,
        canvas=(0, 4, 0, 0),
        controlnets=(LoraInfo("depth", "c" * 64, 0.7),),
        inputs=inputs,
        passes=(larger,),
    )
    commit(run, 0, [replace(record, facts=facts), made(run, 1)])
    words = Page(html(run)).words
    assert words[words.index("init_image") + 1] == f"photos/<a>.png, cover\nsha256 {'a' * 64}"
    assert words[words.index("mask_image") + 1].startswith("bytes in the manifest, contain\n")
    assert words[words.index("pass") + 1] == "8 x 8 to 16 x 16, 10 steps at strength 0.4"
    assert "0 left, 4 top, 0 right, 0 bottom" in words
    assert words.count("inpaint+control") == 2  # in the details and in the table of settings
    assert "depth at 0.7" in words


def test_settings_are_told_apart_by_mode_and_strength_where_there_are_any(run: Run) -> None:
    records = [made(run, number) for number in range(4)]
    changes = [{}, {"mode": "image", "strength": 0.5}, {"mode": "image", "strength": 0.9}, {}]
    commit(
        run,
        0,
        [
            replace(record, facts=replace(record.facts, **change))
            for record, change in zip(records, changes, strict=True)
        ],
    )
    found = collect(run, LIMITS).settings
    told = {(row["mode"], row["strength"], row["num_images"]) for row in found}
    assert told == {("text", None, 2), ("image", 0.5, 1), ("image", 0.9, 1)}
    page = html(run)
    assert "<th>Mode</th>" in page
    assert "<th>ControlNets</th>" not in page


def test_failures_are_counted_by_kind_and_explained(run: Run) -> None:
    kinds = [FailureType.INPUT_MISSING] * 2 + [FailureType.INPUT_CHANGED]
    records = [replace(failed(run, n), error_type=kind) for n, kind in enumerate(kinds)]
    commit(run, 0, [*records, made(run, 3)])
    words = Page(html(run)).words
    assert words[words.index("InputMissing") + 1].startswith("2 images: a picture that it is made")
    assert "nightpress retry" in words[words.index("InputMissing") + 1]
    assert words[words.index("InputChanged") + 1].startswith("1 image: a picture that it is made")


def test_every_kind_of_failure_is_explained() -> None:
    assert set(EXPLANATIONS) == {kind.value for kind in FailureType}


def test_a_log_that_cannot_be_read_costs_the_report_its_costs_alone(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    finish(run)
    run.store.put("log", b"a file where the folder should be")
    write_report(run, run.store)
    page = run.store.read("report.html").decode()
    assert "unknown: the log cannot be read" in page


def test_the_report_of_a_gated_run_counts_draws_and_rejected_images(tmp_path: Path) -> None:
    gates = {"require": ["exposure > 0.6"], "max_draws": 2}
    prompts = [f"picture {number}" for number in range(8)]
    run = Run(*finished_run(tmp_path, prompts, gates=gates))
    table = run.metadata.to_table(columns=["draws", "status"]).to_pydict()
    num_rejected = table["status"].count("failed")
    assert num_rejected
    assert run.progress().num_rejected == num_rejected
    words = Page(html(run)).words
    place = words.index("draws")
    assert f"{sum(table['draws'])}" in words[place - 2 : place + 3]
    assert "of them rejected by gates" in words
    assert any(EXPLANATIONS[FailureType.REJECTED] in word for word in words)


def test_the_report_of_a_run_without_gates_says_nothing_of_draws(tmp_path: Path) -> None:
    words = Page(html(Run(*finished_run(tmp_path, ["a", "b"])))).words
    assert "draws" not in words
    assert "of them rejected by gates" not in words

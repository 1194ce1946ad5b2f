"""The data set of the built-in model: its captions are true of its pixels."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import CLIPTokenizer

from nightpress.diffusion_core.builtin.recipe import (
    captions,
    dataset,
    grammar,
    layout,
    sources,
    tokens,
    words,
)
from nightpress.diffusion_core.builtin.recipe.captions import Facts
from nightpress.diffusion_core.builtin.recipe.colours import (
    COLOURS,
    border_similarity,
    distance,
    nearest_name,
)
from nightpress.diffusion_core.builtin.recipe.counting import (
    background_of,
    count_things,
    foreground,
)
from nightpress.diffusion_core.builtin.recipe.dataset import Entry
from nightpress.diffusion_core.builtin.recipe.dice import Dice
from nightpress.diffusion_core.builtin.recipe.sources import Concept, Drawing

NAMES = ("red apple", "tiger", "cup with straw", "grapes", "two hearts", "person: beard", "snowman")


def ball(colour: str) -> Image.Image:
    image = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(image).ellipse((16, 16, 240, 240), fill=colour, outline="black", width=6)
    return image


def drawings() -> list[Drawing]:
    """A ball for each name and style; the snowman's is white without an outline."""
    found = []
    for i, name in enumerate(NAMES):
        concept = Concept(f"1f{i}", name, ("one tag", "another", "third"))
        image = ball(("crimson", "orange", "teal", "indigo", "hotpink", "peru", "white")[i])
        if name == "snowman":
            ImageDraw.Draw(image).ellipse((16, 16, 240, 240), fill="white")
        for style in ("fluent-3d", "noto"):
            found.append(Drawing(concept, style, image.copy))
    return found


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    out = tmp_path_factory.mktemp("set")
    numbers = dataset.write_shards(out, dataset.draw_all(drawings()), size=50)
    read = list(dataset.read_entries(out))
    assert sum(numbers.values()) == len(read)
    assert set(numbers) == {"emoji-000000.tar", "emoji-000001.tar", "emoji-000002.tar", *numbers}
    return read


def test_every_picture_has_twelve_variants_and_three_are_plain(entries: list[Entry]) -> None:
    things = Counter((entry.facts.hexcode, entry.facts.style) for entry in entries)
    assert set(things.values()) == {12}
    assert len(things) == 2 * len(NAMES)
    plain = Counter(
        (entry.facts.hexcode, entry.facts.style) for entry in entries if entry.facts.is_plain
    )
    assert set(plain.values()) == {3}


def test_the_background_matches_the_caption(entries: list[Entry]) -> None:
    for entry in entries:
        pixels = entry.pixels()
        assert pixels.shape == (128, 128, 3)
        assert nearest_name(background_of(pixels)) == entry.facts.background, entry.key
        for text in entry.captions:
            others = set(COLOURS) - {entry.facts.background, "blue"}
            said = text.replace("grey", "gray")
            if entry.facts.background == "white":
                assert not any(f"{colour} background" in said for colour in others), text
            else:
                assert f"on {entry.facts.background}" in said or (
                    f"{entry.facts.background} background" in said
                ), text


def test_the_number_matches_the_caption(entries: list[Entry]) -> None:
    for entry in entries:
        count = entry.facts.count
        if entry.facts.label != "snowman" or entry.facts.background != "white":
            assert count_things(entry.pixels()) == count, entry.key
        for text in entry.captions:
            if count > 1:
                assert grammar.NUMBERS[count] in text or str(count) in text, text
    assert {entry.facts.count for entry in entries} == {1, 2, 3, 4}


def test_plural_things_have_no_copies(entries: list[Entry]) -> None:
    copied = {entry.facts.label for entry in entries if entry.facts.count > 1}
    assert copied == set(NAMES) - {"grapes", "two hearts"}


def test_position_and_size_match_the_caption(entries: list[Entry]) -> None:
    seen = set()
    for entry in entries:
        facts = entry.facts
        if facts.count > 1 or (facts.label == "snowman" and facts.background == "white"):
            continue
        rows, columns = np.nonzero(foreground(entry.pixels()))
        y, x = rows.mean() / 128 - 0.5, columns.mean() / 128 - 0.5
        place = [name for name, far in (("top", y < -0.1), ("bottom", y > 0.1)) if far]
        place += [name for name, far in (("left", x < -0.1), ("right", x > 0.1)) if far]
        assert " ".join(place or ["center"]) == facts.position, entry.key
        if facts.position == "center":
            side = (columns.max() - columns.min()) / 128
            size = "small" if side < 0.45 else "large" if side > 0.8 else "normal"
            assert size == facts.size, entry.key
        else:
            assert all(
                part in text.replace("upper", "top").replace("lower", "bottom")
                for part in facts.position.split()
                for text in entry.captions
            )
        seen |= {facts.position, facts.size}
    assert seen >= {"small", "large", "normal", "left", "top left"}


def test_captions_without_a_style_are_of_fluent_pictures(entries: list[Entry]) -> None:
    flat = ("flat", "noto")
    for entry in entries:
        assert len(set(entry.captions)) == len(entry.captions) >= 3
        for text in entry.captions:
            assert any(word in text for word in flat) == (entry.facts.style == "noto"), text


def test_held_out_combinations_are_in_no_picture(entries: list[Entry]) -> None:
    for entry in entries:
        facts = entry.facts
        assert not dataset.held_out(facts.hexcode, facts.background, facts.count)
    share = np.mean([dataset.held_out(str(i), colour, 2) for i in range(200) for colour in COLOURS])
    assert 0.03 < share < 0.07
    assert not any(dataset.held_out(str(i), "white", 1) for i in range(500))


def test_no_thing_is_on_its_own_colour(entries: list[Entry]) -> None:
    snowmen = [entry.facts for entry in entries if entry.facts.label == "snowman"]
    assert all(facts.background != "white" for facts in snowmen if facts.count > 1)
    outlined = np.asarray(ball("white"))
    assert border_similarity(outlined, "black") > 0.9
    assert border_similarity(outlined, "yellow") == 0


def test_the_same_drawings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        some = drawings()[:4] if name == "one" else drawings()[:4][::-1]
        dataset.write_shards(tmp_path / name, dataset.draw_all(some), size=30)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 2
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_members_are_pairs_as_webdataset_readers_expect(tmp_path: Path) -> None:
    dataset.write_shards(tmp_path, dataset.draw_all(drawings()[:1]))
    with tarfile.open(tmp_path / "emoji-000000.tar") as tar:
        infos = tar.getmembers()
        record = json.loads(sources.read_member(tar, infos[1].name))
    stems = [info.name.rsplit(".", 1) for info in infos]
    assert all(a[0] == b[0] for a, b in zip(stems[::2], stems[1::2], strict=True))
    assert {(a[1], b[1]) for a, b in zip(stems[::2], stems[1::2], strict=True)} == {("png", "json")}
    assert all(info.mtime == 0 and info.uid == 0 for info in infos)
    assert isinstance(record["caption"], list)
    assert set(record) == {"caption", *Facts.__dataclass_fields__}


def test_both_packages_are_joined_by_code(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    ball("crimson").save(buffer, "WEBP", lossless=True)
    emojis = [
        {"label": "red heart", "hexcode": "2764-FE0F", "tags": ["love"], "group": 0},
        {"label": "only in one", "hexcode": "1F405", "group": 0},
        {"label": "flag: Peru", "hexcode": "1F1F5-1F1EA", "group": 9},
        {"label": "family: man, boy", "hexcode": "1F468-200D-1F466", "group": 0},
        {"label": "no group", "hexcode": "1F9F0"},
    ]
    groups = {"groups": [{"order": 0, "key": "smileys-emotion"}, {"order": 9, "key": "flags"}]}
    codes = ["2764-fe0f", "1f405", "1f1f5-1f1ea", "1f468-200d-1f466", "1f9f0"]
    square = {"body": '<path fill="#00f" d="M16 16h96v96H16z"/>'}
    icons = {"width": 128, "height": 128, "icons": {"heart": square, "other": square}}
    chars = {"2764": "heart", "1f1f5-1f1ea": "other", "1f9f0": "other", "1f468-200d-1f466": "other"}
    pack(
        tmp_path / "lobehub-fluent-emoji-3d-1.1.0.tgz",
        {f"package/assets/{code}.webp": buffer.getvalue() for code in codes},
    )
    pack(
        tmp_path / "iconify-json-noto-1.2.9.tgz",
        {"package/icons.json": as_json(icons), "package/chars.json": as_json(chars)},
    )
    pack(
        tmp_path / "emojibase-data-17.0.0.tgz",
        {"package/en/data.json": as_json(emojis), "package/en/messages.json": as_json(groups)},
    )
    fluent, noto = sources.read_drawings(tmp_path)
    assert fluent.concept == noto.concept == Concept("2764", "red heart", ("love",))
    assert (fluent.style, noto.style) == ("fluent-3d", "noto")
    assert fluent.render().getpixel((128, 128)) == (220, 20, 60, 255)
    assert noto.render().size == (256, 256)
    assert noto.render().getpixel((128, 128)) == (0, 0, 255, 255)
    assert noto.render().getpixel((8, 8)) == (0, 0, 0, 0)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            dataset.add_file(tar, name, content)


@pytest.mark.parametrize(
    ("label", "spoken"),
    [
        ("red apple", "a red apple"),
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass done", "an hourglass done"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("sushi", "sushi"),
        ("woman playing water polo", "a woman playing water polo"),
        ("people wrestling", "people wrestling"),
        ("person: beard", "a person with a beard"),
        ("woman: bald", "a bald woman"),
        ("man: red hair", "a man with red hair"),
        ("keycap: 3", "a keycap 3"),
        ("kiss: woman, man", "a kiss of a woman and a man"),
        ("ATM sign", "an ATM sign"),
    ],
)
def test_labels_get_spoken_forms(label: str, spoken: str) -> None:
    assert grammar.with_article(grammar.spoken(label)) == spoken


@pytest.mark.parametrize(
    ("label", "several"),
    [
        ("red apple", "red apples"),
        ("cherry blossom", "cherry blossoms"),
        ("wolf", "wolves"),
        ("firefly", "fireflies"),
        ("snowman", "snowmen"),
        ("woman", "women"),
        ("fox", "foxes"),
        ("tropical fish", "tropical fish"),
        ("bus", "buses"),
        ("grapes", None),
        ("cup with straw", None),
        ("woman dancing", None),
        ("sushi", None),
        ("locked", None),
    ],
)
def test_uncertain_plurals_are_not_formed(label: str, several: str | None) -> None:
    assert grammar.plural(label) == several


def test_every_phrase_for_a_number_names_it() -> None:
    assert set(grammar.count_phrases("red apple", 2)) == {
        "two red apples",
        "2 red apples",
        "two copies of a red apple",
        "2 x red apple",
    }
    assert all("three" in way or "3" in way for way in grammar.count_phrases("cup with straw", 3))


def test_the_plain_caption_states_all_facts() -> None:
    facts = Facts("red apple", "1f34e", "noto", "orange", 1, "top left", "normal")
    assert captions.plain_caption(facts) == (
        "a flat emoji of a red apple in the top left corner on an orange background"
    )
    assert captions.plain_caption(Facts("red apple", "1f34e", "fluent-3d")) == "a red apple"
    two = Facts("red apple", "1f34e", "fluent-3d", "blue", 2)
    assert captions.plain_caption(two) == "two red apples on a blue background"


def test_named_colours_look_different() -> None:
    values = np.array(list(COLOURS.values()))
    apart = distance(values[:, None], values[None]) + 100 * np.eye(len(values))
    assert apart.min() > 25
    assert [nearest_name(np.array(value)) for value in COLOURS.values()] == list(COLOURS)


def test_copies_are_on_the_canvas_with_gaps_between_them() -> None:
    for count in (2, 3, 4):
        for arrangement in (0, 1):
            boxes = layout.copies(count, arrangement)
            assert len(boxes) == count
            for i, box in enumerate(boxes):
                assert min(box.x, box.y) >= 0
                assert max(box.x, box.y) + box.side <= layout.NUM_PIXELS
                for other in boxes[:i]:
                    apart = max(abs(box.x - other.x), abs(box.y - other.y))
                    assert apart >= box.side + 16


def test_dice_are_fair_and_repeatable() -> None:
    first, again = Dice("key", 1), Dice("key", 1)
    draws = [first.below(6) for _ in range(6000)]
    assert draws == [again.below(6) for _ in range(6000)]
    assert all(900 < number < 1100 for number in Counter(draws).values())
    assert sorted(first.shuffled(range(9))) == list(range(9))


VOICES = {"dog": 0, "puppy": 0, "puppies": 0, "car": 1, "automobile": 1, "sofa": 2, "couch": 2}


def fake_embedder(texts: list[str]) -> Tensor:
    """Words of one meaning have nearly the same direction."""
    rows = []
    for text in texts:
        own = torch.tensor([Dice(text).below(1000) / 1000 - 0.5 for _ in range(8)])
        meaning = nn.functional.one_hot(torch.tensor(VOICES.get(text, 3)), 8).float()
        rows.append(nn.functional.normalize(meaning + 0.2 * own, dim=0))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def taught_words(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[CLIPTokenizer, Tensor]:
    out = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "WIDTH", 8)
        text_encoder = words.build(["a dog, 3d", "a car"], list(VOICES), fake_embedder, out)
    assert (out / "text_encoder" / "model.safetensors").exists()
    vectors = text_encoder.get_input_embeddings().weight.detach()
    return CLIPTokenizer.from_pretrained(out / "tokenizer"), vectors


@pytest.mark.parametrize(("word", "near"), [("puppy", "dog"), ("automobile", "car")])
def test_a_word_in_no_caption_is_near_a_word_of_the_same_meaning(
    taught_words: tuple[CLIPTokenizer, Tensor], word: str, near: str
) -> None:
    assert near in words.neighbours(word, *taught_words, num=3)


def test_every_word_is_one_token_and_any_text_survives(
    taught_words: tuple[CLIPTokenizer, Tensor],
) -> None:
    tokenizer = taught_words[0]
    for word in VOICES:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    for text in ("ñandú 日本語 🐶", "puppydog"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert len(tokenizer("puppydog", add_special_tokens=False).input_ids) > 1


def test_merges_make_each_word_one_token_in_any_order() -> None:
    names = ["lower", "lowest", "newer", "newest", "wider", "new"]
    merges = tokens.learn_merges(names)
    assert merges == tokens.learn_merges(names[::-1])
    ranks = {merge: i for i, merge in enumerate(merges)}
    for name in names:
        assert tokens.apply_merges(name, ranks) == [name + tokens.WORD_END]
    assert len(tokens.apply_merges("lowly", ranks)) > 1


def test_piece_vectors_average_to_the_vectors_of_their_words() -> None:
    torch.manual_seed(0)
    true = torch.randn(6, 4)
    splits = [[a, b] for a in range(6) for b in range(6) if a != b] * 40
    targets = torch.stack([true[split].mean(dim=0) for split in splits])
    found = words.piece_vectors(splits, targets, num=8)
    torch.testing.assert_close(found[:6], true, atol=0.05, rtol=0.05)
    assert not found[6:].any()


def test_principal_axes_keep_directions() -> None:
    torch.manual_seed(0)
    flat = torch.randn(50, 3) @ torch.randn(3, 10)
    kept = words.principal_axes(flat, 3)
    centred = nn.functional.normalize(flat - flat.mean(dim=0), dim=-1)
    torch.testing.assert_close(kept @ kept.T / 3, centred @ centred.T, atol=1e-4, rtol=1e-4)

"""README.md of an export: what `datasets` reads in its head, and what people read below."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import yaml

from nightpress.pipelines.export.layouts.registry import (
    FILES,
    data_files,
    features,
    given_columns,
)
from nightpress.pipelines.export.licences import Licence
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.summary import ExportSummary
from nightpress.pipelines.export.tables import (
    BALANCE_FILE,
    DROPPED_STEM,
    STATS_FILE,
    Balance,
)
from nightpress.pipelines.formatting import plural, size

CARD_FILE = "README.md"

SIZES = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    *((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")),
)
"""The hub's categories of sizes, each with the number of rows that it ends below."""

MOST_SHOWN = 5
"""Values of a column that a card shows; `balance.parquet` has them all."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says."""

    spec: ExportSpec
    columns: pa.Schema
    """The columns beside image and caption."""
    runs: tuple[str, ...]
    """The names of the runs."""
    suffixes: tuple[str, ...]
    """The suffixes of the names of their images, each once."""
    summary: ExportSummary
    balances: Sequence[Balance]
    licences: Sequence[Licence]


def card(facts: CardFacts) -> bytes:
    """The README, in UTF-8."""
    parts = [
        f"---\n{_head(facts)}---\n",
        f"# {facts.spec.name}\n",
        _introduction(facts),
        _splits(facts),
        _columns(facts),
        _balance(facts.balances),
        _dropped(facts.summary),
        _licences(facts),
    ]
    return "\n".join(part for part in parts if part).encode()


def _head(facts: CardFacts) -> str:
    splits = [split for split in facts.spec.splits if facts.summary.num_images.get(split)]
    values: dict[str, object] = {}
    if facts.spec.licence is not None:
        values["license"] = facts.spec.licence
    values |= {
        "pretty_name": facts.spec.name,
        "size_categories": [size_category(facts.summary.total)],
        "task_categories": ["text-to-image"],
        "tags": ["image", "synthetic", "nightpress"],
    }
    told = features(facts.spec.layout, facts.suffixes, facts.columns)
    if told:
        values["dataset_info"] = {"features": told}
    files = data_files(facts.spec.layout, splits)
    if files:
        values["configs"] = [{"config_name": "default", "data_files": files}]
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def size_category(num_images: int) -> str:
    """The hub's name for the size of a set."""
    return next((name for end, name in SIZES if num_images < end), "n>1T")


def _introduction(facts: CardFacts) -> str:
    spec, summary = facts.spec, facts.summary
    runs = plural(len(facts.runs), "run")
    return (
        f"{plural(summary.total, 'image')} with captions, {size(summary.num_bytes)}, made by "
        f"generative models in {runs} of nightpress and exported as `{spec.layout}`. No image is a "
        "photograph: each is marked as made by a trained model in its own metadata.\n"
    )


def _splits(facts: CardFacts) -> str:
    spec, counts = facts.spec, facts.summary.num_images
    lines = ["## Splits\n", "| split | images |", "|---|---:|"]
    lines += [f"| {split} | {counts.get(split, 0):,} |" for split in spec.splits]
    if spec.split is not None:
        lines.append(
            f"\nA hash of the column `{spec.split.by}` decides the split, so rows with the same "
            "value stay together, and no image moves when the set grows."
        )
        lines.append(_LEAKS[spec.leaks])
    if spec.dedup is not None:
        lines.append(f"\n{_DEDUP[spec.dedup]}")
    if spec.compares_embeddings:
        lines.append(
            f"\nTwo embeddings are alike from a cosine of {spec.cosine:g}. An image without an "
            "embedding was left out."
        )
    return "\n".join(lines) + "\n"


_LEAKS = {
    "keep": "Images of train were not compared with those of the other splits.",
    "exact": "An image whose bytes another split has too was left out of train.",
    "near": "An image that looks like one of another split was left out of train.",
    "embeddings": (
        "An image that looks like one of another split, or whose embedding is like that of one, "
        "was left out of train."
    ),
}

_DEDUP = {
    "exact": "An image with the bytes of an earlier one of its split was left out.",
    "near": "An image that looks like an earlier one of its split was left out.",
    "embeddings": (
        "An image that looks like an earlier one of its split, or whose embedding is like that of "
        "one, was left out."
    ),
}


def _columns(facts: CardFacts) -> str:
    images = FILES[facts.spec.layout].image_columns or ("image",)
    columns = given_columns(facts.spec.layout, facts.columns)
    lines = ["## Columns\n", "| column | type |", "|---|---|"]
    lines += [f"| `{name}` | image |" for name in images]
    lines.append("| `caption` | string |")
    lines += [f"| `{_cell(field.name)}` | {_cell(str(field.type))} |" for field in columns]
    lines.append(f"\n`{STATS_FILE}` has the range and the mean of every column in every split.")
    if "commit" in facts.columns.names:
        lines.append(
            "`run`, `commit` and `image_id` name the row of the run that an image is from: the "
            "commit is the SHA-256 of the metadata file."
        )
    return "\n".join(lines) + "\n"


def _balance(found: Sequence[Balance]) -> str:
    if not found:
        return ""
    lines = [
        "## Balance\n",
        f"The most frequent values of each column; `{BALANCE_FILE}` has all of them, by split. "
        "Evenness is 1 if all values are equally frequent.\n",
        "| column | values | evenness | most frequent |",
        "|---|---:|---:|---|",
    ]
    for each in found:
        top = list(each.totals.items())[:MOST_SHOWN]
        shown = ", ".join(f"{_cell(value)} ({number:,})" for value, number in top)
        lines.append(
            f"| `{_cell(each.column)}` | {len(each.counts):,} | {each.evenness:.2f} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def _dropped(summary: ExportSummary) -> str:
    counts = summary.num_dropped
    if not counts:
        return ""
    lines = [
        "## Left out\n",
        "Images of the runs that are not in this set; "
        f"`{DROPPED_STEM}.parquet` lists each of them.\n",
        "| reason | images |",
        "|---|---:|",
        *(f"| {reason} | {number:,} |" for reason, number in sorted(counts.items())),
    ]
    if summary.num_rows_apart:
        rows = plural(summary.num_rows_apart, "prompt")
        lines.append(f"\n{rows} gave no pair because the images are in several shards of the run.")
    return "\n".join(lines) + "\n"


def _licences(facts: CardFacts) -> str:
    shows_names = facts.spec.metadata == "full"
    lines = [
        "## Licences\n",
        f"Of this set: {facts.spec.licence or 'not stated'}. Of what made its images, as their own "
        "cards state it:\n",
        "| what | weights (SHA-256) | licence |",
        "|---|---|---|",
    ]
    for each in facts.licences:
        what = f"{each.role} {_cell(each.name)}" if shows_names else each.role
        unknown = "unknown: its card could not be read" if each.is_unread else "unknown"
        licence = _cell(each.licence or unknown)
        lines.append(f"| {what} | `{each.fingerprint[:16]}` | {licence} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text inside a table."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())

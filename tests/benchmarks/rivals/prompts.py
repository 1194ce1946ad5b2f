"""The manifest that nightpress and its rivals share, from a file of prompts."""

import csv
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_manifest(path: Path, prompts: Path, num_images: int) -> Path:
    """Write the first prompts, repeated if there are too few, each row with its own seed."""
    rows = list(islice(cycle(read_prompts(prompts)), num_images))
    table = {
        "id": [f"{number:05d}" for number in range(num_images)],
        "prompt": rows,
        "seed": list(range(num_images)),
    }
    pq.write_table(pa.table(table), path)
    return path


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, or a table's column Prompt, in upper or lower case."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file of prompts")
    is_table = path.suffix in (".tsv", ".csv")
    texts = read_column(path) if is_table else path.read_text().splitlines()
    prompts = [text for text in texts if text.strip()]
    if not prompts:
        raise SystemExit(f"{path}: no prompts")
    return prompts


def read_column(path: Path) -> list[str]:
    """The column of prompts; quotation marks are ordinary characters in TSV."""
    with path.open(newline="") as file:
        tabbed = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header, *rows = tabbed if path.suffix == ".tsv" else csv.reader(file)
    names = [name.casefold() for name in header]
    if "prompt" not in names:
        raise SystemExit(f"{path}: no column Prompt; its columns are {', '.join(header)}")
    place = names.index("prompt")
    return [row[place] for row in rows if len(row) > place]

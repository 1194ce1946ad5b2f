"""report.html: one page on a run, for people. Static, self-contained, safe for any prompt.

Reads a run through its `Run`. Knows nothing of how the run was carried out.
"""

import json
import math
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from urllib.parse import quote

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.formatting import duration, size
from nightpress.pipelines.image_files.embedded_metadata import readable
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.reader import READ_THREADS, Run, RunProgress
from nightpress.pipelines.storage import Store

REPORT_FILE = "report.html"

MAX_PICTURES = 200
THUMB = 384
"""Pixels of the longer side of a picture that is inside the page, because its file is in a pack."""

NOTHING = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
"""Stands for a picture whose pack is damaged or gone; verify says more."""

MAX_SETTINGS = 100
MAX_FAILURES = 100
MAX_TEXT = 2_000
"""Characters of one value on the page; the metadata has the rest."""

UNKNOWN = "\N{EM DASH}"

PICTURE_FACTS = {
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "image_id": "image id",
    "seed": "seed",
    "scheduler": "sampler",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "file": "file",
    "member": "member",
    "sha256": "sha256",
}
"""Metadata column -> what the page calls it; the carried columns follow under their own names."""

SETTING = ("width", "height", "num_inference_steps", "guidance_scale", "scheduler")
GROUPED = [*SETTING, "with_loras"]


@dataclass(frozen=True)
class Total:
    """A number at the top of the page."""

    name: str
    value: str
    tone: str = ""
    """`good`, `bad` or nothing."""


@dataclass(frozen=True)
class Fact:
    """A name and a value."""

    name: str
    value: str
    mono: bool = False


@dataclass(frozen=True)
class Picture:
    """An image in the gallery."""

    url: str
    """Relative to the page, percent-encoded; of a packed image, small, the image itself."""
    caption: str
    image_id: str
    seed: int
    width: int
    height: int
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Failure:
    """An image that could not be made."""

    image_id: str
    prompt: str
    error_type: str
    error: str
    attempts: int


@dataclass(frozen=True)
class Setting:
    """Images that share the settings of a batch."""

    width: int
    height: int
    scheduler: str
    num_inference_steps: int
    guidance_scale: str
    loras: str
    """`brand at 0.8, ink at 1`; empty where there are none."""
    num_images: str
    num_failed: str
    sampling_s: str


def write_report(run: Run, store: Store) -> None:
    """Write the page of a run, as far as the run is, into its store."""
    with run.reading():
        page = render(run)
    store.put(REPORT_FILE, page.encode())


def render(run: Run) -> str:
    """The page as HTML."""
    progress = run.progress()
    metadata = run.metadata
    rows = spread(run, metadata.schema, MAX_PICTURES)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        pictures = list(pool.map(picture, rows, pool.map(lambda row: source(run, row), rows)))
    failures = [failure(row) for row in failed_rows(metadata, MAX_FAILURES)]
    used = settings(metadata)
    loader = jinja2.PackageLoader("nightpress.pipelines.reporting")
    page = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")
    return page.render(
        title=run.spec.name,
        where=f"{run.url} · begun {moment(run.record.created_at)}",
        totals=totals(progress),
        pictures=pictures,
        pictures_note=_of(len(pictures), progress.num_ok, "a spread of them"),
        failures=failures,
        failures_note=_of(len(failures), progress.num_failed, "the first"),
        settings=used[:MAX_SETTINGS],
        settings_note=_of(min(len(used), MAX_SETTINGS), len(used), "the most frequent"),
        job=job_facts(run),
        model=model_facts(run),
        spec=json.dumps(run.spec.as_dict(), indent=2, ensure_ascii=False),
    )


def totals(progress: RunProgress) -> list[Total]:
    """The numbers at the top."""
    done = progress.num_ok + progress.num_failed
    rate = progress.images_per_s
    return [
        Total("images ok", f"{progress.num_ok:,}", "good" if progress.num_ok else ""),
        Total("failed", f"{progress.num_failed:,}", "bad" if progress.num_failed else ""),
        Total(
            "of the plan done",
            f"{done / progress.num_images:.0%}" if progress.num_images else UNKNOWN,
        ),
        Total("sampling time", duration(progress.active_s)),
        Total("images per second of sampling", UNKNOWN if rate is None else f"{rate:.2f}"),
        Total("stored", size(progress.num_bytes)),
        Total("shards", f"{progress.num_committed_shards:,} / {progress.num_shards:,}"),
    ]


def spread(run: Run, schema: pa.Schema, most: int) -> list[dict[str, Any]]:
    """Rows of at most that many images that are ok, at even distances over the run."""
    shards = evenly_spaced(run.committed, most, endpoint=False)
    share = math.ceil(most / len(shards)) if shards else 0

    def some(shard: int) -> list[dict[str, Any]]:
        made = run.shards([shard], schema).to_table(filter=ds.field("status") == "ok")
        places = pa.array(evenly_spaced(range(made.num_rows), share, endpoint=False), pa.int64())
        chosen: list[dict[str, Any]] = made.take(places).to_pylist()
        return chosen

    with ThreadPoolExecutor(READ_THREADS) as pool:
        rows = [row for part in pool.map(some, shards) for row in part]
    return evenly_spaced(rows, most, endpoint=False)


def failed_rows(metadata: ds.Dataset, most: int) -> list[dict[str, Any]]:
    """The first rows that failed."""
    columns = ["image_id", "prompt", "error_type", "error", "attempts"]
    failed = metadata.scanner(columns=columns, filter=ds.field("status") == "failed")
    rows: list[dict[str, Any]] = failed.head(most).to_pylist()
    return rows


def settings(metadata: ds.Dataset) -> list[Setting]:
    """What was sampled with which settings, the most frequent first; one pass over the rows."""
    counted = []
    for batch in metadata.to_batches(columns=[*SETTING, "status", "sampling_s", "loras"]):
        rows = pa.Table.from_batches([batch])
        failed = pc.cast(pc.equal(rows.column("status"), "failed"), "int64")
        rows = rows.append_column("failed", failed)
        rows = rows.append_column("with_loras", _as_texts(batch.column("loras")))
        grouped = rows.group_by(GROUPED)
        counted.append(
            grouped.aggregate(
                [
                    ("status", "count"),
                    ("failed", "sum"),
                    ("sampling_s", "sum"),
                    ("sampling_s", "count"),
                ]
            )
        )
    if not counted:
        return []
    sums = ["status_count", "failed_sum", "sampling_s_sum", "sampling_s_count"]
    table = pa.concat_tables(counted).group_by(GROUPED).aggregate([(n, "sum") for n in sums])
    return [setting(row) for row in table.sort_by([("status_count_sum", "descending")]).to_pylist()]


def _as_texts(loras: pa.ListArray) -> pa.Array:
    """The LoRAs of each row as `brand at 0.8, ink at 1`; (n,) string."""
    each = loras.flatten()
    scales = pc.cast(each.field("scale"), pa.string())
    texts = pc.binary_join_element_wise(each.field("name"), scales, " at ")
    starts = pc.subtract(loras.offsets, loras.offsets[0])
    return pc.binary_join(pa.ListArray.from_arrays(starts, texts), ", ")


def setting(row: dict[str, Any]) -> Setting:
    """A row of the settings table."""
    sampled = row["sampling_s_count_sum"]
    return Setting(
        width=row["width"],
        height=row["height"],
        scheduler=row["scheduler"],
        num_inference_steps=row["num_inference_steps"],
        guidance_scale=f"{row['guidance_scale']:g}",
        loras=text(row["with_loras"], 400),
        num_images=f"{row['status_count_sum']:,}",
        num_failed=f"{row['failed_sum_sum']:,}",
        sampling_s=f"{row['sampling_s_sum_sum'] / sampled:.3g}" if sampled else UNKNOWN,
    )


def source(run: Run, row: dict[str, Any]) -> str:
    """What the page shows an image by: its file, or itself where that is in a pack."""
    if row["member"] is None:
        return quote(row["file"])
    try:
        image = decoded(image_bytes(run.store, row)).convert("RGB")
    except (StoreMissing, ValueError):
        return NOTHING
    image.thumbnail((THUMB, THUMB))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def picture(row: dict[str, Any], url: str) -> Picture:
    """An image in the gallery, with its own facts and then what the manifest said besides."""
    carried = [name for name in row if name not in METADATA_SCHEMA.names]
    facts = [
        Fact(label, text(row[name]), mono=name in ("file", "member", "sha256", "image_id"))
        for name, label in PICTURE_FACTS.items()
    ]
    loras = (f"{lora['name']} at {lora['scale']:g}" for lora in row["loras"])
    facts.append(Fact("LoRAs", text(", ".join(loras))))
    facts += [Fact(readable(name), text(row[name])) for name in carried]
    return Picture(
        url=url,
        caption=text(row["prompt"], 400),
        image_id=text(row["image_id"]),
        seed=row["seed"],
        width=row["width"],
        height=row["height"],
        facts=tuple(fact for fact in facts if fact.value),
    )


def failure(row: dict[str, Any]) -> Failure:
    """A row of the table of failures."""
    return Failure(
        image_id=text(row["image_id"]),
        prompt=text(row["prompt"], 400),
        error_type=text(row["error_type"]),
        error=text(row["error"]),
        attempts=row["attempts"],
    )


def job_facts(run: Run) -> list[Fact]:
    """What was asked for."""
    spec, record = run.spec, run.record
    return [
        Fact("manifest", text("\n".join(spec.manifests)), mono=True),
        Fact("rows", f"{record.layout.num_rows:,}"),
        Fact("images planned", f"{record.layout.num_images:,}"),
        Fact("seed", str(spec.seed)),
        Fact("format", spec.images.format),
        Fact("file names", text(spec.images.template), mono=True),
        *([Fact("packing", spec.images.packing)] if spec.images.is_packed else []),
        Fact("fingerprint", record.fingerprint, mono=True),
    ]


def model_facts(run: Run) -> list[Fact]:
    """What made it."""
    record = run.record
    versions = (f"{name} {version}" for name, version in record.versions.items())
    return [
        Fact("model", text(record.model.source)),
        Fact("pipeline", text(record.model.pipeline)),
        Fact("precision", f"{record.dtype} on {record.device}"),
        Fact("batch size", record.batch_sizes.text),
        Fact("fingerprint", record.model.fingerprint, mono=True),
        Fact("versions", text(", ".join(versions))),
    ]


def text(value: object, most: int = MAX_TEXT) -> str:
    """Any value of a metadata row as text that a page can show; empty for None."""
    match value:
        case None:
            return ""
        case bytes():
            return f"{len(value):,} bytes"
        case str():
            shown = value
        case list() | dict():
            shown = json.dumps(value, ensure_ascii=False, default=str)
        case _:
            shown = str(value)
    return readable(shown if len(shown) <= most else shown[: most - 1] + "…")


def moment(iso: str) -> str:
    """`2026-11-21 02:10 UTC`."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _of(shown: int, number: int, which: str) -> str:
    """`1,632`, or `a spread of them: 200 of 1,632`."""
    return f"{number:,}" if shown == number else f"{which}: {shown:,} of {number:,}"

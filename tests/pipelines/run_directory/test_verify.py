"""Verify finds every kind of damage, and reports nothing else."""

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.fakes.fake_runs import finished_run
from support.plans import MODEL

from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines import Run
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.run_directory import verify as verifying
from nightpress.pipelines.run_directory.commit import read_commit, shard_path
from nightpress.pipelines.run_directory.verify import (
    Damage,
    Finding,
    _as_recorded,
    _wrong_loras,
    _wrong_values,
    orphan_images,
    verify,
)
from nightpress.pipelines.storage import Store, local


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, [f"picture {i}" for i in range(9)] + ["nan"]))


def findings(run: Run, **options: float) -> list[Finding]:
    return [finding for shard in verify(run, **options) for finding in shard.findings]


def image_path(run: Run, shard: int, row: int) -> Path:
    return Path(run.url, read_commit(run.store, shard).column("file")[row].as_py())


def test_an_untouched_run_is_as_recorded(run: Run) -> None:
    shards = list(verify(run))
    assert [shard.findings for shard in shards] == [(), (), ()]
    assert sum(shard.num_checked for shard in shards) == 9
    assert sum(shard.num_failed for shard in shards) == 1
    assert orphan_images(run) == []


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def repaint(path: Path) -> None:
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("harm", "damage"),
    [
        (Path.unlink, Damage.MISSING),
        (flip_a_bit, Damage.CHANGED),
        (repaint, Damage.CHANGED),
        (lambda path: path.write_bytes(b""), Damage.CHANGED),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), Damage.CHANGED),
    ],
    ids=["missing", "flipped", "repainted", "emptied", "cut"],
)
def test_damage_to_one_image_is_found_and_named(
    run: Run, harm: Callable[[Path], object], damage: Damage
) -> None:
    path = image_path(run, 1, 2)
    harm(path)
    (found,) = findings(run)
    assert (found.damage, found.shard, found.row) == (damage, 1, 2)
    assert found.path == path.relative_to(run.url).as_posix()
    assert "\n" not in str(found)


def test_an_image_whose_embedded_metadata_differs_is_found(run: Run) -> None:
    """Bytes and SHA-256 match the row, but the file is of another image, or not an image."""
    part = read_commit(run.store, 0)
    other = image_path(run, 1, 0).read_bytes()
    image_path(run, 0, 0).write_bytes(other)
    image_path(run, 0, 1).write_bytes(b"no picture")
    rows = part.to_pylist()
    for row, data in ((0, other), (1, b"no picture")):
        rows[row] |= {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    pq.write_table(part.from_pylist(rows, part.schema), Path(run.url, shard_path(0)))
    assert [(found.damage, found.row) for found in findings(run)] == [
        (Damage.FACTS, 0),
        (Damage.UNREADABLE, 1),
    ]


def test_metadata_that_is_not_what_was_planned_is_found(run: Run) -> None:
    part = read_commit(run.store, 0)
    rows = part.to_pylist()
    rows[3]["seed"] += 1
    pq.write_table(part.from_pylist(rows, part.schema), Path(run.url, shard_path(0)))
    pq.write_table(read_commit(run.store, 1).slice(0, 2), Path(run.url, shard_path(1)))
    wrong, short = findings(run)
    assert (wrong.damage, wrong.row) == (Damage.METADATA, None)
    assert "row 3, column seed" in wrong.text
    assert "2 rows, but the plan has 4" in short.text


def test_metadata_that_cannot_be_read_is_found(run: Run) -> None:
    path = Path(run.url, shard_path(1))
    path.write_bytes(path.read_bytes()[:100])
    (found,) = findings(run)
    assert found.damage is Damage.METADATA
    assert "cannot be read" in found.text


def test_a_sample_reads_the_same_share_of_images_each_time(run: Run) -> None:
    def checked(sample: float, seed: int = 0) -> int:
        return sum(shard.num_checked for shard in verify(run, sample, seed))

    assert checked(0.0) == 0
    assert 0 < checked(0.5) < 9
    assert checked(0.5) == checked(0.5)


def test_images_that_no_commit_names_are_orphans(run: Run) -> None:
    Path(run.url, "images/old.png").write_bytes(b"old")
    assert orphan_images(run) == ["images/old.png"]


def test_without_commits_every_image_is_an_orphan(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["nan", "nan too"]))
    assert orphan_images(run) == []
    Path(run.url, "images/b").mkdir(parents=True)
    Path(run.url, "images/b/new.png").write_bytes(b"new")
    Path(run.url, "images/a.png").write_bytes(b"new")
    assert orphan_images(run) == ["images/a.png", "images/b/new.png"]


def test_orphans_are_found_one_page_of_the_listing_at_a_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole run is never listed at once."""
    monkeypatch.setattr(Store, "list", forbid_images)
    monkeypatch.setattr(local, "PAGE_NAMES", 2)
    orphans = [f"images/{name}.png" for name in ("0", "00000003_000", "zzz")]
    for orphan in orphans:
        Path(run.url, orphan).write_bytes(b"")
    assert orphan_images(run) == orphans


def forbid_images(store: Store, folder: str = "") -> dict[str, int]:
    assert folder == "metadata"
    return store._folder.list(folder)


def test_at_most_a_few_shards_are_read_ahead_of_the_caller(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def count(store: Store, shard: int) -> pa.Table:
        reads.append(shard)
        return read_commit(store, 0)

    monkeypatch.setattr(verifying, "read_commit", count)
    monkeypatch.setattr(verifying, "read_shard", lambda *_: read_shard(run.store, layout, 0))
    monkeypatch.setattr(Run, "committed", property(lambda _: list(range(100))))
    layout = run.record.layout
    looked = verify(run)
    for _ in range(10):
        next(looked)
    assert 10 <= len(reads) <= 10 + verifying.SHARDS_AHEAD + 1
    looked.close()


def test_nan_in_a_carried_column_equals_nan_in_the_plan(run: Run) -> None:
    part = read_commit(run.store, 0)
    planned = _as_recorded(read_shard(run.store, run.record.layout, 0), run.record.model)
    scores = pa.array([float("nan"), 1.0, None, 2.0])
    assert _wrong_values(part, planned) is None
    with_scores = [table.append_column("score", scores) for table in (part, planned)]
    assert _wrong_values(*with_scores) is None
    other = planned.append_column("score", pa.array([0.0, 1.0, None, 2.0]))
    assert "row 0, column score: nan" in str(_wrong_values(with_scores[0], other))


def test_an_image_too_large_to_be_opened_is_found(run: Run) -> None:
    """With valid checksums, as anybody who can write to the store could leave it."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + zlib.crc32(name + content).to_bytes(4)
        for name, content in chunks
    )
    image_path(run, 0, 2).write_bytes(bomb)
    rows = (part := read_commit(run.store, 0)).to_pylist()
    rows[2] |= {"sha256": hashlib.sha256(bomb).hexdigest(), "num_bytes": len(bomb)}
    pq.write_table(part.from_pylist(rows, part.schema), Path(run.url, shard_path(0)))
    (found,) = findings(run)
    assert (found.damage, found.row) == (Damage.UNREADABLE, 2)
    assert "more pixels" in found.text


def test_metadata_that_names_other_loras_than_the_plan_is_found() -> None:
    brand, ink = LoraInfo("brand", "b" * 64, 1.0), LoraInfo("ink", "a" * 64, 0.8)
    model = replace(MODEL, loras=(brand,), row_loras=(ink,))
    planned = pa.table({"lora": [None, "ink"], "lora_scale": [None, 0.5]})
    own = [[asdict(brand)], [asdict(brand), asdict(replace(ink, scale=0.5))]]
    assert _wrong_loras(pa.table({"loras": own}), planned, model) is None
    for wrong in ([own[0], own[0]], [own[0], [asdict(brand), asdict(ink)]]):
        found = _wrong_loras(pa.table({"loras": wrong}), planned, model)
        assert found is not None
        assert found.startswith("row 1, column loras: ")
        assert found.endswith("the plan has 'ink' at 0.5")
    assert _wrong_loras(pa.table({"loras": [[], []]}), planned, MODEL) is None

"""Shards of runs that sign, or that embed less: made twice, interrupted, damaged, verified."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes.fake_runs import FakeSampler, finished_run, make_shard, prepare, work_on
from support.signers import Studio

from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.content_credentials.parts import (
    split,
    with_store,
    without_credential,
)
from nightpress.pipelines.image_files.content_credentials.signer import Signer
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.content_credentials.validation import read_credential
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.planning import read_shard, write_plan
from nightpress.pipelines.run_directory.commit import (
    commit_shard,
    failed_rows,
    read_commit,
    shard_path,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.verify import Damage, verify
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store

PROMPTS = ("a red cat", "a blue cat", "a green dog", "a fish", "a bird", "a fox")
FORMATS = ("png", "webp", "jpeg")


@cache
def studio() -> Studio:
    return Studio.new()


def images_of(store: Store, record: RunRecord) -> dict[str, bytes]:
    rows = [
        row
        for shard in range(record.layout.num_shards)
        for row in read_commit(store, shard).to_pylist()
    ]
    return {row["image_id"]: image_bytes(store, row) for row in rows}


def job(kind: str, **provenance: Any) -> dict[str, Any]:
    return {"images": {"format": kind}, "provenance": provenance}


@pytest.mark.parametrize(
    ("kind", "packing"),
    [
        ("png", "none"),
        ("webp", "none"),
        ("jpeg", "none"),
        ("png", "webdataset"),
        ("jpeg", "parquet"),
    ],
)
def test_two_signed_runs_at_other_shard_sizes_have_the_same_bytes(
    tmp_path: Path, kind: str, packing: str
) -> None:
    made = [
        images_of(
            *finished_run(
                tmp_path / str(size), PROMPTS, size, packing, studio().key, **job(kind, **signed())
            )
        )
        for size in (2, 5)
    ]
    assert made[0] == made[1]
    assert len(made[0]) == len(PROMPTS)
    for data in made[0].values():
        assert studio().judged(data, kind).state == "Trusted"


def signed(**values: Any) -> Mapping[str, Any]:
    return studio().job(**values)


def test_a_signed_image_is_the_unsigned_one_and_a_credential(tmp_path: Path) -> None:
    plain = images_of(*finished_run(tmp_path / "plain", PROMPTS))
    with_credentials = images_of(
        *finished_run(tmp_path / "signed", PROMPTS, key=studio().key, provenance=signed())
    )
    assert {name: without_credential(data) for name, data in with_credentials.items()} == plain


class Healthy(FakeSampler):
    """Makes every image, also those that fail elsewhere."""

    def sample(self, *args: Any, **kwargs: Any) -> SampledBatch:
        made = super().sample(*args, **kwargs)
        return replace(made, faults=(None,) * len(made.faults))


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
@pytest.mark.parametrize("embed", ["full", "minimal"])
def test_a_row_that_is_retried_gets_the_bytes_that_it_would_have_had(
    tmp_path: Path, packing: str, embed: str
) -> None:
    prompts, section = (*PROMPTS[:3], "a nan cow"), signed(embed=embed)
    store, record, rows = prepare(tmp_path / "a", prompts, packing=packing, provenance=section)
    make_shard(store, record, rows, FakeSampler(), key=studio().key)
    assert read_commit(store, 0).column("status").to_pylist() == ["ok"] * 3 + ["failed"]
    again = work_on(rows, amends=Amendment(failed_rows(store, 0)), attempt=2)
    make_shard(store, record, rows, Healthy(), again, studio().key)
    other, record_of, rows = prepare(tmp_path / "b", prompts, packing=packing, provenance=section)
    make_shard(other, record_of, rows, Healthy(), key=studio().key)
    retried = images_of(store, record)
    assert len(retried) == len(prompts)
    assert retried == images_of(other, record_of)
    assert findings(store, record) == []


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_stored_is_what_was_signed_and_nothing_is_written_afterwards(
    tmp_path: Path, packing: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_files, sign = list[bytes](), Signer.signed

    def noted(self: Signer, unsigned: bytes, statement: Statement) -> bytes:
        signed_files.append(sign(self, unsigned, statement))
        return signed_files[-1]

    monkeypatch.setattr(Signer, "signed", noted)
    sections = job(kind, **signed())
    store, record = finished_run(tmp_path, PROMPTS, 4, packing, studio().key, **sections)
    stored = images_of(store, record)
    assert sorted(stored.values()) == sorted(signed_files)
    recorded = [
        row["sha256"]
        for shard in range(record.layout.num_shards)
        for row in read_commit(store, shard).to_pylist()
    ]
    assert sorted(recorded) == sorted(hashlib.sha256(data).hexdigest() for data in signed_files)


def test_the_time_of_a_credential_is_when_the_run_began(tmp_path: Path) -> None:
    store, record = finished_run(tmp_path, PROMPTS, key=studio().key, provenance=signed(when="run"))
    for data in images_of(store, record).values():
        credential = read_credential(data)
        assert credential is not None
        assert credential.statement.when == record.created_at.replace("+00:00", "Z")


@pytest.mark.parametrize("kind", FORMATS)
def test_minimal_files_hold_neither_prompt_nor_model_but_the_marking(
    tmp_path: Path, kind: str
) -> None:
    store, record = finished_run(
        tmp_path, PROMPTS, key=studio().key, **job(kind, **signed(embed="minimal"))
    )
    for data in images_of(store, record).values():
        assert read_facts(data) is None
        assert b"trainedAlgorithmicMedia" in without_credential(data)
        for secret in ("cat", "dog", "builtin", "f" * 64, "ddim"):
            for text in (secret.encode(), secret.encode("utf-16-be")):
                assert text not in data


@pytest.mark.parametrize("kind", FORMATS)
def test_files_without_metadata_hold_pixels_only(tmp_path: Path, kind: str) -> None:
    store, record = finished_run(tmp_path, PROMPTS, **job(kind, embed="none"))
    for data in images_of(store, record).values():
        for word in (b"nightpress", b"trainedAlgorithmicMedia", b"xmp", b"Exif", b"tEXt", b"cat"):
            assert word not in data


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("embed", ["full", "minimal", "none"])
@pytest.mark.parametrize("is_signed", [True, False])
def test_an_interrupted_shard_keeps_its_images_whatever_they_tell(
    tmp_path: Path, kind: str, embed: str, is_signed: bool
) -> None:
    section = signed(embed=embed) if is_signed else {"embed": embed}
    key = studio().key if is_signed else None
    store, record, rows = prepare(tmp_path, PROMPTS, **job(kind, **section))
    make_shard(store, record, rows, FakeSampler(), work_on(rows, stop=4, commits=False), key)
    before = {path: store.read(path) for path in store.list("images")}
    assert len(before) == 4
    sampler = FakeSampler()
    make_shard(store, record, rows, sampler, work_on(rows, look_first=True, attempt=2), key)
    part = read_commit(store, 0)
    assert part.column("status").to_pylist() == ["ok"] * 6
    assert {path: store.read(path) for path in before} == before
    made_again = 4 if embed == "none" else 0  # such images cannot be recognised, only compared
    assert len(sampler.seeds) == 2 + made_again
    assert findings(store, record) == []


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("embed", ["full", "minimal", "none"])
def test_a_damaged_copy_of_a_signed_image_is_replaced_by_the_same_image(
    tmp_path: Path, kind: str, embed: str
) -> None:
    store, record, rows = prepare(tmp_path, PROMPTS, **job(kind, **signed(embed=embed)))
    make_shard(store, record, rows, FakeSampler(), work_on(rows, commits=False), studio().key)
    whole = {path: store.read(path) for path in store.list("images")}
    in_credential, in_pixels, cut = sorted(whole)[:3]
    part = split(whole[in_credential])
    assert part is not None
    for path, place in ((in_credential, part.start + part.length // 2), (in_pixels, -40)):
        damaged = bytearray(whole[path])
        damaged[place] ^= 4
        store.put(path, bytes(damaged))
    store.put(cut, whole[cut][:-9])
    again = work_on(rows, look_first=True, attempt=2)
    make_shard(store, record, rows, FakeSampler(), again, studio().key)
    assert {path: store.read(path) for path in whole} == whole
    assert read_commit(store, 0).column("status").to_pylist() == ["ok"] * 6


def test_images_of_another_signer_or_of_none_are_not_adopted(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, PROMPTS[:2], provenance=signed())
    other = Studio.new()
    strange, bare = [row["file"] for row in rows.to_pylist()]
    for place, (path, section, key) in enumerate(
        ((strange, other.job(), other.key), (bare, {}, None))
    ):
        theirs, record_of, their_rows = prepare(
            tmp_path / str(place), PROMPTS[:2], provenance=section
        )
        make_shard(theirs, record_of, their_rows, FakeSampler(), key=key)
        store.create(path, theirs.read(path))
    again = work_on(rows, look_first=True, attempt=2)
    make_shard(store, record, rows, FakeSampler(), again, studio().key)
    part = read_commit(store, 0)
    assert part.column("status").to_pylist() == ["failed", "failed"]
    assert part.column("error_type").to_pylist() == ["NameTaken", "NameTaken"]


@pytest.mark.parametrize("packing", ["webdataset", "parquet"])
@pytest.mark.parametrize("embed", ["full", "minimal", "none"])
def test_a_damaged_pack_of_signed_images_is_made_again_with_the_same_bytes(
    tmp_path: Path, packing: str, embed: str
) -> None:
    section = signed(embed=embed)
    store, record = finished_run(tmp_path, PROMPTS, 10, packing, studio().key, provenance=section)
    whole = images_of(store, record)
    (pack,) = store.list("images")
    data = bytearray(store.read(pack))
    at = read_commit(store, 0).to_pylist()[3]["member_offset"]
    data[at + 60] ^= 1
    store.put(pack, bytes(data))
    assert {finding.damage for finding in verify_all(store, record)} == {Damage.CHANGED}
    rows = read_rows(store, record)
    work = work_on(rows, amends=Amendment(tuple(range(6)), replaces=True))
    make_shard(store, record, rows, FakeSampler(), work, studio().key)
    assert images_of(store, record) == whole
    assert findings(store, record) == []


def read_rows(store: Store, record: RunRecord) -> pa.Table:
    return read_shard(store, record.layout, 0)


def verify_all(store: Store, record: RunRecord) -> list[Any]:
    return [each for shard in verify(Run(store, record)) for each in shard.findings]


def findings(store: Store, record: RunRecord) -> list[str]:
    """Writes the plan if need be, and verifies."""
    list(write_plan(record.spec, record.model, record.layout, store))
    return [str(finding) for finding in verify_all(store, record)]


def forge(store: Store, record: RunRecord, data: Mapping[str, bytes]) -> None:
    """Put other bytes under images' names, and their hashes into the commit."""
    part = read_commit(store, 0)
    values = part.to_pylist()
    for row in values:
        if row["image_id"] in data:
            forged = data[row["image_id"]]
            store.put(row["file"], forged)
            row |= {"sha256": hashlib.sha256(forged).hexdigest(), "num_bytes": len(forged)}
    store.delete(shard_path(0))
    commit_shard(store, 0, pa.Table.from_pylist(values, part.schema))


@pytest.mark.parametrize("kind", FORMATS)
def test_verify_finds_forgeries_that_the_metadata_agrees_with(tmp_path: Path, kind: str) -> None:
    store, record = finished_run(tmp_path, PROMPTS, 10, key=studio().key, **job(kind, **signed()))
    assert findings(store, record) == []
    made = images_of(store, record)
    names = sorted(made)
    parts = {name: split(data) for name, data in made.items()}
    other = Studio.new()
    credential = read_credential(made[names[2]])
    assert credential is not None
    bare = {name: without_credential(made[name]) for name in names}
    swapped = parts[names[1]]
    assert swapped is not None
    forge(
        store,
        record,
        {
            names[0]: with_store(bare[names[0]], swapped.store),
            names[1]: bare[names[1]],
            names[2]: other.sign.signed(bare[names[2]], credential.statement),
            names[3]: studio().sign.signed(bare[names[3]], credential.statement),
        },
    )
    found = {finding.row: finding for finding in verify_all(store, record)}
    assert {finding.damage for finding in found.values()} == {Damage.CREDENTIAL}
    texts = [found[row].text for row in sorted(found)]
    assert len(texts) == 4
    assert "another file's" in texts[0]
    assert "has no credential, but the run signs" in texts[1]
    assert "which is not the run's certificate" in texts[2]
    assert "does not say what the run's credentials say" in texts[3]


def test_a_run_that_signs_makes_nothing_without_the_key(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, PROMPTS, provenance=signed())
    for key in (None, Studio.new().key):
        with pytest.raises(SpecError, match=r"needs a private key|not the key"):
            make_shard(store, record, rows, FakeSampler(), key=key)
    assert not store.list("images")


@pytest.mark.parametrize("embed", ["full", "minimal", "none"])
@pytest.mark.parametrize("packing", ["none", "webdataset"])
def test_signed_draws_that_were_taken_are_found_again_without_a_commit(
    tmp_path: Path, embed: str, packing: str
) -> None:
    gates = {"require": ["exposure > 0.45"], "best_of": 2, "rank_by": "exposure", "max_draws": 8}
    sections = {"provenance": signed(embed=embed), "gates": gates}
    store, record, rows = prepare(tmp_path, PROMPTS, packing=packing, **sections)
    make_shard(store, record, rows, FakeSampler(), key=studio().key)
    part, made = read_commit(store, 0), images_of(store, record)
    assert max(part.column("draw").drop_null().to_pylist()) > 0
    store.put(shard_path(0), b"damaged")
    again = Amendment(tuple(range(len(rows))), recommits=True)
    work = work_on(rows, amends=again, attempt=2, look_first=True)
    make_shard(store, record, rows, sampler := FakeSampler(), work, studio().key)
    assert images_of(store, record) == made
    assert read_commit(store, 0).column("draw").equals(part.column("draw"))
    assert bool(sampler.seeds) == (embed == "none")
    assert findings(store, record) == []

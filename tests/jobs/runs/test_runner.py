"""A whole run: what it leaves, how it is resumed, and what its bits depend on."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from support.run_files import PROMPTS, files_of, hashes, read_metadata
from support.servers import Folder, Server

from nightpress import jobs
from nightpress.jobs.progress.events import Event, Message, Planned
from nightpress.jobs.runs import making
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ChangedRunError, ManifestError, StoreDenied
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.summary_index import SUMMARY_INDEX, summary_index_kept
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_run_leaves_the_image_set_of_the_contract(make_spec: MakeSpec) -> None:
    spec, traces = make_spec(), list[str]()
    result = jobs.run(spec, trace=traces.append)
    root = Path(spec.url)
    assert (result.num_images, result.num_ok, result.num_failed) == (PROMPTS, PROMPTS, 0)
    assert result.num_made == PROMPTS
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {
        "run.json",
        "plan",
        "images",
        "metadata",
        "lease",
        "log",
        "report.html",
    }
    metadata = read_metadata(spec)
    assert metadata.schema.names == [*METADATA_SCHEMA.names, "mood"]
    for row in metadata.to_pylist():
        data = (root / row["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert len(data) == row["num_bytes"]
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
        facts = read_facts(data)
        assert facts is not None
        assert {k: row[k] for k in facts.as_dict()} == facts.as_dict()
        number = int(row["id"])
        assert row["prompt"] == f"a picture of the number {number}"
        assert row["mood"] == f"mood {number}"
        assert row["image_id"] == f"{number:08d}_00"
    assert sum(result.time_shares.values()) == pytest.approx(1.0)
    assert result.time_shares["busy"] > 0
    assert result.time_shares["compiling"] == 0
    assert result.between_batches is not None
    assert 0 < result.between_batches.median_ms <= result.between_batches.p95_ms
    (trace,) = traces
    told = {event["name"] for event in json.loads(trace)["traceEvents"]}
    assert told >= {name for name, share in result.time_shares.items() if share}


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([(1, 3), (64, 1)], id="each once"),
        pytest.param([(1, 1), (7, 3), (64, 3)], id="all", marks=pytest.mark.chaos),
    ],
)
def test_bits_depend_on_neither_shard_size_nor_number_of_actors(
    finished: MakeSpec, others: list[tuple[int, int]]
) -> None:
    runs = [
        finished(
            name=f"shard{shard_size}x{actors}",
            batch={"size": 4, "shard_size": shard_size},
            cluster={"actors": actors},
        )
        for shard_size, actors in others
    ]
    made = hashes(finished())  # in shards of seven, by one actor
    assert len(made) == len(set(made.values())) == PROMPTS
    for spec in runs:
        jobs.run(spec)
        assert hashes(spec) == made


def test_running_a_finished_job_again_changes_no_image_and_no_commit(finished: MakeSpec) -> None:
    spec = finished()
    before = files_of(spec)
    result = jobs.run(spec)
    after = files_of(spec)
    assert result.num_made == 0
    assert result.num_ok == PROMPTS
    for files in (before, after):
        for name in [n for n in files if n == "report.html" or n.startswith(("lease/", "log/"))]:
            del files[name]
    assert after == before


def test_a_resumed_run_makes_only_the_images_that_are_missing(
    finished: MakeSpec,
) -> None:
    spec = finished()
    root, before = Path(spec.url), read_metadata(spec)
    (root / "metadata/shard-00001.parquet").unlink()
    lost = before.to_pylist()[0]
    shard_of = {r["image_id"]: r for r in _plan_rows(root)}
    lost_shard = shard_of[lost["image_id"]]["shard"]
    (root / f"metadata/shard-{lost_shard:05d}.parquet").unlink(missing_ok=True)
    (root / lost["file"]).unlink()

    seen: list[Event] = []
    result = jobs.run(spec, seen.append)

    after = read_metadata(spec)
    again = {lost_shard, 1}
    planned = next(event for event in seen if isinstance(event, Planned))
    expected = sum(row["shard"] not in again for row in shard_of.values())
    assert planned.num_done == expected
    assert result.num_ok == PROMPTS
    sampled = [
        row["image_id"]
        for row in after.to_pylist()
        if shard_of[row["image_id"]]["shard"] in again and row["sampling_s"] is not None
    ]
    assert sampled == [lost["image_id"]]
    same = [n for n in after.schema.names if n not in ("sampling_s", "worker", "started_at")]
    assert after.select(same).equals(before.select(same))


def test_a_run_that_stopped_while_planning_plans_the_rest(finished: MakeSpec) -> None:
    spec = finished()
    plan, before = Path(spec.url) / "plan" / "part-00000.parquet", hashes(spec)
    planned = plan.read_bytes()
    plan.unlink()
    for path in (Path(spec.url) / "metadata").iterdir():
        path.unlink()
    assert jobs.run(spec).num_ok == PROMPTS
    assert plan.read_bytes() == planned
    assert hashes(spec) == before


def _plan_rows(root: Path) -> list[dict[str, object]]:
    import pyarrow.dataset as ds

    rows: list[dict[str, object]] = ds.dataset(root / "plan").to_table().to_pylist()
    return rows


def test_a_changed_job_is_refused_with_what_changed(finished: MakeSpec) -> None:
    spec = finished()
    before = files_of(spec)
    changed = finished(seed=5, batch={"size": 2, "shard_size": 7})
    with pytest.raises(ChangedRunError) as caught:
        jobs.run(changed)
    assert {(c.field, c.old, c.new) for c in caught.value.changes} == {
        ("seed", 0, 5),
        ("batch.size", 4, 2),
    }
    assert files_of(spec) == before


def test_a_changed_manifest_is_refused(finished: MakeSpec) -> None:
    spec = finished()
    with Path(spec.manifests[0]).open("a") as file:
        file.write(json.dumps({"prompt": "one more"}) + "\n")
    with pytest.raises(ChangedRunError, match="manifest"):
        jobs.run(spec)


def test_a_manifest_with_a_new_date_and_the_same_bytes_is_unchanged(finished: MakeSpec) -> None:
    spec = finished()
    manifest = Path(spec.manifests[0])
    manifest.write_bytes(manifest.read_bytes())
    assert jobs.run(spec).num_made == 0


def test_other_weights_under_the_same_name_are_refused(
    make_spec: MakeSpec, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    import safetensors.torch

    own = tmp_path / "model"
    shutil.copytree(tiny_model, own)
    spec = make_spec(model=str(own))
    jobs.run(spec)
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    first = sorted(tensors)[0]
    tensors[first] = tensors[first] + 1e-3
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ChangedRunError, match="model_fingerprint"):
        jobs.run(spec)


def test_a_row_without_finite_pixels_fails_alone(make_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "guidance.csv"
    rows = [f"picture {i},{'3e38' if i == 3 else 3}" for i in range(6)]
    path.write_text("prompt,guidance_scale\n" + "\n".join(rows) + "\n")
    sampling = {"width": 64, "height": 64, "num_inference_steps": 2}
    result = jobs.run(make_spec(manifest=str(path), sampling=sampling))
    assert (result.num_ok, result.num_failed) == (5, 1)
    failed = [r for r in read_metadata(make_spec()).to_pylist() if r["status"] == "failed"]
    assert [r["id"] for r in failed] == ["00000003"]
    assert failed[0]["error_type"] == "NonFinite"
    assert failed[0]["error"] == "its values are not finite"
    assert failed[0]["file"] is None


def test_a_name_that_holds_another_file_is_never_overwritten(make_spec: MakeSpec) -> None:
    spec = make_spec()
    taken = Path(spec.url) / "images" / "00000004_00.png"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"somebody else's")
    result = jobs.run(spec)
    assert (result.num_ok, result.num_failed) == (PROMPTS - 1, 1)
    assert taken.read_bytes() == b"somebody else's"
    failed = [r for r in read_metadata(spec).to_pylist() if r["status"] == "failed"]
    assert [(r["id"], r["error_type"]) for r in failed] == [("00000004", "NameTaken")]


def test_a_bad_manifest_writes_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("prompt,width\na cat,64\n,64\na dog,63\n")
    spec = make_spec(manifest=str(path))
    with pytest.raises(ManifestError) as caught:
        jobs.run(spec)
    assert [(p.row, p.column) for p in caught.value.problems] == [(1, "prompt"), (2, "width")]
    assert not Path(spec.url).exists() or files_of(spec) == {}


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreDenied) as caught:
        jobs.run(make_spec(output=str(tmp_path / "file"), model="no/such/model"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_on_object_storage_equals_the_run_on_a_local_disk(
    finished: MakeSpec, bucket: Folder
) -> None:
    url, storage = bucket.url, bucket.options
    local, remote = finished(), finished(output=url, storage=storage)
    jobs.run(remote)
    run = open_run(remote.url, storage)
    table = run.metadata.to_table().sort_by("image_id")
    sums = dict(
        zip(table.column("image_id").to_pylist(), table.column("sha256").to_pylist(), strict=True)
    )
    assert sums == hashes(local)
    assert run.image("00000005_00").size == (64, 64)
    assert run.progress().complete


def test_a_store_without_create_only_writes_works_with_a_warning(
    make_spec: MakeSpec, rclone_s3: Server
) -> None:
    folder = rclone_s3.folder()
    seen: list[Event] = []
    result = jobs.run(make_spec(output=folder.url, storage=folder.options), seen.append)
    assert result.num_ok == PROMPTS
    warnings = [e.text for e in seen if isinstance(e, Message) and e.warning]
    assert len(warnings) == 1
    assert "If-None-Match" in warnings[0]


def test_a_run_in_progress_keeps_the_totals_of_its_commits_in_the_store(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = partial(summary_index_kept, update_s=0.05)
    monkeypatch.setattr(making, "summary_index_kept", often)
    spec = make_spec()
    store, waited = Store(spec.url), []

    def await_totals(event: Event) -> None:
        if isinstance(event, ShardDone) and not waited:
            end = time.monotonic() + 30
            while store.size(SUMMARY_INDEX) is None and time.monotonic() < end:
                time.sleep(0.05)
            waited.append(store.size(SUMMARY_INDEX))

    jobs.run(spec, await_totals)
    assert len(waited) == 1
    assert waited[0]

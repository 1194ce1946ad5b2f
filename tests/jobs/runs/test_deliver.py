"""Deliveries: the chosen images, checked, resumed, signed, never over another file."""

import hashlib
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support.fakes.fake_runs import finished_run
from support.signers import Studio
from support.time_stamps import time_stamping_authority

from nightpress.jobs import deliver, select
from nightpress.jobs.cli import command
from nightpress.jobs.runs import delivery_choice, delivery_table
from nightpress.pipelines.errors import SelectionNotFound, SpecError, StoreError
from nightpress.pipelines.image_files.client_copies import CopySpec
from nightpress.pipelines.image_files.content_credentials.parts import without_credential
from nightpress.pipelines.image_files.content_credentials.signing_key import KEY
from nightpress.pipelines.image_files.content_credentials.validation import read_credential
from nightpress.pipelines.image_files.copy_signing import CopySigning
from nightpress.pipelines.image_files.encoding import decoded, read_facts
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.run_directory.commit import commit_shard, read_commit, shard_path
from nightpress.pipelines.storage import Store

deliver_module = import_module("nightpress.jobs.runs.deliver")

PROMPTS = ("a red cat", "a blue cat", "a nan dog", "a fish", "a bird")


@cache
def studio() -> Studio:
    return Studio.new()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    store, _ = finished_run(tmp_path / "run", PROMPTS, 2)
    return Path(store.url)


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a certificate whose key is in the environment."""
    monkeypatch.setenv(KEY, studio().signer.key_pem)
    (tmp_path / "chain.pem").write_text(studio().chain)
    return str(tmp_path / "chain.pem")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def nightpress(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)])


def test_a_delivery_maps_each_copy_to_its_image(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    result = nightpress("deliver", run, "--to", tmp_path / "out", "--rights", "(c) Studio")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "1 chosen row failed and left no image",
        f"4 images in {tmp_path}/out",
    ]
    assert contents(run) == before
    rows = pq.read_table(tmp_path / "out/delivered.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [f"0000000{n}_00" for n in (0, 1, 3, 4)]
    for row in rows:
        copy = (tmp_path / "out" / row["file"]).read_bytes()
        master = (run / "images" / row["file"]).read_bytes()
        assert hashlib.sha256(copy).hexdigest() == row["sha256"]
        assert hashlib.sha256(master).hexdigest() == row["master_sha256"]
        assert read_facts(copy) is None
        assert b"(c) Studio" in copy
        assert decoded(copy).tobytes() == decoded(master).tobytes()


@pytest.mark.parametrize("packing", ["webdataset", "parquet"])
def test_images_are_delivered_out_of_packs(tmp_path: Path, packing: str) -> None:
    store, _ = finished_run(tmp_path / "run", PROMPTS, 2, packing)
    done = deliver(store.url, str(tmp_path / "out"))
    assert (done.num_copies, done.num_written, done.num_failed_rows) == (4, 4, 1)
    assert (tmp_path / "out/00000003_00.png").exists()


def test_a_choice_by_ids_condition_or_selection(run: Path, tmp_path: Path) -> None:
    by_ids = deliver(str(run), str(tmp_path / "a"), ids=["00000003_00", "00000001"])
    assert by_ids.num_copies == 2
    by_condition = deliver(str(run), str(tmp_path / "b"), where="prompt like '%cat'")
    assert by_condition.num_copies == 2
    best = select(str(run), "best", by="contrast", where="prompt like '%cat' or prompt = 'a bird'")
    chosen = deliver(str(run), str(tmp_path / "c"), selection="best")
    delivered = pq.read_table(str(chosen.table)).column("image_id").to_pylist()
    assert delivered == best.images.column("image_id").to_pylist()
    for options, reason in (
        ({"ids": ["nobody", "00000001"]}, "no image or row nobody"),
        ({"ids": []}, "ids: no id is given; give ids of images or rows"),
        ({"where": "prompt = 'x'"}, "no image is chosen"),
        ({"where": "prompt = 'x'", "selection": "best"}, "not by two"),
        ({"selection": "../best"}, r"\.\./best"),
        ({"selection": "worst"}, "no selection 'worst'; its selections are: best"),
        ({"ids": ["00000002"]}, "none of the chosen rows has an image"),
    ):
        with pytest.raises((SpecError, SelectionNotFound), match=reason):
            deliver(str(run), str(tmp_path / "d"), **options)  # type: ignore[arg-type]
    assert nightpress("deliver", run, "--to", tmp_path / "d", "--selection", "x").exit_code == 2
    assert not (tmp_path / "d").exists()


def test_an_image_that_was_made_again_since_it_was_selected_is_not_delivered(
    run: Path, tmp_path: Path
) -> None:
    select(str(run), "best", where="prompt like '%cat'")
    store = Store(str(run))
    part = read_commit(store, 0)
    values = part.to_pylist()
    values[1] |= {"sha256": "0" * 64}
    store.delete(shard_path(0))
    commit_shard(store, 0, pa.Table.from_pylist(values, part.schema))
    with pytest.raises(SpecError, match="'00000001_00' is not the one that was selected"):
        deliver(str(run), str(tmp_path / "out"), selection="best")
    store.delete(shard_path(0))
    with pytest.raises(SpecError, match="'00000000_00' is not the one that was selected"):
        deliver(str(run), str(tmp_path / "out"), selection="best")
    assert not (tmp_path / "out").exists()


def test_rows_are_read_some_at_a_time(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = deliver(str(run), str(tmp_path / "a"))
    monkeypatch.setattr(delivery_choice, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(delivery_table, "ROWS_A_CHUNK", 1)
    select(str(run), "all", by="contrast")
    for name, chosen in (("b", {}), ("c", {"selection": "all"}), ("d", {"ids": ["00000001"]})):
        done = deliver(str(run), str(tmp_path / name), **chosen)  # type: ignore[arg-type]
        assert done.num_copies == (1 if name == "d" else whole.num_copies)
        again = deliver(str(run), str(tmp_path / name), **chosen)  # type: ignore[arg-type]
        assert again.num_written == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_delivery_of_an_unfinished_run_says_what_is_not_made_yet(
    run: Path, tmp_path: Path
) -> None:
    Store(str(run)).delete(shard_path(2))
    result = nightpress("deliver", run, "--to", tmp_path / "out")
    assert result.exit_code == 0
    assert "the run is not finished: 1 image not committed yet" in result.stdout.splitlines()
    by_ids = deliver(str(run), str(tmp_path / "ids"), ids=["00000001"])
    assert by_ids.num_uncommitted == 0


def test_another_file_at_the_place_of_the_table_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/delivered.parquet").write_bytes(b"mine")
    result = nightpress("deliver", run, "--to", tmp_path / "out")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "out/delivered.parquet: not the table of a delivery" in line
    assert contents(tmp_path / "out") == {"delivered.parquet": b"mine"}


def test_of_many_findings_the_first_are_named_and_all_are_counted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_module, "MAX_FINDINGS", 2)
    shutil.rmtree(run / "images")
    found = deliver(str(run), str(tmp_path / "out"))
    assert (found.num_findings, len(found.findings), found.is_complete) == (4, 2, False)
    lines = nightpress("deliver", run, "--to", tmp_path / "out").stdout.splitlines()
    assert lines[2] == "... and 2 more"
    assert "not complete: 4 images cannot be copied" in lines[-1]


@pytest.mark.parametrize("is_signed", [False, True])
def test_an_interrupted_delivery_goes_on_and_a_finished_one_stays(
    run: Path, tmp_path: Path, certificate: str, is_signed: bool
) -> None:
    out = tmp_path / "out"
    signing = CopySigning(certificate if is_signed else None)
    deliver(str(run), str(out), signing=signing)
    whole = contents(out)
    (out / "delivered.parquet").unlink()
    (out / "00000003_00.png").unlink()
    again = deliver(str(run), str(out), signing=signing)
    assert (again.num_copies, again.num_written) == (4, 1)
    assert contents(out) == whole
    finished = deliver(str(run), str(out), signing=signing)
    assert (finished.num_copies, finished.num_written) == (4, 0)
    assert contents(out) == whole
    if is_signed:
        for name in whole.keys() - {"delivered.parquet"}:
            assert studio().judged(whole[name], "png").state == "Trusted"
            assert read_credential(whole[name]) is not None


def test_nothing_that_lies_there_is_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "00000004_00.png").write_bytes(b"mine")
    result = nightpress("deliver", run, "--to", out)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "00000004_00.png: another file lies there" in line
    assert contents(out) == {"00000004_00.png": b"mine"}
    shutil.rmtree(out)
    deliver(str(run), str(out))
    whole = contents(out)
    for other in ({"copies": CopySpec(label="AI")}, {"ids": ["00000001_00"]}):
        with pytest.raises(SpecError, match="holds another delivery"):
            deliver(str(run), str(out), **other)  # type: ignore[arg-type]
    assert contents(out) == whole
    for inside in (run, run / "images", run / "clients"):
        with pytest.raises(SpecError, match="lies in the run directory"):
            deliver(str(run), str(inside))


def test_damaged_and_missing_images_are_said_and_the_rest_is_delivered(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = run / "images/00000000_00.png", run / "images/00000001_00.png"
    whole = first.read_bytes(), second.read_bytes()
    first.unlink()
    second.write_bytes(whole[1][:-1] + b"x")
    result = nightpress("deliver", run, "--to", out)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith("00000000_00: images/00000000_00.png is not in the run; nightpress")
    assert lines[1].startswith("00000001_00: images/00000001_00.png is not what the run recorded")
    assert set(contents(out)) == {"00000003_00.png", "00000004_00.png"}
    first.write_bytes(whole[0])
    second.write_bytes(whole[1])
    done = deliver(str(run), str(out))
    assert (done.is_complete, done.num_written) == (True, 2)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the authority is made of openssl")
def test_copies_get_the_time_stamp_of_an_authority(
    run: Path, tmp_path: Path, certificate: str
) -> None:
    out = tmp_path / "out"
    with time_stamping_authority() as tsa:
        signing = CopySigning(certificate, tsa=tsa)
        deliver(str(run), str(out), ids=["00000001_00"], signing=signing)
        (copy,) = (data for name, data in contents(out).items() if name.endswith(".png"))
        judged = studio().judged(copy, "png")
        assert judged.state == "Trusted"
        assert "time" in judged.manifest["signature_info"]
        plain = CopySpec().copy_of((run / "images/00000001_00.png").read_bytes(), ImagesSpec())
        assert without_credential(copy) == plain
        (out / "delivered.parquet").unlink()
        again = deliver(str(run), str(out), ids=["00000001_00"], signing=signing)
        assert again.num_written == 0
    with pytest.raises(StoreError, match="no time stamp from http"):
        deliver(str(run), str(tmp_path / "b"), signing=signing)
    with pytest.raises(SpecError, match="give a certificate too"):
        deliver(str(run), str(tmp_path / "c"), signing=CopySigning(tsa="http://127.0.0.1:1"))


def test_wrong_certificates_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, certificate: str
) -> None:
    other = tmp_path / "other.pem"
    other.write_text(Studio.new().chain)
    wrong = {
        str(tmp_path / "none.pem"): f"error: certificate: {tmp_path}/none.pem: not found",
        str(other): "is not the key of",
        studio().signer.key_pem: "holds a private key",
        "x" * 300: "the path is too long",
    }
    for value, reason in wrong.items():
        result = nightpress("deliver", run, "--to", tmp_path / "out", "--certificate", value)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert reason in line
        assert studio().signer.key_pem.splitlines()[1] not in line
    assert not (tmp_path / "out").exists()


def test_the_address_of_an_authority_is_checked_and_a_password_in_it_never_shown(
    run: Path, tmp_path: Path, certificate: str
) -> None:
    for tsa, reason in (
        ("http://me:secret@tsa", "tsa: the URL must not hold credentials"),
        ("tsa.example", "tsa: 'tsa.example' must be a URL that begins with http:// or https://"),
    ):
        options = ("--to", tmp_path / "out", "--certificate", certificate, "--tsa", tsa)
        result = nightpress("deliver", run, *options)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert reason in line
        assert "secret" not in line
    assert not (tmp_path / "out").exists()


def test_a_warning_says_that_the_names_of_copies_tell_the_prompt(tmp_path: Path) -> None:
    images = {"file_name": "{prompt}-{image_id}.png"}
    store, _ = finished_run(tmp_path / "run", PROMPTS[:2], images=images)
    result = nightpress("deliver", store.url, "--to", tmp_path / "out")
    assert result.exit_code == 0
    assert "warning: the names of the copies tell prompt, as images.file_name of the run is" in (
        " ".join(result.stderr.split())
    )
    plain, _ = finished_run(tmp_path / "plain", PROMPTS[:2])
    assert "warning" not in nightpress("deliver", plain.url, "--to", tmp_path / "b").stderr

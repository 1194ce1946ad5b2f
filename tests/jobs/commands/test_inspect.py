"""`nightpress inspect`: in words and as JSON, of files from anywhere."""

import json
import zlib
from dataclasses import replace
from datetime import timedelta
from functools import cache
from io import BytesIO
from pathlib import Path

import c2pa
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.cat_facts import CAT
from support.drawn_pictures import apple
from support.fakes.fake_runs import finished_run
from support.scored_runs import Scored, begin, made, part
from support.signers import Studio, issue

from nightpress.jobs.cli import command
from nightpress.pipelines.image_files import file_report
from nightpress.pipelines.image_files.content_credentials.parts import (
    split,
    with_store,
    without_credential,
)
from nightpress.pipelines.image_files.content_credentials.signer import Signer
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.provenance_section import SignSpec
from nightpress.pipelines.run_directory.commit import commit_shard
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash

PROMPTS = ("a red cat", "a blue cat", "a fish")


@cache
def studio() -> Studio:
    return Studio.new("ed25519")


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["inspect", *map(str, arguments)])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    sections = {"provenance": studio().job(when="run")}
    store, _ = finished_run(tmp_path, PROMPTS, key=studio().key, **sections)
    return Path(store.url)


def image(run: Path, number: int = 0) -> Path:
    return sorted((run / "images").iterdir())[number]


def test_an_image_in_its_run_is_explained_and_its_credential_checked(run: Path) -> None:
    result = inspect(image(run))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{image(run)}: png 128 x 96, ")
    assert lines[1] == ("digital source type trainedAlgorithmicMedia (AI-generated), by nightpress")
    assert lines[2].startswith("made by nightpress: image 00000000_00, builtin ffffffffffff, seed ")
    assert lines[3:5] == ["prompt: a red cat", "its checksums are right"]
    said = (
        "content credential: valid: made by an AI model, builtin ffffffffffff, titled 00000000_00"
    )
    assert lines[5].startswith(said)
    assert lines[6].startswith("signed by CN=press,O=Studio, certificate sha256 ")
    assert "which expires on 20" in lines[6]
    assert lines[7] == (
        f"run {run}: image 00000000_00 of row 00000000, images/00000000_00.png: "
        "this is the very file"
    )


def test_json_has_all_of_it(run: Path) -> None:
    values = json.loads(inspect(image(run), "--json").stdout)
    assert values["exit_code"] == 0
    assert values["facts"]["prompt"] == "a red cat"
    assert values["credential"]["state"] == "valid"
    assert values["credential"]["statement"]["software"] == "builtin"
    assert values["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    assert "<x:xmpmeta" in values["xmp"]
    assert values["runs"] == [str(run)]
    assert values["origin"]["likeness"] == "file"
    assert values["origin"]["row"]["sha256"] == values["sha256"]
    assert values["wrong_credential"] is None


def test_a_stripped_copy_is_found_by_its_pixels_in_the_run_that_is_named(
    run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.webp"
    Image.open(image(run, 1)).save(copy, lossless=True)
    alone = inspect(copy)
    assert alone.exit_code == 0
    assert "no run was searched; --run URL names one" in alone.stdout
    assert "no content credential" in alone.stdout
    found = inspect(copy, "--run", run)
    assert found.exit_code == 0
    assert "image 00000001_00 of row 00000001" in found.stdout
    assert "the pixels are those of the image; the file is another one" in found.stdout
    assert "prompt: a blue cat" in found.stdout


def test_a_file_that_no_run_made_ends_with_3(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jpg"
    Image.new("RGB", (128, 96), (1, 2, 3)).save(other)
    result = inspect(other, "--run", run)
    assert result.exit_code == 3
    assert f"no image of {run} has its bytes, pixels or metadata" in result.stdout
    assert "no image looks like it" in result.stdout
    assert "no checksums" in result.stdout


def test_forged_credentials_end_with_3_and_say_why(run: Path, tmp_path: Path) -> None:
    one, other = (split(image(run, number).read_bytes()) for number in (0, 1))
    assert one is not None
    assert other is not None
    forged = tmp_path / "forged.png"
    forged.write_bytes(with_store(one.unsigned, other.store))
    result = inspect(forged, "--run", run)
    assert result.exit_code == 3
    assert "content credential: NOT VALID: the file has changed since it was signed" in (
        result.stdout
    )
    assert json.loads(inspect(forged, "--json").stdout)["credential"]["state"] == "invalid"


def test_an_expired_certificate_is_said(tmp_path: Path) -> None:

    lasts = (-timedelta(days=9), -timedelta(days=2))
    expired = issue("old", studio().middle, "ed25519", lasts=lasts)
    sign = SignSpec(certificate=expired.pem + studio().middle.pem, algorithm="ed25519")
    signer = Signer(sign, SigningKey(expired.key_pem.encode()))
    data = encode(np.zeros((8, 8, 3), np.uint8), CAT, ImagesSpec())
    file = tmp_path / "a.png"
    file.write_bytes(signer.signed(data, Statement("nightpress")))
    assert "which expired on 20" in inspect(file).stdout


def test_texts_of_a_file_cannot_draw_on_the_terminal(tmp_path: Path) -> None:

    facts = replace(CAT, prompt="a\x1b[2Jcat\u202e\r\nno content credential" + "x" * 999)
    file = tmp_path / "a.png"
    file.write_bytes(encode(np.zeros((8, 8, 3), np.uint8), facts, ImagesSpec()))
    result = inspect(file)
    for char in ("\x1b", "\u202e", "\r"):
        assert char not in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("prompt: ")]
    assert "cat\ufffd no content credential" in line
    assert len(line) < 330


def test_what_is_no_image_or_no_run_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for arguments in (
        (tmp_path / "a.txt",),
        (tmp_path / "none.png",),
        (image(run), "--run", tmp_path),
    ):
        result = inspect(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1


def test_a_file_without_its_credential_is_still_its_image(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.png"
    bare.write_bytes(without_credential(image(run).read_bytes()))
    found = json.loads(inspect(bare, "--run", run, "--json").stdout)
    assert found["origin"]["likeness"] == "pixels"
    assert found["credential"] is None
    assert BytesIO(bare.read_bytes()).getbuffer().nbytes == found["num_bytes"]


def test_images_that_look_like_a_file_are_listed_by_distance_and_prove_nothing(
    tmp_path: Path,
) -> None:
    pixels = apple("red")
    digits = perceptual_hash(pixels)
    further = f"{int(digits[:16], 16) ^ 7:016x}{digits[16:]}"
    images = [Scored(f"near-{number}", perceptual_hash=further) for number in range(6)]
    images += [Scored("same", perceptual_hash=digits), Scored("old", perceptual_hash=None)]
    run = made(str(tmp_path / "runs"), images)
    copy = tmp_path / "copy.jpg"
    Image.fromarray(pixels).resize((128, 128)).save(copy, quality=60)
    result = inspect(copy, "--run", run.url)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("looks like"))
    assert lines[first - 1] == f"no image of {run.url} has its bytes, pixels or metadata"
    assert lines[first].startswith(
        f"looks like image same_00 of row same of run {run.url}, images/same_00.png: "
    )
    assert lines[first].endswith(" levels of the perceptual hash apart")
    assert lines[first + 5] == "... and 2 more look like it"
    assert lines[first + 6].endswith("it is no proof")
    assert lines[first + 7].startswith(
        "1 image could not be compared by looks, without a perceptual hash; nightpress score"
    )
    values = json.loads(inspect(copy, "--run", run.url, "--json").stdout)
    assert values["exit_code"] == 3
    assert values["origin"] is None
    found = values["lookalikes"]
    assert (found["num_found"], found["num_without_hash"]) == (7, 1)
    assert [each["row"]["id"] for each in found["nearest"][:2]] == ["same", "near-0"]
    assert found["nearest"][0]["bits"] < found["nearest"][1]["bits"]


def test_a_run_that_is_not_finished_is_said(tmp_path: Path) -> None:
    run = begin(str(tmp_path / "runs"), 8)
    commit_shard(run.store, 0, part([Scored("a")]))
    file = tmp_path / "a.png"
    Image.fromarray(apple("green")).save(file)
    result = inspect(file, "--run", run.url)
    assert f"{run.url} is not finished; only the images that it has committed were searched" in (
        result.stdout
    )
    assert json.loads(inspect(file, "--run", run.url, "--json").stdout)["unfinished"] == [run.url]


@pytest.fixture
def by_another(tmp_path: Path) -> Path:
    """A file with a credential by c2pa-python."""
    action = {"action": "c2pa.created", "digitalSourceType": AI_GENERATED}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
    manifest = {"claim_generator_info": [{"name": "nightpress"}], "assertions": [actions]}
    certificate, key = studio().chain.encode(), studio().key.pem
    info = c2pa.C2paSignerInfo(b"ed25519", certificate, key, None)
    unsigned, signed = BytesIO(encode(np.zeros((8, 8, 3), np.uint8), CAT, ImagesSpec())), BytesIO()
    with c2pa.Builder(manifest) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign(signer, "image/png", unsigned, signed)
    file = tmp_path / "other.png"
    file.write_bytes(signed.getvalue())
    return file


def test_the_credential_of_another_program_is_checked_by_c2pa_python(by_another: Path) -> None:
    result = inspect(by_another)
    assert result.exit_code == 0
    first = "content credential: another program wrote its credential; c2pa-python finds it intact"
    assert first in result.stdout.splitlines()
    assert "signed by press, Studio, without a time stamp; whether that signer" in result.stdout
    data = by_another.read_bytes()
    text = b"tEXta\0b"
    chunk = (3).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    by_another.write_bytes(data[:-12] + chunk + data[-12:])
    result = inspect(by_another)
    assert result.exit_code == 3
    assert "NOT VALID: another program wrote its credential, and c2pa-python finds: " in (
        result.stdout
    )
    assert "assertion.dataHash.mismatch" in result.stdout


def test_without_c2pa_python_the_credential_of_another_program_is_said_to_be_unchecked(
    by_another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_report, "can_judge", lambda: False)
    result = inspect(by_another)
    assert result.exit_code == 0
    assert "content credential: not checked: another program wrote its credential; pip install" in (
        result.stdout
    )
    assert json.loads(inspect(by_another, "--json").stdout)["credential"]["state"] == "unchecked"

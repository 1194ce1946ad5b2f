"""What travels with a submitted job."""

from pathlib import Path

import pytest
from support.campaigns import NAME, write_campaign
from support.signers import Studio

from nightpress.jobs.submission.bundle import write_bundle
from nightpress.pipelines.errors import SpecError, StoreMissing
from nightpress.pipelines.image_files.content_credentials.setup import with_certificate
from nightpress.pipelines.image_files.content_credentials.signing_key import KEY_FILE
from nightpress.pipelines.job.spec import RunSpec

TEXT = 'prompt: "__style__ ${p}"\nlists: %s\naxes: {p: {from: p.csv}}\n'
FILES = {"lists__style_DOT_txt": "film\nstudio\n", "campaigns__p_DOT_csv": "sku\na\n"}


def job() -> RunSpec:
    values = {"name": "r", "manifest": f"campaigns/{NAME}", "output": "s3://bucket/runs"}
    return RunSpec.from_dict(values)


def test_the_lists_and_tables_of_a_campaign_travel_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_campaign(tmp_path, "", **FILES)
    write_campaign(tmp_path / "campaigns", TEXT % "../lists")
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "bundle"
    target.mkdir()
    write_bundle(job(), target, ship_package=False)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    expected = {"campaigns/p.csv", "lists/style.txt", f"campaigns/{NAME}", "job.yaml"}
    assert found == expected


def test_a_list_outside_the_folder_of_submit_cannot_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_campaign(tmp_path, "", lists__style_DOT_txt="film\n")
    here = tmp_path / "here"
    write_campaign(here, "", **FILES)
    write_campaign(here / "campaigns", TEXT % "../../lists")
    monkeypatch.chdir(here)
    with pytest.raises(SpecError, match=r"reads .*style\.txt, which is not below"):
        write_bundle(job(), tmp_path, ship_package=False)


def test_a_certificate_travels_as_its_text_and_the_key_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key = Studio.new(), tmp_path / "key.pem"
    (tmp_path / "m.csv").write_text("prompt\na cat\n")
    (tmp_path / "chain.pem").write_text(studio.chain)
    key.write_text(studio.signer.key_pem)
    monkeypatch.setenv(KEY_FILE, str(key))
    monkeypatch.chdir(tmp_path)
    values = {"name": "r", "manifest": "m.csv", "output": "s3://bucket/runs"}
    sign = {"certificate": "chain.pem"}
    spec = RunSpec.from_dict(values | {"provenance": {"sign": sign, "embed": "minimal"}})
    (target := tmp_path / "bundle").mkdir()
    write_bundle(spec, target, ship_package=False)
    assert {path.name for path in target.rglob("*")} == {"job.yaml", "m.csv"}
    sent = RunSpec.from_file(target / "job.yaml")
    assert sent.changes(with_certificate(spec)) == []
    assert "PRIVATE KEY" not in (target / "job.yaml").read_text()
    (tmp_path / "chain.pem").unlink()
    with pytest.raises(StoreMissing, match=r"chain\.pem"):
        write_bundle(spec, target, ship_package=False)

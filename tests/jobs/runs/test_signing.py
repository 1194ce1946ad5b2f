"""Runs that sign: the key reaches the actors and lies in no file; readers trust the images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from click.testing import CliRunner
from support.run_files import PROMPTS, read_metadata
from support.signers import Studio

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ChangedRunError, SpecError
from nightpress.pipelines.image_files.content_credentials.signing_key import KEY, KEY_FILE
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.verify import Damage

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.new()


@pytest.fixture
def key_file(tmp_path: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key of the studio, in a file of this process only; and its certificate beside it."""
    (tmp_path / "chain.pem").write_text(studio.chain)
    (tmp_path / "key.pem").write_text(studio.signer.key_pem)
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "key.pem"))
    return tmp_path / "key.pem"


def images_of(spec: RunSpec) -> dict[str, bytes]:
    root = Path(spec.url)
    return {f"images/{path.name}": path.read_bytes() for path in (root / "images").iterdir()}


def secrets_of(studio: Studio) -> list[bytes]:
    """Lines of the key as text; long enough to be found nowhere by chance."""
    lines = studio.signer.key_pem.encode().splitlines()[1:-1]
    found = [line for line in lines if len(line) > 20]
    assert found
    return found


def holds(folder: Path, secrets: list[bytes]) -> list[str]:
    """Files of a folder that hold one of the secrets."""
    return [
        str(file)
        for file in folder.rglob("*")
        if file.is_file() and any(secret in file.read_bytes() for secret in secrets)
    ]


def test_a_signed_run_is_trusted_verified_reproduced_and_repaired(
    make_spec: MakeSpec, key_file: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = {"certificate": str(key_file.with_name("chain.pem"))}
    spec = make_spec(provenance={"sign": sign, "embed": "minimal"})
    assert jobs.run(spec).num_ok == PROMPTS
    run = open_run(spec.url)
    assert run.spec.provenance.sign is not None
    assert run.spec.provenance.sign.certificate == studio.chain
    made = images_of(spec)
    for data in made.values():
        assert studio.judged(data, "png").state == "Trusted"
    assert jobs.run(spec).num_made == 0

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert holds(session, secrets_of(studio)) == []
    assert holds(Path(spec.url), secrets_of(studio)) == []

    key_file.with_name("chain.pem").unlink()
    first, second, *_ = sorted(made)
    root = Path(spec.url)
    (root / first).unlink()
    damaged = bytearray(made[second])
    damaged[70] ^= 1
    (root / second).write_bytes(damaged)
    found = jobs.verify(spec.url)
    assert {finding.damage for finding in found.findings} == {Damage.MISSING, Damage.CHANGED}
    shown = CliRunner().invoke(command, ["verify", spec.url])
    assert shown.exit_code == 3
    assert "their credentials must be those of CN=press,O=Studio (sha256 " in shown.stdout
    repaired = jobs.verify(spec.url, repair=True).repaired
    assert repaired is not None
    assert (repaired.num_same, repaired.num_different) == (2, 0)
    assert images_of(spec) == made

    others = jobs.again(spec.url, ids=["00000000_00"])
    assert (others.num_ok, others.num_images) == (1, 1)
    new = images_of(spec)["images/00000000_01.png"]
    assert studio.judged(new, "png").state == "Trusted"
    assert jobs.verify(spec.url).is_sound

    monkeypatch.delenv(KEY_FILE)
    again = jobs.reproduce(root / first)
    assert again.comparison.same_file
    assert again.image == made[first]
    with pytest.raises(SpecError, match=KEY):
        jobs.again(spec.url, ids=["00000000_00"])


def test_nothing_is_written_without_the_right_key(
    make_spec: MakeSpec, tmp_path: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(provenance=studio.job())
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.delenv(KEY_FILE, raising=False)
    with pytest.raises(SpecError, match=KEY):
        jobs.run(spec)
    monkeypatch.setenv(KEY, Studio.new().signer.key_pem)
    with pytest.raises(SpecError, match="is not the key of"):
        jobs.run(spec)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"manifest: {spec.manifests[0]}\noutput: {spec.output}\n"
        "provenance: {sign: {certificate: none.pem}}\n"
    )
    for name in ("run", "plan"):
        result = CliRunner().invoke(command, [name, str(job)])
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert "none.pem" in line
    assert not Path(spec.url).exists()


def test_a_run_is_not_resumed_with_another_certificate(
    make_spec: MakeSpec, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(provenance=studio.job(when="run"))
    monkeypatch.setenv(KEY, studio.signer.key_pem)
    jobs.run(spec)
    manifests = [studio.judged(data, "png").manifest for data in images_of(spec).values()]
    dates = {each["assertions"][0]["data"]["actions"][0]["when"] for each in manifests}
    assert dates == {open_run(spec.url).record.created_at.replace("+00:00", "Z")}
    other = Studio.new()
    monkeypatch.setenv(KEY, other.signer.key_pem)
    with pytest.raises(ChangedRunError, match=r"provenance\.sign\.certificate"):
        jobs.run(make_spec(provenance=other.job(when="run")))
    assert jobs.verify(spec.url).is_sound
    assert len(read_metadata(spec)) == PROMPTS

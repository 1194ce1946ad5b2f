"""Scores of the images of one shard, each with the columns of its row."""

import threading
from collections.abc import Mapping
from functools import partial

import pyarrow as pa

from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.manifest.python_values import python_rows
from nightpress.pipelines.records import PLAN_SCHEMA
from nightpress.pipelines.scoring.image_scorer import ImageScorer, ImageScores, Pixels
from nightpress.pipelines.shards.batching import PlannedImage

PROMPTS = ("prompt", "negative_prompt")


class ShardScores:
    """Scores the images of one shard; several threads may share it.

    Args:
        scorer: of this process.
        images: the format of the image files.
        rows: the plan's rows, all of the shard.
    """

    def __init__(self, scorer: ImageScorer, images: ImagesSpec, rows: pa.Table) -> None:
        self._scorer, self._is_lossless, self._rows = scorer, images.is_lossless, rows
        self._columns: Mapping[str, Mapping[str, object]] | None = None
        self._lock = threading.Lock()

    def of_encoded(self, image: PlannedImage, data: bytes, pixels: Pixels) -> ImageScores:
        """The scores of an image file that has just been encoded from these pixels."""
        if self._is_lossless:  # the file would give the same pixels back
            return self._scorer.score(pixels, partial(self._columns_of, image))
        return self.of_file(image, data)

    def of_file(self, image: PlannedImage, data: bytes) -> ImageScores:
        """The scores of an image file.

        Raises:
            ValueError: the file is not an intact image.
        """
        return self._scorer.score_file(data, partial(self._columns_of, image))

    def _columns_of(self, image: PlannedImage) -> Mapping[str, object]:
        """The prompts and the carried columns of an image's row."""
        with self._lock:
            if self._columns is None:
                self._columns = scored_columns(self._rows)
            return self._columns[image.image_id]


def scored_columns(rows: pa.Table) -> dict[str, dict[str, object]]:
    """Image id -> what a scorer sees of its row, for rows of the plan."""
    carried = [name for name in rows.column_names if name not in PLAN_SCHEMA.names]
    seen = python_rows(rows.select([*PROMPTS, *carried]))
    return dict(zip(rows.column("image_id").to_pylist(), seen, strict=True))

"""The pictures of a batch, prepared ahead; an image whose pictures are unusable fails alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightpress.pipelines.errors import InputError
from nightpress.pipelines.inputs.loader import InputLoader
from nightpress.pipelines.inputs.preparing import PreparedInputs, prepare
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batch_sampler import UnsampledImage
from nightpress.pipelines.shards.batching import PlannedImage


@dataclass(frozen=True)
class BatchPictures:
    """The pictures of the images of a batch."""

    prepared: dict[str, PreparedInputs]
    """Image id -> its pictures, for the images that have any."""
    failed: list[UnsampledImage]
    """The images whose pictures cannot be used."""


class BatchInputs:
    """Prepares the pictures of batches for one process."""

    def __init__(self, record: RunRecord) -> None:
        self._spec = record.spec
        self._loader = InputLoader()

    def prefetch(self, images: Sequence[PlannedImage]) -> None:
        """Start to prepare the pictures of a batch, which may be empty, and return at once."""
        for image in images:
            if image.inputs:
                self._loader.prefetch(image.image_id, lambda image=image: self._prepare(image))  # type: ignore[misc]

    def take(self, images: Sequence[PlannedImage]) -> BatchPictures:
        """The pictures of a batch; waits for them.

        Raises:
            StoreError: the store fails.
        """
        self.prefetch(images)
        taken = BatchPictures({}, [])
        for image in images:
            if image.inputs:
                try:
                    taken.prepared[image.image_id] = self._loader.take(
                        image.image_id,
                        lambda image=image: self._prepare(image),  # type: ignore[misc]
                    )
                except InputError as error:
                    kind = FailureType(type(error).__name__)
                    taken.failed.append(UnsampledImage(image, kind, str(error)))
        return taken

    def close(self) -> None:
        """Drop what is not needed any more, and end the threads."""
        self._loader.close()

    def _prepare(self, image: PlannedImage) -> PreparedInputs:
        return prepare(
            image.inputs,
            image.params.conditioning,
            (image.params.width, image.params.height),
            self._spec.inputs,
            self._spec.storage,
        )

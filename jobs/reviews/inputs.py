"""The pictures that an image was made from, as the page shows them beside it."""

import hashlib
from io import BytesIO

from nightpress.jobs.reviews.access import Refused, shown
from nightpress.pipelines.errors import InputError
from nightpress.pipelines.inputs.decoding import Undecodable, decode_colour, limits_of
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.records import PlannedInput
from nightpress.pipelines.review.facts import planned_inputs
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Options


class InputPictures:
    """Reads input pictures of a run; only those whose bytes are still the recorded ones.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        options: Options = {**run.spec.storage, **run.store.options}
        self._reader = InputReader(run.spec.inputs, options, EarlierRuns(run.url, options))

    def png(self, image_id: str, role: str) -> bytes:
        """A picture as a PNG file, whatever its own format is.

        Args:
            image_id: the image that was made from it.
            role: what it was for, such as `init_image`.

        Raises:
            Refused: there is no such picture, or it is not the one that was used.
            StoreError: the store failed.
        """
        recorded = self._recorded_hash(image_id, role)
        planned = self._planned(image_id, role)
        try:
            data = self._reader.read(planned)
            if hashlib.sha256(data).hexdigest() != recorded:
                raise Refused(410, f"{image_id}: {shown(role)} has changed since")
            picture = decode_colour(data, limits_of(self._run.spec.inputs))
        except (InputError, Undecodable) as error:
            raise Refused(410, f"{image_id}: {shown(role)}: {error}") from error
        file = BytesIO()
        picture.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def _recorded_hash(self, image_id: str, role: str) -> str:
        row = self._run.row(image_id)
        for each in (row or {}).get("inputs") or ():
            if each["role"] == role and each["sha256"] is not None:
                return str(each["sha256"])
        raise Refused(404, f"{shown(image_id)} was made from no {shown(role)}")

    def _planned(self, image_id: str, role: str) -> PlannedInput:
        for each in planned_inputs(self._run, image_id):
            if each.role == role:
                return each
        raise Refused(404, f"{shown(image_id)} was planned from no {shown(role)}")

"""What a process must know of the pictures that its run has used before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from nightpress.pipelines.inputs.preparing import Expected, nothing_expected
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.used_inputs import (
    INPUT_FAILURES,
    NOTHING_USED,
    Hashes,
    UsedInputs,
    hashes_of,
    used_by_image,
)


@dataclass(frozen=True)
class InputSession:
    """What the processes of one start of a run share about its pictures."""

    start: str | None = None
    """Names the start; its processes on one node share what they fetch. None for a single one."""
    used: UsedInputs = field(default=NOTHING_USED, repr=False)
    """What earlier starts have used."""


@dataclass(frozen=True)
class InputHistory:
    """The bytes that the pictures of a shard must have."""

    run: UsedInputs = NOTHING_USED
    """What earlier starts have used, in any shard."""
    shard: Hashes = field(default_factory=dict)
    """What the images of this shard that are stored already were made from."""
    images: Mapping[str, Hashes] = field(default_factory=dict)
    """Image id -> what it was made from, for images that are made again."""

    @classmethod
    def of(
        cls, used: UsedInputs, adopted: Iterable[ImageRecord], committed: pa.Table | None
    ) -> "InputHistory":
        """The history of a shard.

        Args:
            used: what earlier starts have used.
            adopted: the images that are stored already.
            committed: the shard's metadata, if it is amended.
        """
        facts = (record.facts for record in adopted if record.status == "ok")
        pairs = ((each.url, each.sha256) for one in facts for each in one.inputs)
        return cls(used, hashes_of(pairs), {} if committed is None else used_by_image(committed))

    def expected(self, image_id: str) -> Expected:
        """What the pictures of an image must be; the strictest of what is known."""
        own = self.images.get(image_id)

        def hashes(url: str) -> Sequence[frozenset[str]]:
            if own is not None and url in own:
                return (own[url],)
            return self.shard.get(url, frozenset()), self.run.hashes(url)

        is_empty = not (own or self.shard or len(self.run.keys))
        return nothing_expected if is_empty else hashes


def kept_rows(
    records: Mapping[int, ImageRecord], committed: pa.Table | None
) -> dict[int, ImageRecord]:
    """The rows that stay in their commit as they are, with the records that must not replace them.

    A row whose pictures cannot be read now, or have changed, was made from others. Its record is
    all that is known of those, so that a later attempt can tell whether they are back.

    Args:
        records: row in the shard -> its new record.
        committed: the shard's metadata; None if they are damaged.
    """
    unusable = {row: each for row, each in records.items() if each.error_type in INPUT_FAILURES}
    if not unusable or committed is None:
        return {}
    before = committed.column("error_type").take(list(unusable)).to_pylist()
    return {
        row: record
        for (row, record), error_type in zip(unusable.items(), before, strict=True)
        if error_type not in INPUT_FAILURES
    }

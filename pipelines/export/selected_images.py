"""The images that a selection of a run holds, in 40 bytes each."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightpress.pipelines.errors import Damaged, SelectionNotFound, SpecError
from nightpress.pipelines.hashing import hash64
from nightpress.pipelines.run_directory.selections.files import (
    chosen_images,
    selection_data,
    selection_path,
)
from nightpress.pipelines.storage import Store

SHA256_BYTES = 32


@dataclass(frozen=True)
class SelectedImages:
    """The images of a selection, by hashes of their ids; one of 10 M images fits into memory."""

    sha256: str
    """SHA-256 of the selection's object, hexadecimal."""
    keys: NDArray[np.uint64]
    """Sorted `hash64` of the image ids; (n,)."""
    digests: NDArray[np.uint8]
    """SHA-256 of the image files, in the order of the keys; (n, 32)."""

    @classmethod
    def read(cls, store: Store, name: str) -> Self:
        """Read the selection of a run.

        Raises:
            SpecError: the run has none of this name.
            Damaged: the object is no selection.
        """
        try:
            data = selection_data(store, name)
        except SelectionNotFound as error:
            raise SpecError(f"select: {error}") from error
        url = f"{store.url}/{selection_path(name)}"
        keys, digests = [np.zeros(0, np.uint64)], [np.zeros((0, SHA256_BYTES), np.uint8)]
        for batch in chosen_images(data, url):
            keys.append(hash64(batch.column("image_id"), 0))
            digests.append(_bytes_of(batch.column("sha256"), url))
        order = np.argsort(np.concatenate(keys))
        return cls(
            sha256(data).hexdigest(), np.concatenate(keys)[order], np.concatenate(digests)[order]
        )

    def wanted(self, image_ids: pa.Array) -> dict[int, str]:
        """Row -> SHA-256 of its image when it was selected, for those of some rows that are in."""
        hashes = hash64(image_ids, 0)
        places = np.searchsorted(self.keys, hashes)
        inside = places < len(self.keys)
        found = np.flatnonzero(inside)
        found = found[self.keys[places[found]] == hashes[found]]
        return {int(row): self.digests[places[row]].tobytes().hex() for row in found}


def _bytes_of(digests: pa.Array, url: str) -> NDArray[np.uint8]:
    """Hashes in hex digits as bytes; (n, 32).

    Raises:
        Damaged: one is no SHA-256.
    """
    try:
        data = bytes.fromhex("".join(digests.to_pylist()))
        return np.frombuffer(data, np.uint8).reshape(len(digests), SHA256_BYTES)
    except (ValueError, TypeError) as error:
        raise Damaged(f"{url}: not a selection: a sha256 is none") from error

"""What the images of an export are called: as in their run, or after their ids alone."""

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.export.spec import Metadata
from nightpress.pipelines.image_files.naming import FOLDER, Field, safe_text
from nightpress.pipelines.image_files.portability import folded, reserved
from nightpress.pipelines.manifest.types import one_chunk

MAX_ID_BYTES = 160
"""A longer id is cut: what layouts add to a name must fit into a file name, too."""

KEPT_CHARS, HASH_DIGITS = 40, 16


def image_names(part: pa.Table, metadata: Metadata) -> list[str]:
    """The file name of each image, as its layout gets it; empty for a row without an image.

    Names in a run may tell prompts, so an export without all metadata has those of the ids.

    Args:
        part: the rows of a commit.
        metadata: how much the export tells.
    """
    stored = pc.coalesce(part.column("member"), part.column("file"))
    names = [(name or "").removeprefix(FOLDER) for name in stored.to_pylist()]
    if metadata == "full":
        return names
    ids = id_names(one_chunk(part.column("image_id").cast(pa.string())))
    return [
        f"{id_}.{name.rpartition('.')[2]}" if name else ""
        for id_, name in zip(ids, names, strict=True)
    ]


def id_names(image_ids: pa.Array) -> list[str]:
    """The ids as names that every file system takes, and keeps apart; (n,).

    A hash tells apart those that are changed for it, and those that differ only in letter case.

    Args:
        image_ids: (n,) different texts.
    """
    safe = safe_text(Field("image_id", ""), image_ids)
    low = folded(safe)
    counts = {each["values"]: each["counts"] for each in pc.value_counts(low).to_pylist()}
    unsafe = (
        pc.not_equal(safe, image_ids).to_numpy(zero_copy_only=False)
        | (pc.binary_length(safe).to_numpy(zero_copy_only=False) > MAX_ID_BYTES)
        | pc.match_substring(safe, "%").to_numpy(zero_copy_only=False)
        | reserved(pc.binary_join_element_wise(FOLDER, safe, ".png", ""))
        | np.array([counts[name] > 1 for name in low.to_pylist()], np.bool_)
    )
    ids, texts = image_ids.to_pylist(), safe.to_pylist()
    return [
        f"{texts[n][:KEPT_CHARS].replace('%', '_')}-{_hash(ids[n])}" if unsafe[n] else texts[n]
        for n in range(len(ids))
    ]


def _hash(image_id: str) -> str:
    return sha256(image_id.encode()).hexdigest()[:HASH_DIGITS]

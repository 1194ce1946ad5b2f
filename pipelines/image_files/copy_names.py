"""Names of copies of images: a template over their columns, of which no two are alike."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.naming import FOLDER, Template, overlong
from nightpress.pipelines.image_files.portability import folded, reserved
from nightpress.pipelines.manifest.types import one_chunk

DEFAULT = "{image_id}"


def copy_names(text: str, table: pa.Table, suffix: str, taken: Mapping[str, str]) -> list[str]:
    """The name of each copy, relative to their folder.

    Args:
        text: a template such as `{product}/{image_id}`; the suffix is added if it is not there.
        table: the columns that it may use, a row for each copy.
        suffix: of the file format, such as `jpg`.
        taken: name -> what has it, of the other files of that folder.

    Raises:
        SpecError: it is no such template, or two files would have one name, or a name is too long.
    """
    types = {name: table.schema.field(name).type for name in table.column_names}
    try:
        template = Template.parse(_with_suffix(text, suffix), types)
    except SpecError as error:
        said = str(error).removeprefix("images.file_name: ")
        said = said.replace("the run's images/ folder", "the folder of the copies")
        raise SpecError(f"names: {said}") from None
    if not len(table):
        return []
    columns = {name: one_chunk(table.column(name)) for name in template.fields}
    names = template.render(columns) if columns else pa.array([f"{FOLDER}{template.text}"])
    if not columns:
        names = pa.repeat(names[0], len(table))
    _require_fitting(names, table)
    _require_different(names, table, taken)
    return [name.removeprefix(FOLDER) for name in names.to_pylist()]


def _with_suffix(text: str, suffix: str) -> str:
    allowed = (".jpg", ".jpeg") if suffix == "jpg" else (f".{suffix}",)
    return text if text.lower().endswith(allowed) else f"{text}.{suffix}"


def _require_fitting(names: pa.Array, table: pa.Table) -> None:
    wrong = overlong(names) | reserved(names)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise SpecError(
            f"names: image {table.column('image_id')[at].as_py()!r} would get the name "
            f"{names[at].as_py().removeprefix(FOLDER)!r}, which is too long or reserved by Windows"
        )


def _require_different(names: pa.Array, table: pa.Table, taken: Mapping[str, str]) -> None:
    others = pa.array([f"{FOLDER}{name}" for name in taken], pa.string())
    low = folded(pa.concat_arrays([names.cast(pa.string()), others])).to_pylist()
    seen = dict(zip(low[len(names) :], taken.values(), strict=True))
    for at, name in enumerate(low[: len(names)]):
        image_id = f"image {table.column('image_id')[at].as_py()}"
        if name in seen:
            raise SpecError(
                f"names: {image_id} and {seen[name]} would both be called "
                f"{names[at].as_py().removeprefix(FOLDER)!r}; a name with {{image_id}} tells "
                "images apart"
            )
        seen[name] = image_id

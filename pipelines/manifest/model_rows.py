"""Reading rows that name one of several models each; what a row may have depends on its model."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.models_section import MODEL, NamedModel, default_model
from nightpress.pipelines.manifest.codes import dictionary_indices
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.row_problems import ProblemsOfSome, RowProblems
from nightpress.pipelines.manifest.row_reader import RowReader
from nightpress.pipelines.manifest.rows import Rows, concat_rows, row_number_ids

UNKNOWN = -1


class ModelRowReader:
    """Checks and converts tables whose rows name their models; picklable, like `RowReader`.

    Args:
        models: those of the job.
        readers: one for each of them.
        columns: what each column is for.
    """

    def __init__(
        self, models: Sequence[NamedModel], readers: Sequence[RowReader], columns: Columns
    ) -> None:
        self._names = tuple(model.name for model in models)
        self._default = default_model(models)
        self._readers = tuple(readers)
        self._columns = columns
        self.loras = tuple(name for reader in readers for name in reader.loras)
        self._lora_offsets = list(accumulate((len(each.loras) for each in readers), initial=0))

    def read(self, table: pa.Table, first_row: int, problems: RowProblems) -> Rows:
        """Check and convert a table; see `RowReader.read`."""
        models = self._models(table, problems)
        known = np.where(models == UNKNOWN, 0, models)
        parts, places = [], []
        for model in np.unique(known).tolist() or [0]:
            indices = np.flatnonzero(known == model)
            some = table.take(pa.array(indices)) if len(indices) < table.num_rows else table
            found = ProblemsOfSome(problems, indices, table.num_rows, models == UNKNOWN)
            parts.append(self._of_model(model, some, found))
            places.append(indices)
        rows = concat_rows(parts)
        if len(parts) > 1:
            rows = rows.take(np.argsort(np.concatenate(places), kind="stable"))
        numbers = np.arange(first_row, first_row + table.num_rows)
        ids = rows.ids if self._columns.has_ids else row_number_ids(first_row, table.num_rows)
        return replace(rows, numbers=numbers, ids=ids)

    def _of_model(self, model: int, table: pa.Table, problems: RowProblems) -> Rows:
        rows = self._readers[model].read(table, 0, problems)
        lora = np.where(rows.lora > 0, rows.lora + self._lora_offsets[model], 0)
        return replace(rows, lora=lora, model=np.full(len(rows), model, np.int64))

    def _models(self, table: pa.Table, problems: RowProblems) -> Ints:
        """The number of each row's model; UNKNOWN where there is none of that name; (n,)."""
        default = UNKNOWN if self._default is None else self._default
        column = self._readers[0].column(MODEL, table, problems)
        if column is None or pa.types.is_null(column.type):
            column = pa.nulls(table.num_rows, pa.string())
        encoded = pc.utf8_trim_whitespace(column).dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        codes = {"": default} | {name: number for number, name in enumerate(self._names)}
        indices = [codes.get(text, UNKNOWN) for text in texts]
        found: Ints = np.array([*indices, default])[dictionary_indices(encoded)]
        problems.add(
            found == UNKNOWN,
            self._columns.manifest_name(MODEL),
            lambda row: self._what_is_wrong(column[row].as_py()),
        )
        return found

    def _what_is_wrong(self, text: str | None) -> str:
        known = ", ".join(self._names)
        name = (text or "").strip()
        if not name:
            return (
                f"the row names no model; choose one of: {known}, or set default: true for one of "
                "models"
            )
        near = get_close_matches(name, self._names, 1, 0.5)
        near = near or [each for each in self._names if each.lower() == name.lower()]
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"the job has no model {name!r}; {hint}its models are: {known}"

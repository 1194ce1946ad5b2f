"""Check the columns of a manifest that condition images: pictures, their scales, and the mode.

Rows with the same conditioning share batches, so it becomes one text a row; see
`Conditioning.as_text`.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from nightpress.diffusion_core.conditioning.spec import TEXT_ALONE, Conditioning
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.numbers import Floats, Ints, numbers
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems
from nightpress.pipelines.manifest.types import one_chunk
from nightpress.pipelines.records import PLAN_SCHEMA

INPUTS_TYPE = PLAN_SCHEMA.field("inputs").type

PICTURES = ("init_image", "mask_image")
"""The settings that name pictures, in the order in which the plan lists them."""

CONDITION_SETTINGS = (*PICTURES, "strength")


@dataclass(frozen=True)
class ConditionReader:
    """Reads the conditioning of rows; picklable."""

    info: ModelInfo
    columns: Columns

    def read(
        self, table: pa.Table, steps: Ints, problems: RowProblems
    ) -> tuple[pa.Array, pa.Array]:
        """The conditioning of each row as text, (n,) string, and its pictures, (n,) list.

        Args:
            table: columns as the file has them.
            steps: (n,) denoising steps of the rows.
            problems: receives what is wrong with the rows.
        """
        num_rows = table.num_rows
        if not any(name in self.columns.settings for name in CONDITION_SETTINGS):
            return pa.nulls(num_rows, pa.string()), pa.nulls(num_rows, INPUTS_TYPE)
        pictures = {name: self._pictures(name, table) for name in PICTURES}
        strength, has_strength = self._strength(table, steps, problems)
        given = {name: _given(values) for name, values in pictures.items()}
        self._check_mode(given, problems)
        texts = [
            self._conditioning(given, strength, has_strength, row).as_text()
            for row in range(num_rows)
        ]
        inputs = [
            [
                {"role": name, "url": pictures[name][row].as_py(), "data": None}
                for name in PICTURES
                if given[name][row]
            ]
            for row in range(num_rows)
        ]
        return pa.array(texts, pa.string()), pa.array(inputs, INPUTS_TYPE)

    def _pictures(self, name: str, table: pa.Table) -> pa.Array:
        column = self.columns.settings.get(name)
        if column is None or column.column not in table.schema.names:
            return pa.nulls(table.num_rows, pa.string())
        return one_chunk(table[column.column])

    def _strength(self, table: pa.Table, steps: Ints, problems: RowProblems) -> tuple[Floats, Mask]:
        column = self.columns.settings.get("strength")
        if column is None or column.column not in table.schema.names:
            return np.zeros(table.num_rows), np.zeros(table.num_rows, np.bool_)
        values, given = numbers(one_chunk(table[column.column]), column.column, problems)
        bad = given & ~((values > 0) & (values <= 1))
        problems.add(bad, column.column, lambda row: f"{values[row]:g} is not above 0 and up to 1")
        few = given & ~bad & ((steps * values).astype(np.int64) < 1)
        problems.add(
            few,
            column.column,
            lambda row: (
                f"{steps[row]} steps at strength {values[row]:g} leave no step to take; use at "
                f"least {1 / steps[row]:.3g}"
            ),
        )
        return values, given

    def _check_mode(self, given: dict[str, Mask], problems: RowProblems) -> None:
        mask_alone = given["mask_image"] & ~given["init_image"]
        name = self.columns.manifest_name("mask_image")
        problems.add(mask_alone, name, lambda row: "a mask needs an init_image")
        if "image" not in self.info.modes:
            name = self.columns.manifest_name("init_image")
            problems.add(
                given["init_image"],
                name,
                lambda row: f"this model has only the modes {', '.join(self.info.modes)}",
            )

    def _conditioning(
        self, given: dict[str, Mask], strength: Floats, has_strength: Mask, row: int
    ) -> Conditioning:
        if not given["init_image"][row]:
            return TEXT_ALONE
        mode = "inpaint" if given["mask_image"][row] else "image"
        made = Conditioning(mode)
        return replace(made, strength=float(strength[row])) if has_strength[row] else made


def _given(values: pa.Array) -> Mask:
    """Where a picture is named; (n,) bool."""
    return np.array([bool(value.as_py()) for value in values], np.bool_)

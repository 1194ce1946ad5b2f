"""Check the columns of a manifest that condition images: pictures, their scales, and the mode.

Rows with the same conditioning share batches, so it becomes one text a row; see
`Conditioning.as_text`. Everything runs on whole columns; what is made in Python is made once for
each distinct combination.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.modes import why_not_editable
from nightpress.pipelines.job.settings import base_setting
from nightpress.pipelines.manifest.adapter_columns import AdapterColumns, AdapterUse
from nightpress.pipelines.manifest.canvas import SIDES, read_canvases
from nightpress.pipelines.manifest.codes import decoded
from nightpress.pipelines.manifest.columns import Columns, is_mixed
from nightpress.pipelines.manifest.conditions_sampling import SampledRows, SamplingChecks
from nightpress.pipelines.manifest.distinct import distinct_rows
from nightpress.pipelines.manifest.input_lists import INPUTS_TYPE, input_lists
from nightpress.pipelines.manifest.modes import (
    CONTROL,
    EDIT,
    GivenPictures,
    edits_images,
    mode_name,
    modes_of_rows,
)
from nightpress.pipelines.manifest.numbers import Floats, Ints, numbers
from nightpress.pipelines.manifest.pictures import PICTURE_SETTINGS, Pictures, read_pictures
from nightpress.pipelines.manifest.refusals import Refusals
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems
from nightpress.pipelines.manifest.scales import read_scales
from nightpress.pipelines.manifest.types import one_chunk

CONDITION_SETTINGS = frozenset(
    {*PICTURE_SETTINGS, "control_scale", "reference_scale", "strength", "canvas"}
)


@dataclass(frozen=True)
class RowSizes:
    """What bounds the conditioning of n rows; (n,) each."""

    width: Ints
    """Pixels of the finished image."""
    height: Ints
    steps: Ints
    """Denoising steps."""
    scheduler: Ints
    """Index of the sampler in `SAMPLER_NAMES`, or -1 if the row names none that the model has."""


class ConditionReader:
    """Reads the conditioning of rows; picklable."""

    def __init__(
        self, info: ModelInfo, columns: Columns, controlnets: Sequence[ControlNetSpec] = ()
    ) -> None:
        self.info = info
        self.sampling = SamplingChecks(info, columns, controlnets)
        self.columns = columns
        self.settings = [
            name for name in columns.settings if base_setting(name) in CONDITION_SETTINGS
        ]
        modes = f"this model has the modes {', '.join(info.modes)}"
        self.controls = AdapterColumns(
            picture="control_image",
            kind="ControlNet",
            key="model.controlnets",
            adapters=info.controlnets,
            lists_are_for_one=False,
            without=f"a control image needs a ControlNet in the job's model.controlnets; {modes}",
        )
        alone = edits_images(info) and not info.references
        self.references = AdapterColumns(
            picture="reference_image",
            kind="IP-Adapter",
            key="model.references",
            adapters=info.references,
            lists_are_for_one=True,
            without=None
            if alone
            else f"a reference needs an IP-Adapter in the job's model.references; {modes}",
        )

    def read(
        self, table: pa.Table, sizes: RowSizes, problems: RowProblems
    ) -> tuple[pa.Array, pa.Array]:
        """The conditioning of each row as text, (n,) string, and its pictures, (n,) list.

        Args:
            table: columns as the file has them.
            sizes: what bounds the conditioning.
            problems: receives what is wrong with the rows.
        """
        names = table.schema.names
        settings = [name for name in self.settings if self.columns.settings[name].column in names]
        if not settings and "text" in self.info.modes:
            num_rows = table.num_rows
            return pa.nulls(num_rows, pa.string()), pa.nulls(num_rows, INPUTS_TYPE)
        refusals = Refusals(problems, table.num_rows)
        return _TableConditions(self, table, sizes, refusals, settings).read()


@dataclass(frozen=True)
class _TableConditions:
    """The conditioning of the n rows of one table."""

    reader: ConditionReader
    table: pa.Table
    sizes: RowSizes
    refusals: Refusals
    settings: Sequence[str]
    """The settings for which the table has a column."""

    def read(self) -> tuple[pa.Array, pa.Array]:
        """The conditioning and the pictures of each row."""
        init, mask, last = map(self._pictures, ("init_image", "mask_image", "last_image"))
        groups = [
            (each, np.full(len(each), rank, np.int64))
            for rank, some in enumerate((init, mask, last))
            for each in some
        ]
        controls = self._use(self.reader.controls, groups, 3)
        first = 3 + controls.counts.shape[1]
        references = self._use(self.reader.references, groups, first)
        canvas, has_canvas = self._canvas()
        given = GivenPictures(
            self._rows_of(init),
            self._rows_of(mask),
            has_canvas,
            controls.is_used,
            references.is_used,
            self._rows_of(last),
        )
        modes = modes_of_rows(given, self.reader.info, self.reader.columns, self.refusals)
        strength = self._strength(given.init_image, modes)
        self._check_sampling(modes, strength, controls)
        self._check_edited_sizes(modes)
        texts = self._texts(modes, strength, canvas, controls, references)
        return texts, input_lists(groups, self.table.num_rows)

    def _named(self, kind: str) -> list[str]:
        """The settings of a kind: `control_image`, `control_image.depth`."""
        return [name for name in self.settings if base_setting(name) == kind]

    def _values(self, setting: str) -> pa.Array:
        """A setting's column with codes replaced by their meanings."""
        column = self.reader.columns.settings[setting]
        values = one_chunk(self.table[column.column])
        return decoded(values, column, self.refusals.problems) if column.values else values

    def _column(self, setting: str) -> str:
        return self.reader.columns.manifest_name(setting)

    def _pictures(self, kind: str) -> list[Pictures]:
        columns = self.reader.columns.settings
        return [
            read_pictures(
                name,
                self._column(name),
                self._values(name),
                is_mixed(self.table.schema, columns[name]),
                self.refusals,
            )
            for name in self._named(kind)
        ]

    def _rows_of(self, pictures: Sequence[Pictures]) -> Mask:
        """Where a picture is named; (n,) bool."""
        given = np.zeros(self.table.num_rows, np.bool_)
        for each in pictures:
            given[each.rows] = True
        return given

    def _use(
        self, columns: AdapterColumns, groups: list[tuple[Pictures, Ints]], first_rank: int
    ) -> AdapterUse:
        """Which adapters the rows use; adds their pictures to `groups`, ranked by adapter."""
        pictures = self._pictures(columns.picture)
        indices = [columns.indices(each, self.refusals) for each in pictures]
        counts = columns.counts(pictures, indices, self.refusals, self.table.num_rows)
        groups += [(each, first_rank + of) for each, of in zip(pictures, indices, strict=True)]
        scales = [
            read_scales(name, self._column(name), self._values(name), self.refusals)
            for name in self._named(columns.picture.replace("image", "scale"))
        ]
        return columns.use(counts, scales, self.refusals)

    def _canvas(self) -> tuple[Ints, Mask]:
        num_rows = self.table.num_rows
        if "canvas" not in self.settings:
            return np.zeros((num_rows, SIDES), np.int64), np.zeros(num_rows, np.bool_)
        return read_canvases(
            self._values("canvas"),
            self._column("canvas"),
            (self.sizes.width, self.sizes.height),
            self.reader.info.size_multiple,
            self.refusals,
        )

    def _strength(self, has_image: Mask, modes: Ints) -> Floats:
        """The strength of each row, (n,); NaN where none is given."""
        name, num_rows = self._column("strength"), self.table.num_rows
        values, given = np.zeros(num_rows), np.zeros(num_rows, np.bool_)
        if "strength" in self.settings:
            values, given = numbers(self._values("strength"), name, self.refusals.problems)
        in_range = (values > 0) & (values <= 1)
        for bad, message in (
            (~in_range, "{:g} is not above 0 and at most 1"),
            (~has_image, "the strength is {:g}, but the row has no init_image"),
            (modes % CONTROL == EDIT, "this model edits the init_image, and takes no strength"),
            (
                np.full(num_rows, self.reader.info.clips is not None),
                "the init_image is the first frame of the clip, and takes no strength",
            ),
        ):
            self.refusals.add(
                given & bad,
                name,
                lambda row, message=message: message.format(values[row]),  # type: ignore[misc]
            )
        return np.where(given & in_range, values, np.nan)

    def _check_sampling(self, modes: Ints, strength: Floats, controls: AdapterUse) -> None:
        """Refuse rows that diffusers would not sample, or without what they ask for."""
        checks, sizes = self.reader.sampling, self.sizes
        taken = np.where(np.isnan(strength), checks.default_strengths(modes), strength)
        rows = SampledRows(modes, taken, sizes.steps, sizes.scheduler, controls.counts > 0)
        checks.check(rows, self.refusals)

    def _check_edited_sizes(self, modes: Ints) -> None:
        """Refuse rows whose init_image, at the size of the row, the model does not edit."""
        edited = modes % CONTROL == EDIT
        if not edited.any():
            return
        width, height = self.sizes.width, self.sizes.height
        codes, firsts = distinct_rows([width, height])
        pipeline = self.reader.info.pipeline
        reasons = [
            why_not_editable(pipeline, int(width[row]), int(height[row])) for row in firsts.tolist()
        ]
        bad = np.array([reason is not None for reason in reasons], np.bool_)[codes]
        self.refusals.add(
            edited & bad,
            self._column("width"),
            lambda row: f"the init_image would have {reasons[codes[row]]}",
        )

    def _texts(
        self,
        modes: Ints,
        strength: Floats,
        canvas: Ints,
        controls: AdapterUse,
        references: AdapterUse,
    ) -> pa.Array:
        """`Conditioning.as_text` of each row; (n,) string."""
        columns = [modes, strength, *canvas.T]
        for use in (controls, references):
            columns += [*use.counts.T, *use.scales.T]
        codes, firsts = distinct_rows(columns)
        texts = [
            Conditioning(
                mode=mode_name(int(modes[row])),
                strength=None if np.isnan(strength[row]) else float(strength[row]),
                canvas=tuple(canvas[row].tolist()) if canvas[row].any() else None,
                controls=self.reader.controls.used_names(controls, row),
                control_scales=self.reader.controls.used_scales(controls, row),
                adapters=self.reader.references.used_names(references, row),
                num_references=tuple(count for count in references.counts[row].tolist() if count),
                reference_scales=self.reader.references.used_scales(references, row),
            ).as_text()
            for row in firsts.tolist()
        ]
        return pc.take(pa.array(texts, pa.string()), pa.array(codes))

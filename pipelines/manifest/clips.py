"""Check the columns of a manifest that make clips: frames, frame rate, and where a walk ends."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.clip_rules import ClipRules
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.job.images_section import DEFAULT_FPS, MAX_FPS
from nightpress.pipelines.job.sections import MAX_FRAMES
from nightpress.pipelines.job.spec import MAX_SEED, RunSpec
from nightpress.pipelines.manifest.codes import decoded
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.numbers import Floats, Ints, numbers, whole_numbers
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems
from nightpress.pipelines.manifest.types import one_chunk
from nightpress.pipelines.records import CLIP_TYPE

LEAST_WALK = 2
"""Frames of the shortest walk: a start and an end."""

WALK_COLUMNS = ("to_prompt", "to_seed")
CLIP_SETTINGS = ("num_frames", "fps", *WALK_COLUMNS)


def makes_clips(spec: RunSpec, info: ModelInfo, settings: Collection[str]) -> bool:
    """Whether a job makes clips; then every row is one.

    Args:
        settings: those for which the manifest has a column.
    """
    asked = spec.sampling.num_frames is not None or spec.images.format == "mp4"
    of_model = info.clips is not None
    return of_model or asked or any(name in settings for name in CLIP_SETTINGS)


@dataclass(frozen=True)
class ClipReader:
    """Reads how the images of rows move; picklable."""

    info: ModelInfo
    columns: Columns
    makes_clips: bool
    default_num_frames: int | None
    default_fps: float

    @classmethod
    def of(cls, spec: RunSpec, info: ModelInfo, columns: Columns) -> "ClipReader":
        """The reader of a job's rows."""
        rules, frames = info.clips, spec.sampling.num_frames
        if frames is None and rules is not None:
            frames = rules.default_num_frames
        fps = spec.images.fps or (DEFAULT_FPS if rules is None else rules.default_fps)
        return cls(info, columns, makes_clips(spec, info, columns.settings), frames, float(fps))

    def read(
        self, table: pa.Table, prompts: pa.Array, seeds: pa.Array, problems: RowProblems
    ) -> pa.Array:
        """The clip of each row, (n,) CLIP_TYPE; null where the job makes still images.

        Args:
            table: columns as the file has them.
            prompts, seeds: where each row starts; the seed is null if it is derived.
            problems: receives what is wrong with the rows.
        """
        if not self.makes_clips:
            return pa.nulls(table.num_rows, CLIP_TYPE)
        to_prompts, to_seeds = self._to_prompts(table), self._to_seeds(table, problems)
        walks = np.array(pc.or_(to_prompts.is_valid(), to_seeds.is_valid()), np.bool_)
        stays = pc.and_(_is_same(to_prompts, prompts), _is_same(to_seeds, seeds))
        problems.add(
            walks & np.array(stays, np.bool_),
            self._walk_column,
            lambda row: "the walk ends where it starts, at the row's own prompt and seed",
        )
        frames, fps = self._frames(table, walks, problems), self._fps(table, problems)
        self._check_walks(walks, to_prompts, problems)
        arrays = [
            pa.array(frames.astype(np.int32)),
            pa.array(fps),
            to_prompts,
            to_seeds,
            pa.array(fps, mask=np.full(len(fps), not self._takes_fps)),
        ]
        return pa.StructArray.from_arrays(arrays, fields=list(CLIP_TYPE))

    @property
    def _walk_column(self) -> str:
        """The column that is to blame for a walk that is none."""
        given = (name for name in WALK_COLUMNS if name in self.columns.settings)
        return self.columns.manifest_name(next(given, "num_frames"))

    def _column(self, setting: str, table: pa.Table, problems: RowProblems) -> pa.Array | None:
        """A setting's column with codes replaced by their meanings; None if there is no column."""
        column = self.columns.settings.get(setting)
        if column is None or column.column not in table.schema.names:
            return None
        values = one_chunk(table[column.column])
        return decoded(values, column, problems) if column.values else values

    def _frames(self, table: pa.Table, walks: Mask, problems: RowProblems) -> Ints:
        name = self.columns.manifest_name("num_frames")
        column = self._column("num_frames", table, problems)
        if column is None:
            column = pa.nulls(table.num_rows, pa.int64())
        before = problems.total
        values, given = whole_numbers(column, name, problems)
        is_number = given | (problems.total == before)  # others have their problem already
        if self.default_num_frames is not None:
            values = np.where(given, values, self.default_num_frames)
        else:
            why = "no num_frames given, and neither the job nor the model sets a default"
            problems.add(~given & is_number, name, lambda row: why)
            is_number = given
        if self.info.clips is not None:
            return self._allowed(values, is_number, self.info.clips, name, problems)
        outside = is_number & ((values < 1) | (values > MAX_FRAMES))
        problems.add(
            outside, name, lambda row: f"{values[row]:,} is not between 1 and {MAX_FRAMES:,} frames"
        )
        usable = is_number & ~outside
        problems.add(
            usable & walks & (values < LEAST_WALK),
            name,
            lambda row: f"a walk has {LEAST_WALK} frames or more, its start and its end",
        )
        return np.where(usable, values, 1)

    def _allowed(
        self, values: Ints, is_number: Mask, rules: ClipRules, name: str, problems: RowProblems
    ) -> Ints:
        """Numbers of frames that the model makes as they are; it would round others."""
        reasons = {n: rules.why_not(n) for n in np.unique(values[is_number]).tolist()}
        wrong = [n for n, reason in reasons.items() if reason is not None]
        bad = is_number & np.isin(values, wrong)
        problems.add(bad, name, lambda row: str(reasons[int(values[row])]))
        return np.where(is_number & ~bad, values, rules.default_num_frames)

    @property
    def _takes_fps(self) -> bool:
        """Whether the frames a second are an input of the model."""
        return self.info.clips is not None and self.info.clips.takes_fps

    def _fps(self, table: pa.Table, problems: RowProblems) -> Floats:
        column = self._column("fps", table, problems)
        if column is None:
            return np.full(table.num_rows, self.default_fps)
        name = self.columns.manifest_name("fps")
        values, given = numbers(column, name, problems)
        with np.errstate(invalid="ignore"):
            bad = given & ~((values > 0) & (values <= MAX_FPS))
        problems.add(
            bad, name, lambda row: f"{values[row]:g} is not above 0 and at most {MAX_FPS:g}"
        )
        if self._takes_fps:
            from nightpress.diffusion_core.sampling.clips import why_not_fps  # it imports torch

            rates = np.unique(values[given & ~bad]).tolist()
            reasons = {fps: why_not_fps(self.info.clips, fps) for fps in rates}
            wrong = [fps for fps, reason in reasons.items() if reason is not None]
            problems.add(
                given & np.isin(values, wrong), name, lambda row: str(reasons[float(values[row])])
            )
        return np.where(given & ~bad, values, self.default_fps)

    def _to_prompts(self, table: pa.Table) -> pa.Array:
        column = self._column("to_prompt", table, RowProblems("", 0))
        if column is None or pa.types.is_null(column.type):
            return pa.nulls(table.num_rows, pa.string())
        is_blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
        return pc.if_else(is_blank, None, column)

    def _to_seeds(self, table: pa.Table, problems: RowProblems) -> pa.Array:
        column = self._column("to_seed", table, problems)
        if column is None:
            return pa.nulls(table.num_rows, pa.int64())
        name = self.columns.manifest_name("to_seed")
        values, given = whole_numbers(column, name, problems)
        bad = given & ((values < 0) | (values > MAX_SEED))
        problems.add(bad, name, lambda row: f"{values[row]} is not between 0 and 2^53 - 1")
        return pa.array(values, mask=~given | bad)

    def _check_walks(self, walks: Mask, to_prompts: pa.Array, problems: RowProblems) -> None:
        """Refuse a clip by a model of still images that is no walk, and a walk by another."""
        if self.info.clips is not None:
            has_prompt = np.array(to_prompts.is_valid(), np.bool_)
            for setting, where in (("to_prompt", has_prompt), ("to_seed", walks & ~has_prompt)):
                problems.add(
                    where,
                    self.columns.manifest_name(setting),
                    lambda row: f"{self.info.pipeline} makes clips of its own, and walks nowhere",
                )
            return
        problems.add(
            ~walks,
            self._walk_column,
            lambda row: (
                f"{self.info.pipeline} makes still images, and a clip of one walks to a to_prompt "
                "or a to_seed, which this row lacks; nightpress walk JOB makes such rows"
            ),
        )


def _is_same(ends: pa.Array, starts: pa.Array) -> pa.Array:
    """Where an end is missing, which means that it is the start, or is the start; (n,) bool."""
    return pc.or_(ends.is_null(), pc.fill_null(pc.equal(ends, starts), False))

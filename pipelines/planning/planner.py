"""What planning a job needs to know: its columns, its models, and how files are named."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.pipeline_folder import MULTIPLY_BY_GUIDANCE
from nightpress.pipelines.image_files.naming import SPREAD, Template
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.job_models import JobModel, ModelInfos, job_models
from nightpress.pipelines.manifest.model_rows import ModelRowReader
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.prompt_checks import PromptChecker
from nightpress.pipelines.manifest.row_reader import RowReader
from nightpress.pipelines.manifest.rows import Rows
from nightpress.pipelines.planning.passes import PassPlanner
from nightpress.pipelines.planning.prompt_lengths import estimated_chunks
from nightpress.pipelines.records import PLAN_SCHEMA

NOT_IN_FILE_NAMES = frozenset(
    {"file", "shard", "conditioning", "inputs", "passes", "parent", "clip"}
)
"""Columns of the plan that a file name cannot use: some are decided later, and others are not for
people."""

PER_IMAGE_COLUMNS = frozenset({"image_id", "variant", "seed"})
"""Columns that differ between the images of one row."""


@dataclass(frozen=True)
class ModelPlanner:
    """What planning needs to know about one model."""

    name: str | None
    info: ModelInfo
    prompt_checker: PromptChecker
    checks_negative_prompts: bool
    """Whether the job has a negative prompt for its rows."""
    supports_per_image_guidance: bool
    """Whether images with different guidance scales can share a batch."""
    reads_chunks: bool
    """Whether its prompts are encoded in chunks."""


class Planner:
    """How one job turns rows into images; small and picklable, so any worker can use it."""

    def __init__(self, spec: RunSpec, infos: ModelInfos, columns: Columns) -> None:
        self.spec = spec
        self.columns = columns
        models = job_models(spec, infos)
        self.models = tuple(map(_model_planner, models))
        readers = [RowReader(model.spec, model.info, columns) for model in models]
        self.row_reader = (
            ModelRowReader(spec.models, readers, columns) if spec.models else readers[0]
        )
        types = {SPREAD: pa.string()} | {field.name: field.type for field in PLAN_SCHEMA}
        types |= {column.name: column.type for column in columns.carried}
        allowed = {name: type_ for name, type_ in types.items() if name not in NOT_IN_FILE_NAMES}
        self.template = Template.parse(spec.images.template, allowed)
        multiples = tuple(
            math.lcm(model.info.size_multiple, spec.images.size_multiple) for model in models
        )
        self.passes = PassPlanner(spec.passes, multiples)

    @property
    def infos(self) -> tuple[ModelInfo, ...]:
        """What is known about each model, in the order of the job."""
        return tuple(model.info for model in self.models)

    def model_names(self, rows: Rows) -> pa.Array:
        """The name of each row's model, null in a job with a single one; (n,) string."""
        names = pa.array([model.name for model in self.models], pa.string())
        return pc.take(names, pa.array(rows.model))

    def prompt_lengths(self, rows: Rows) -> Ints | None:
        """What sorts rows by the length of their prompts, if that decides which share batches."""
        if not any(model.reads_chunks for model in self.models):
            return None
        lengths = np.ones(len(rows), np.int64)
        for number, model in enumerate(self.models):
            if model.reads_chunks:
                own = estimated_chunks(rows, model.info.pipeline)
                lengths = np.where(rows.model == number, own, lengths)
        return lengths

    @property
    def named_columns(self) -> Columns:
        """The settings' columns and only those carried columns that file names use."""
        used = (column for column in self.columns.carried if column.name in self.template.fields)
        return replace(self.columns, carried=tuple(used))

    @property
    def names_rows_only(self) -> bool:
        """Whether all images of a row get the same name, because no field tells them apart."""
        return not self.template.fields & PER_IMAGE_COLUMNS

    @property
    def names_are_row_numbers(self) -> bool:
        """Whether file names depend on row numbers alone, so that they are unique and short."""
        only_image_id = self.template.fields - {SPREAD} == {"image_id"}
        return only_image_id and not self.columns.has_ids and not self.named_columns.carried


def _model_planner(model: JobModel) -> ModelPlanner:
    spec, info = model.spec, model.info
    return ModelPlanner(
        model.name,
        info,
        PromptChecker(spec.model.prompts, info.prompts),
        bool(spec.sampling.negative_prompt),
        info.pipeline in MULTIPLY_BY_GUIDANCE and not spec.passes,
        spec.model.prompts.reads_chunks,
    )

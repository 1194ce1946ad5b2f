"""What the templates and axes of a campaign mean for the model and for the names of its images.

Every row is checked by itself, too; this finds what only another draw would show, and says what is
true of all rows once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.axes import Axis
from nightpress.pipelines.campaign.longest import longest_text
from nightpress.pipelines.campaign.rows import CampaignRows
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.naming import Field, Template, safe_text
from nightpress.pipelines.job.models_section import MODEL
from nightpress.pipelines.manifest.campaigns import campaign_rows
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.files import load_table
from nightpress.pipelines.manifest.formats import CAMPAIGN
from nightpress.pipelines.manifest.job_models import JobModel
from nightpress.pipelines.manifest.prompt_checks import PromptChecker

COLUMNS = ("prompt", "negative_prompt")


def check_campaigns(
    models: Sequence[JobModel], template: Template, files: Sequence[ManifestFile]
) -> tuple[ManifestFile, ...]:
    """Refuse templates whose longest text the model would cut; note what file names rewrite.

    Args:
        models: of the job. Of several, a template is checked by those that the axis `model` has,
            each with the values that rules allow it; without that axis only rows are checked.
        template: of the file names.
        files: the manifest's files; those that are no campaigns stay as they are.

    Raises:
        ManifestError: names the template's place in the campaign.
    """
    return tuple(
        _checked(models, template, file) if file.format == CAMPAIGN else file for file in files
    )


def _checked(models: Sequence[JobModel], template: Template, file: ManifestFile) -> ManifestFile:
    rows = campaign_rows(file.url, file.sha256, models[0].spec.storage, load_table)
    if len(models) == 1 or any(axis.name == MODEL for axis in rows.campaign.axes):
        problems = [problem for model in models for problem in _long_texts(rows, model)]
        if problems:
            raise ManifestError(problems)
    return replace(file, notes=(*file.notes, *_rewritten(rows, template)))


def _long_texts(rows: CampaignRows, model: JobModel) -> Iterator[Problem]:
    """A problem for each template whose longest text the model would cut."""
    limits, reading = model.info.prompts, model.spec.model.prompts
    # Pieces of a text with A1111's weights have no length of their own: each row is checked alone.
    if reading.weights == "a1111" or not limits.tokenizers:
        return
    checker = PromptChecker(reading, limits)
    widest = max(limits.tokenizers, key=lambda tokenizer: tokenizer.max_tokens)
    fixed = {} if model.name is None else {MODEL: model.name}
    for column in COLUMNS:
        text = longest_text(rows.campaign, column, widest.count, fixed)
        wrong = None if text is None else checker.length_problem(text)
        if wrong is not None:
            by = "" if model.name is None else f" for the model {model.name}"
            message = f"the longest text that it can draw{by} has {wrong}"
            yield rows.places.problem((column,), message)


def _rewritten(rows: CampaignRows, template: Template) -> Iterator[str]:
    """The values of axes that file names cannot hold as they are."""
    for axis in rows.campaign.axes:
        for name in sorted(template.fields & set(axis.carried)):
            values = pc.cast(axis.carried[name], pa.string())
            written = safe_text(Field(name, ""), values)
            differs = np.flatnonzero(np.array(pc.not_equal(values, written)))
            if len(differs):
                first = int(differs[0])
                what = f"{values[first].as_py()!r} is written {written[first].as_py()!r}"
                others = len(differs) - 1
                more = f", and {plural(others, 'value')} more" if others else ""
                yield f"{_place(rows, axis, first)}: in file names {{{name}}} {what}{more}"


def _place(rows: CampaignRows, axis: Axis, value: int) -> str:
    """Where a value of an axis stands."""
    if axis.table is not None:
        return f"{axis.table.url}, {axis.table.problem(value, None, '').place}"
    place = rows.places.of(("axes", axis.name, value))
    return f"line {place.line}, character {place.character}"

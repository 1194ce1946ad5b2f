"""Campaigns whose templates can draw a prompt that is longer than the model reads.

Every row is checked by itself, too; this finds what only another draw would show.
"""

from collections.abc import Sequence

from nightpress.diffusion_core.models.prompts import PromptLimits
from nightpress.pipelines.campaign.longest import longest_text
from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.campaigns import campaign_rows
from nightpress.pipelines.manifest.files import ManifestFile, load_table
from nightpress.pipelines.manifest.formats import CAMPAIGN
from nightpress.pipelines.manifest.prompt_checks import LENGTH_ALLOWED, length_problem

COLUMNS = ("prompt", "negative_prompt")


def check_longest_prompts(
    spec: RunSpec, limits: PromptLimits, files: Sequence[ManifestFile]
) -> None:
    """Refuse a template whose longest text the model would cut, unless the job allows that.

    Raises:
        ManifestError: names the template's place in the campaign.
    """
    if spec.model.prompts.long != "refuse" or not limits.tokenizers:
        return
    widest = max(limits.tokenizers, key=lambda tokenizer: tokenizer.max_tokens)
    problems = []
    for file in files:
        if file.format != CAMPAIGN:
            continue
        rows = campaign_rows(file.url, file.sha256, spec.storage, load_table)
        for column in COLUMNS:
            text = longest_text(rows.campaign, column, widest.count)
            cut = None if text is None else limits.cut(text)
            if cut is not None:
                message = f"the longest text that it can draw has {length_problem(cut)}"
                problems.append(rows.places.problem((column,), message + LENGTH_ALLOWED))
    if problems:
        raise ManifestError(problems)

"""What a start of a run must know of the pictures that its rows are made from."""

import uuid
from collections.abc import Collection

from nightpress.pipelines.inputs.references import with_absolute_root
from nightpress.pipelines.job.settings import base_setting
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import column_uses
from nightpress.pipelines.manifest.pictures import PICTURE_SETTINGS
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.used_inputs import NOTHING_USED, read_used_inputs
from nightpress.pipelines.shards.input_history import InputSession


def with_input_root(spec: RunSpec, record: RunRecord | None = None) -> RunSpec:
    """The job with an absolute `inputs.root`: actors and tasks have another working folder.

    Args:
        spec: the job.
        record: of the run that it resumes; its root is kept where the job names none.
    """
    begun = None if record is None else record.spec.inputs
    return spec.model_copy(update={"inputs": with_absolute_root(spec.inputs, begun)})


def uses_pictures(spec: RunSpec, layout: PlanLayout) -> bool:
    """Whether the manifest has a column that names pictures."""
    return any(
        base_setting(setting) in PICTURE_SETTINGS
        for use in column_uses(spec, layout.files)
        for setting in use.settings
    )


def input_session(
    run: Run, unreadable: Collection[int] = (), *, resumed: bool = True
) -> InputSession | None:
    """What the actors of a start share about pictures; None for a run without any.

    Args:
        run: as it is when the start begins.
        unreadable: shards whose commits are damaged.
        resumed: whether there were earlier starts.

    Raises:
        StoreError: the store fails, or another commit is damaged.
    """
    if not uses_pictures(run.spec, run.record.layout):
        return None
    used = read_used_inputs(run, unreadable) if resumed else NOTHING_USED
    return InputSession(uuid.uuid4().hex, used)

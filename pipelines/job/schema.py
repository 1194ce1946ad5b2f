"""The JSON Schema of a job file."""

import re
from typing import Any

from nightpress.pipelines.job.night import PLACEHOLDER
from nightpress.pipelines.job.spec import RunSpec


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, for editors.

    A file may leave out `name` but not `manifest`; only Python callers can pass a table instead.
    In a file `{night}` may be part of the name.
    """
    schema = RunSpec.model_json_schema()
    schema["required"] = ["manifest", *(key for key in schema["required"] if key != "name")]
    schema["properties"]["model"] = {
        "anyOf": [{"type": "string"}, schema["properties"]["model"]],
    }
    night = re.escape(PLACEHOLDER)
    schema["properties"]["name"]["pattern"] = (
        f"^([A-Za-z0-9]|{night})([A-Za-z0-9._-]|{night}){{0,127}}$"
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""The job's key `notify`: who is told how a start of the run ended."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightpress.pipelines.job.sections import Section

Ending = Literal["finished", "failed", "stopped"]

ENDINGS: tuple[Ending, ...] = ("finished", "failed", "stopped")


class NotifySpec(Section):
    """A webhook. Its URL is a secret, so it comes from the environment of the driver alone."""

    url_env: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            json_schema_extra={
                "patternErrorMessage": "must be the name of an environment variable: letters from "
                "a to z or A to Z, digits and underscores, and no digit at its beginning"
            },
            description="Name of the environment variable that holds the URL.",
        ),
    ]
    on: Annotated[
        tuple[Ending, ...],
        Field(
            strict=False,
            min_length=1,
            description="finished: every image is made or has failed. stopped: early, and the same "
            "command goes on. failed: anything else. Default: all three.",
        ),
    ] = ENDINGS
    format: Annotated[
        Literal["json", "slack"] | None,
        Field(
            description="json: all that is known, as one object. slack: a line of text, as Slack's "
            "incoming webhooks take it. Default: slack for URLs of hooks.slack.com, else json."
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_word(cls, values: object) -> object:
        """Undo what YAML 1.1 makes of the key `on`: true. Job files are read without that."""
        if isinstance(values, Mapping) and True in values and "on" not in values:
            return {"on" if key is True else key: value for key, value in values.items()}
        return values

    @field_validator("url_env", mode="before")
    @classmethod
    def _no_url(cls, value: object) -> object:
        if isinstance(value, str) and "://" in value:
            raise ValueError(
                "this is a URL, which a job file must not hold; give the name of the environment "
                "variable that holds it, such as SLACK_URL"
            )
        return value

    @field_validator("on")
    @classmethod
    def _once_each(cls, on: tuple[Ending, ...]) -> tuple[Ending, ...]:
        if len(set(on)) < len(on):
            raise ValueError("each of them may be named once")
        return on

"""What a credential states about an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """What a credential says about an image, beside that an AI model has made it."""

    software: str
    """The model, or `nightpress` where the model is not to be named."""
    version: str | None = None
    """Version of the software: the fingerprint of the model."""
    title: str | None = None
    when: str | None = None
    """UTC, `2026-11-28T22:00:00Z`."""

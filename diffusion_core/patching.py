"""Shadowing: one object has another attribute for a while, and its class none the wiser."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["shadowed"]


@contextmanager
def shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Shadow an attribute of one object for a while, over any shadow that it has already."""
    before = {name: vars(owner)[name]} if name in vars(owner) else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before:
            setattr(owner, name, before[name])
        else:
            delattr(owner, name)

"""Shadowing: one object has another method for a while, and its class none the wiser."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["shadowed"]


@contextmanager
def shadowed(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Shadow a method on one object for a while, over any shadow that it has already."""
    before = {name: vars(owner)[name]} if name in vars(owner) else {}
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
        vars(owner).update(before)

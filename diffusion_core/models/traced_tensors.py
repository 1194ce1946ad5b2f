"""Tensors that know from which tensors of a file they were made."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

_NUMBER_IS_READ = ("item", "tolist", "__float__", "__int__")
"""Methods that read the value of a tensor, as a translation reads a layer's alpha."""


class TracedTensor(torch.Tensor):
    """A tensor that knows from which tensors of a file it was made."""

    sources: frozenset[str]
    read: set[str]
    """The tensors of the file whose value was read; all tensors of one file share it."""
    is_of_file = False
    """Whether it is a tensor of the file, unchanged."""

    @classmethod
    def of(cls, value: Any, sources: frozenset[str], read: set[str]) -> "TracedTensor":
        """A copy of a tensor that shares its memory."""
        traced: TracedTensor = value.as_subclass(cls)
        traced.sources, traced.read, traced.is_of_file = sources, read, True
        return traced

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(  # type: ignore[no-untyped-call]
            func, types, args, kwargs or {}
        )
        operands = list(_traced([args, kwargs]))
        sources = sources_of(operands)
        changed = [args[0]] if getattr(func, "__name__", "") == "__setitem__" else []
        for value in _traced([result, changed]):
            value.sources, value.read = sources, operands[0].read
        if getattr(func, "__name__", "") in _NUMBER_IS_READ and operands[0].is_of_file:
            operands[0].read.update(sources)
        return result


def sources_of(values: Any) -> frozenset[str]:
    """The tensors of the file from which those in nested lists, tuples and mappings were made."""
    return frozenset().union(*(getattr(value, "sources", ()) for value in _traced(values)))


def _traced(values: Any) -> Iterator[TracedTensor]:
    """Every traced tensor in nested lists, tuples and mappings."""
    if isinstance(values, TracedTensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _traced(value)
    elif isinstance(values, Mapping):
        yield from _traced(list(values.values()))

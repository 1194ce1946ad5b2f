"""Replacing and reading what lies below the public interfaces of diffusers, torch, peft and ray.

Owns the thread-safe ways to replace a method, and the checks that raise a clear error when an
upgrade has moved something that is patched. Each patch's docstring names the version it was read
against and what it relies on; `READ_AGAINST` lists the versions.
"""

import functools
import importlib
import importlib.metadata
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from nightpress.diffusion_core.errors import IncompatibleLibrary

__all__ = [
    "READ_AGAINST",
    "incompatible",
    "refers_to",
    "require",
    "require_reference",
    "shadow_of",
    "shadowed",
    "with_globals",
]

READ_AGAINST = {
    "diffusers": "0.42.1",
    "peft": "0.21.2",
    "ray": "2.60.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
"""Library -> the version whose internals the patches were read against."""

_LOCK = threading.Lock()
"""Held while a shadow is installed or removed, never during a call."""


@contextmanager
def shadowed(owner: Any, name: str, shadow: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object for the length of a block, in the calling thread only.

    Other threads keep calling the method itself, or their own shadow of it. Shadows of one thread
    nest, and a shadow that calls the method through the object reaches what it shadows.

    Raises:
        IncompatibleLibrary: the object has no such method.
    """
    with _LOCK:
        dispatcher = vars(owner).get(name)
        if not isinstance(dispatcher, _Dispatcher):
            dispatcher = _Dispatcher(owner, name)
            setattr(owner, name, dispatcher)
        dispatcher.num_open += 1
    dispatcher.shadows.append(shadow)
    try:
        yield
    finally:
        dispatcher.shadows.pop()
        with _LOCK:
            dispatcher.num_open -= 1
            if not dispatcher.num_open:
                dispatcher.remove()


def shadow_of(owner: Any, name: str) -> Callable[..., Any] | None:
    """The calling thread's innermost shadow of a method; None where it has none."""
    dispatcher = vars(owner).get(name)
    if not isinstance(dispatcher, _Dispatcher) or not dispatcher.shadows:
        return None
    return dispatcher.shadows[-1]


class _Dispatcher:
    """Takes the place of a method and sends each call to the calling thread's own shadow."""

    def __init__(self, owner: Any, name: str) -> None:
        self.num_open = 0
        """Number of installed shadows, over all threads."""
        self._owner, self._name = owner, name
        self._is_own = name in vars(owner)
        self._method = require(owner, name, "replace it for the length of a call")
        self._threads = threading.local()
        functools.update_wrapper(self, self._method, updated=())  # pipelines read signatures

    @property
    def shadows(self) -> list[Callable[..., Any]]:
        """The calling thread's shadows, the innermost last."""
        shadows: list[Callable[..., Any]] = vars(self._threads).setdefault("shadows", [])
        return shadows

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        shadows = self.shadows
        if not shadows:
            return self._method(*args, **kwargs)
        shadow = shadows.pop()  # while it runs, its own calls reach what is below it
        try:
            return shadow(*args, **kwargs)
        finally:
            shadows.append(shadow)

    def remove(self) -> None:
        """Put back what was there before the first shadow."""
        if vars(self._owner).get(self._name) is not self:
            return  # something else has replaced it since
        if self._is_own:
            setattr(self._owner, self._name, self._method)
        else:
            delattr(self._owner, self._name)


def with_globals(method: Any, purpose: str, **replaced: Any) -> Callable[..., Any]:
    """Copy a bound method so that its code sees other objects under some global names.

    The method's module stays unchanged, so other threads are not affected.

    Args:
        method: a bound method written in Python.
        purpose: completes "nightpress uses it to ..." in an error.
        replaced: global name -> the object that the copy sees.

    Raises:
        IncompatibleLibrary: it is not such a method, or its code does not use one of the names.
    """
    if not isinstance(method, MethodType) or not isinstance(method.__func__, FunctionType):
        raise incompatible(method, f"{_qualified_name(method)} is not a plain method", purpose)
    for name in replaced:
        require_reference(method, name, purpose)
    function = method.__func__
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **replaced},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return MethodType(functools.update_wrapper(copy, function), method.__self__)


def require(owner: Any, name: str, purpose: str) -> Any:
    """Read an attribute that an upgrade of its library might move.

    Args:
        owner: an object, a class, or the name of a module.
        purpose: completes "nightpress uses it to ..." in an error.

    Raises:
        IncompatibleLibrary: there is no such attribute.
    """
    try:
        return getattr(importlib.import_module(owner) if isinstance(owner, str) else owner, name)
    except (AttributeError, ImportError) as error:
        raise incompatible(
            owner, f"there is no {_qualified_name(owner)}.{name}", purpose
        ) from error


def require_reference(function: Any, name: str, purpose: str) -> None:
    """Check that the code of a function still uses a name, so that replacing it has an effect.

    Raises:
        IncompatibleLibrary: it does not.
    """
    if not refers_to(function, name):
        raise incompatible(function, f"{_qualified_name(function)} no longer uses {name}", purpose)


def refers_to(function: Any, name: str) -> bool:
    """Whether the code of a function uses a global, an attribute or a string of that name."""
    return name in _words(inspect.unwrap(function).__code__)


def incompatible(owner: Any, what: str, purpose: str) -> IncompatibleLibrary:
    """The error that says what an upgrade has moved, and which version has it.

    Args:
        owner: what belongs to the library: an object, a class, or the name of a module.
        what: a clause that says what has changed.
        purpose: completes "nightpress uses it to ...".
    """
    library = _library(owner)
    if library not in READ_AGAINST:
        return IncompatibleLibrary(f"{what}; nightpress uses it to {purpose}")
    return IncompatibleLibrary(
        f"{library} {importlib.metadata.version(library)}: {what}; nightpress uses it to "
        f"{purpose} and was written for {library} {READ_AGAINST[library]}"
    )


def _words(code: CodeType) -> set[str]:
    """Every name and string in a code object, including those of inner functions."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    texts = {part for part in code.co_consts if isinstance(part, str)}
    return texts.union(code.co_names, *map(_words, inner))


def _qualified_name(owner: Any) -> str:
    """The qualified name of an object, or of its class, with its module."""
    if isinstance(owner, str):
        return owner
    if isinstance(owner, ModuleType):
        return owner.__name__
    named = owner if hasattr(owner, "__qualname__") else type(owner)
    return f"{named.__module__}.{named.__qualname__}"


def _library(owner: Any) -> str:
    """The library in `READ_AGAINST` that an object, its class or a base class comes from.

    If there is none, the top-level package of the object.
    """
    kind = owner if isinstance(owner, type) else type(owner)
    modules = [_qualified_name(owner), *(base.__module__ for base in kind.__mro__)]
    names = [module.partition(".")[0] for module in modules]
    return next((name for name in names if name in READ_AGAINST), names[0])

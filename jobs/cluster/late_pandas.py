"""pandas is imported by what uses it, and not by pyarrow for its first array.

Where pandas is installed, as many other packages bring it, pyarrow imports it to ask whether what
an array is made of is a column of a frame, which takes about as long as all that a command needs
of its own. No column of a frame exists before pandas is imported, so pyarrow can be told then.

Read against pyarrow 26.0.0. Relies on `pyarrow.lib._pandas_api` looking for pandas when the first
array is made, taking an ImportError for an answer, and looking again when its `pd` is read. Where
it has moved, pyarrow imports pandas as it always does, or does not know the frames of a process
that has them; no process of a run makes arrays of frames.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_pandas_late() -> None:
    """Have pyarrow know pandas once something else has imported it; does so once a process.

    Too late, and without effect, where pyarrow or pandas is imported already.
    """
    is_done = any(isinstance(finder, _Watch) for finder in sys.meta_path)
    if not is_done and not {"pyarrow", "pandas"} & sys.modules.keys():
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Calls a function once a package is imported, and can hide pandas meanwhile."""

    def __init__(self) -> None:
        self._after = {"pyarrow": self._answer, "pandas": self._tell}
        self._is_hidden = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders have, with a call after the package is executed."""
        if name not in self._after:
            return None
        if name == "pandas" and self._is_hidden:
            raise ModuleNotFoundError("pandas is imported by what uses it", name=name)
        others = (each for each in sys.meta_path if each is not self)
        found = (each.find_spec(name, path, target) for each in others)
        spec = next((each for each in found if each is not None), None)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            loader.exec_module = _then(loader.exec_module, self._after[name])
        return spec

    def _answer(self, pyarrow: Any) -> None:
        """Let pyarrow look for pandas now, and find none."""
        if "pandas" in sys.modules:
            return
        self._is_hidden = True
        try:
            pyarrow.array([])
        finally:
            self._is_hidden = False

    def _tell(self, _: ModuleType) -> None:
        """Let pyarrow look for pandas again."""
        api = getattr(getattr(sys.modules.get("pyarrow"), "lib", None), "_pandas_api", None)
        with suppress(ImportError):  # this pandas is too old, which pyarrow says when it is used
            getattr(api, "pd", None)


def _then(
    execute: Callable[[ModuleType], None], after: Callable[[ModuleType], None]
) -> Callable[[ModuleType], None]:
    def execute_and_call(module: ModuleType) -> None:
        execute(module)
        after(module)

    return execute_and_call

"""A store in memory that can fail at any operation, and run another process's work before it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum, auto

from nightpress.pipelines.errors import StoreError, StoreMissing
from nightpress.pipelines.storage import Store


class Moment(Enum):
    """When an operation fails."""

    BEFORE = auto()
    """Before it has any effect."""
    AFTER = auto()
    """After it took effect, so that the caller cannot know the result."""


class MemoryFolder:
    """The operations of `Store` on a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures: dict[int, Moment] = {}
        """Which of the coming operations fail; 0 is the next one."""
        self.meanwhile: dict[int, Callable[[], None]] = {}
        """What other processes do while the caller sleeps before one of the coming operations."""

    def create(self, path: str, data: bytes) -> bool:
        """Behave like a store that honours `If-None-Match`."""
        with self._operation():
            taken = path in self.objects
            if not taken:
                self.objects[path] = data
        return not taken

    def put(self, path: str, data: bytes) -> None:
        with self._operation():
            self.objects[path] = data

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        with self._operation():
            if path not in self.objects:
                raise StoreMissing(f"memory: {path}: not there")
            same = self.objects[path] == seen
            if same:
                self.objects[path] = data
            return same

    def read(self, path: str) -> bytes:
        with self._operation():
            if path not in self.objects:
                raise StoreMissing(f"memory: {path}: not there")
            return self.objects[path]

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        return self.read(path)[start : start + num_bytes]

    def size(self, path: str) -> int | None:
        with self._operation():
            return len(self.objects[path]) if path in self.objects else None

    def list(self, folder: str) -> dict[str, int]:
        with self._operation():
            below = f"{folder}/" if folder else ""
            found = {p: len(d) for p, d in self.objects.items() if p.startswith(below)}
            return dict(sorted(found.items()))

    def pages(self, folder: str) -> Iterator[dict[str, int]]:
        yield self.list(folder)

    def present(self, paths: Sequence[str]) -> set[str]:
        with self._operation():
            return {path for path in paths if path in self.objects}

    def delete(self, path: str) -> None:
        with self._operation():
            self.objects.pop(path, None)

    def _operation(self) -> "AbstractContextManager[None]":
        others = self.meanwhile.pop(0, None)
        self.meanwhile = {place - 1: each for place, each in self.meanwhile.items()}
        if others is not None:
            failures, self.failures = self.failures, {}
            others()
            self.failures = failures
        moment = self.failures.pop(0, None)
        self.failures = {place - 1: each for place, each in self.failures.items()}
        if moment is Moment.BEFORE:
            raise StoreError("memory: not done")
        return _FailsAfter() if moment is Moment.AFTER else nullcontext()


class _FailsAfter(AbstractContextManager[None]):
    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            raise StoreError("memory: done, but the answer is lost")


class MemoryStore(Store):
    """A store on a `MemoryFolder`."""

    def __init__(self, folder: MemoryFolder) -> None:
        super().__init__("/in/memory")
        self._folder = folder  # type: ignore[assignment]

"""The processes of a node compile one at a time."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nightpress.diffusion_core.acceleration.compilation import CACHE_VARIABLE
from nightpress.diffusion_core.acceleration.compile_lock import (
    LOCK_FILE,
    NodeLock,
    one_process_at_a_time,
)

TRY = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(1)
"""


def another_process_may_compile(file: Path) -> bool:
    """Whether another process gets the lock at once."""
    return subprocess.run([sys.executable, "-S", "-c", TRY, str(file)], check=False).returncode == 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield tmp_path / "inductor"
    torch._dynamo.reset()


def compiled(backend: Callable[..., Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.compile(torch.nn.Linear(4, 4), backend=backend, dynamic=False)  # type: ignore[return-value, call-overload]


def test_a_lock_that_is_held_keeps_other_processes_out_until_it_is_released(
    tmp_path: Path,
) -> None:
    file = tmp_path / "lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    lock = NodeLock(descriptor)
    assert another_process_may_compile(file)
    lock.acquire()
    assert not another_process_may_compile(file)
    lock.acquire()  # another thread of this process does not wait for it
    lock.release()
    assert another_process_may_compile(file)
    os.close(descriptor)


def test_it_is_held_while_torch_compiles_and_not_afterwards(cache: Path) -> None:
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        seen.append(another_process_may_compile(cache / LOCK_FILE))
        return graph.forward

    with one_process_at_a_time():
        compiled(backend)(torch.zeros(2, 4))
        assert seen == [False]
        assert another_process_may_compile(cache / LOCK_FILE)


def test_a_folder_that_cannot_be_locked_is_used_without_a_lock(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / LOCK_FILE).mkdir(parents=True)
    with one_process_at_a_time():
        result = compiled("eager")(torch.zeros(2, 4))  # type: ignore[arg-type]
    assert result.shape == (2, 4)
    monkeypatch.delenv(CACHE_VARIABLE)
    with one_process_at_a_time():
        assert compiled("eager")(torch.zeros(3, 4)).shape == (3, 4)  # type: ignore[arg-type]

"""When torch compiles is told, to those who ask, for as long as they ask."""

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from torch._dynamo.callback import callback_handler

from nightpress.diffusion_core.acceleration.compilation import on_compilation


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(backend: object = "eager") -> torch.nn.Module:
    return torch.compile(torch.nn.Linear(4, 4), backend=backend, dynamic=False)  # type: ignore[return-value, call-overload]


def test_each_shape_is_told_once_and_a_shape_that_is_known_is_not() -> None:
    told: list[str] = []
    compiled = network()
    for rows, heard in ((2, ["begins", "ends"]), (2, []), (3, ["begins", "ends"]), (2, [])):
        told.clear()
        with on_compilation(lambda: told.append("begins"), lambda: told.append("ends")):
            compiled(torch.zeros(rows, 4))
        assert told == heard


def test_the_end_is_told_though_the_compiler_fails() -> None:
    told: list[str] = []

    def failing(*_: object) -> None:
        raise ValueError("no such operation")

    compiled = network(failing)
    with (
        on_compilation(lambda: told.append("begins"), lambda: told.append("ends")),
        pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="no such operation"),
    ):
        compiled(torch.zeros(2, 4))
    assert told == ["begins", "ends"]


def test_nobody_is_told_any_more_afterwards_even_if_torch_has_forgotten_him() -> None:
    before = len(callback_handler.start_callbacks), len(callback_handler.end_callbacks)
    told: list[str] = []
    for forgets in (False, True):
        with on_compilation(lambda: told.append("begins"), lambda: told.append("ends")):
            if forgets:
                torch._dynamo.reset()
    network()(torch.zeros(2, 4))
    assert told == []
    assert (len(callback_handler.start_callbacks), len(callback_handler.end_callbacks)) == before

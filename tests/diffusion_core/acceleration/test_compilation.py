"""Callbacks are called when torch compiles, for the length of a block."""

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


def test_callbacks_are_called_once_for_each_new_shape() -> None:
    events: list[str] = []
    compiled = network()
    for rows, expected in ((2, ["begin", "end"]), (2, []), (3, ["begin", "end"]), (2, [])):
        events.clear()
        with on_compilation(lambda: events.append("begin"), lambda: events.append("end")):
            compiled(torch.zeros(rows, 4))
        assert events == expected


def test_the_end_is_reported_even_if_the_compiler_fails() -> None:
    events: list[str] = []

    def failing(*_: object) -> None:
        raise ValueError("no such operation")

    compiled = network(failing)
    with (
        on_compilation(lambda: events.append("begin"), lambda: events.append("end")),
        pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="no such operation"),
    ):
        compiled(torch.zeros(2, 4))
    assert events == ["begin", "end"]


def test_callbacks_are_removed_afterwards_even_after_a_reset_of_torch() -> None:
    before = len(callback_handler.start_callbacks), len(callback_handler.end_callbacks)
    events: list[str] = []
    for forgets in (False, True):
        with on_compilation(lambda: events.append("begin"), lambda: events.append("end")):
            if forgets:
                torch._dynamo.reset()
    network()(torch.zeros(2, 4))
    assert events == []
    assert (len(callback_handler.start_callbacks), len(callback_handler.end_callbacks)) == before

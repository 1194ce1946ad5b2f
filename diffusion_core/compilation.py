"""When torch compiles, told to whoever asks.

What is compiled is `diffusion_core.acceleration`'s choice.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def compilation_told(begins: Callable[[], None], ends: Callable[[], None]) -> Iterator[None]:
    """While it lasts, call `begins` when torch begins to compile, and `ends` when it goes on.

    They are called in the thread that compiles, with torch's lock held, so they must be brief.
    Whatever this process compiles is told, be it found on disk.
    """
    from torch._dynamo.callback import callback_handler

    def begun(*_: Any) -> None:
        begins()

    def ended(*_: Any) -> None:
        ends()

    callback_handler.register_start_callback(begun)
    callback_handler.register_end_callback(ended)
    try:
        yield
    finally:
        if begun in callback_handler.start_callbacks:  # `torch._dynamo.reset` forgets them, too
            callback_handler.remove_start_callback(begun)
        if ended in callback_handler.end_callbacks:
            callback_handler.remove_end_callback(ended)

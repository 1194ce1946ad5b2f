"""What torch needs to compile, when it does, told to whoever asks, and where its work is kept.

What is compiled is `diffusion_core.acceleration.apply`'s choice.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import SettingsError

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def require_compiler() -> None:
    """See that this machine has what torch.compile needs.

    Raises:
        SettingsError: a compiler is missing.
    """
    import torch

    if torch.cuda.is_available():
        _require_triton()
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise SettingsError("on a CPU torch.compile needs a C++ compiler, such as g++") from error


def _require_triton() -> None:
    """Triton compiles what starts its kernels, with the machine's own C compiler."""
    from torch.utils._triton import has_triton

    if not has_triton():
        raise SettingsError("on a GPU torch.compile needs Triton, and there is none for this one")
    if not ("CC" in os.environ or shutil.which("gcc") or shutil.which("clang")):
        raise SettingsError("on a GPU torch.compile needs a C compiler, such as gcc")


def keep_compiled_code() -> None:
    """Keep compiled code in the user's cache folder, unless `TORCHINDUCTOR_CACHE_DIR` says where.

    torch, once imported, sets that variable to a temporary folder itself; that is nobody's choice.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(FOLDER) in (None, default_cache_dir()):
        os.environ[FOLDER] = str(cache_folder() / "inductor")


def remove_damaged_code(error: BaseException | None) -> bool:
    """Remove a library that a process left half-written when it was ended while it compiled.

    torch takes it for finished, for ever after.

    Args:
        error: what torch raised.

    Returns:
        Whether there was one, so that it will be compiled anew.
    """
    inner = getattr(error, "inner_exception", None)
    named = (
        re.match(r"(/.+?\.so): ", str(inner)) if isinstance(inner, OSError | ImportError) else None
    )
    if named is None:
        return False
    library = Path(named[1])
    if not library.is_file() or not library.is_relative_to(os.environ.get(FOLDER, "")):
        return False
    library.unlink()
    return True


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

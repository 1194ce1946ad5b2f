"""What torch.compile needs, where its compiled code is kept, and when it compiles.

`diffusion_core.acceleration.apply` decides what is compiled.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import SamplingError, SettingsError

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""torch's environment variable for the folder of compiled code."""

MAX_GRAPHS = 1024
"""Compiled shapes of one function; beyond its limit torch would run uncompiled, with other bits."""

FIND_COMPILER = "see whether this machine can compile"
FIND_CACHE = "keep compiled code in the cache folder"
FIND_DAMAGE = "find compiled code that is damaged"
LISTEN = "notice when torch compiles"
LIMIT = "compile one graph for each shape"


def require_compiler(device: str) -> None:
    """Check that this machine has what torch.compile needs for a device.

    Read against torch 2.13.0. Relies on `get_cpp_compiler` in `torch._inductor.cpp_builder`, which
    raises `torch._inductor.exc.InvalidCxxCompiler`.

    Args:
        device: torch's name of the device that samples; the machine may have others.

    Raises:
        SettingsError: a compiler is missing.
    """
    if device != "cpu":
        _require_triton()
        return
    missing = patching.require("torch._inductor.exc", "InvalidCxxCompiler", FIND_COMPILER)
    try:
        patching.require("torch._inductor.cpp_builder", "get_cpp_compiler", FIND_COMPILER)()
    except missing as error:
        raise SettingsError("on a CPU torch.compile needs a C++ compiler, such as g++") from error


def _require_triton() -> None:
    """Check for Triton, and for a C compiler, with which it compiles the launchers of its kernels.

    Read against torch 2.13.0. Relies on `has_triton` in `torch.utils._triton`.
    """
    if not patching.require("torch.utils._triton", "has_triton", FIND_COMPILER)():
        raise SettingsError(
            "on a GPU torch.compile needs Triton, which is missing or does not support this GPU"
        )
    if not ("CC" in os.environ or shutil.which("gcc") or shutil.which("clang")):
        raise SettingsError("on a GPU torch.compile needs a C compiler, such as gcc")


def keep_compiled_code() -> None:
    """Keep compiled code in the user's cache folder, unless `TORCHINDUCTOR_CACHE_DIR` is set.

    torch itself sets that variable to a temporary folder when it is imported; that does not count.

    Read against torch 2.13.0. Relies on `default_cache_dir` in
    `torch._inductor.runtime.cache_dir_utils` returning that folder.
    """
    default = patching.require(
        "torch._inductor.runtime.cache_dir_utils", "default_cache_dir", FIND_CACHE
    )
    if os.environ.get(CACHE_VARIABLE) in (None, default()):
        os.environ[CACHE_VARIABLE] = str(cache_folder() / "inductor")


def remove_damaged_code(error: BaseException | None) -> bool:
    """Remove a library that is incomplete because a process was killed while it compiled.

    Otherwise torch would take it for complete in every later run.

    Read against torch 2.13.0. Relies on `InductorError.inner_exception`.

    Args:
        error: what torch raised.

    Returns:
        Whether a library was removed, so that it will be compiled again.
    """
    if type(error).__name__ == "InductorError":
        patching.require(error, "inner_exception", FIND_DAMAGE)
    inner = getattr(error, "inner_exception", None)
    if not isinstance(inner, OSError | ImportError):
        return False
    named = re.match(r"(/.+?\.so): ", str(inner))
    if named is None:
        return False
    library = Path(named[1])
    if not library.is_file() or not library.is_relative_to(os.environ.get(CACHE_VARIABLE, "")):
        return False
    library.unlink()
    return True


@contextlib.contextmanager
def on_compilation(begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `begin` when torch starts to compile, and `end` afterwards.

    Both are called in the thread that compiles, with a lock of torch's held, so they must be brief.
    They are called for everything this process compiles, even if the result is found on disk.

    Read against torch 2.13.0. Relies on `callback_handler` in `torch._dynamo.callback`.
    """
    handler = patching.require("torch._dynamo.callback", "callback_handler", LISTEN)
    for name in ("start_callback", "end_callback"):
        for needed in (f"register_{name}", f"remove_{name}", f"{name}s"):
            patching.require(handler, needed, LISTEN)

    def begun(*_: Any) -> None:
        begin()

    def ended(*_: Any) -> None:
        end()

    handler.register_start_callback(begun)
    handler.register_end_callback(ended)
    try:
        yield
    finally:
        if begun in handler.start_callbacks:  # `torch._dynamo.reset` removes all callbacks
            handler.remove_start_callback(begun)
        if ended in handler.end_callbacks:
            handler.remove_end_callback(ended)


@contextlib.contextmanager
def one_graph_per_shape() -> Iterator[None]:
    """Compile a graph for each shape, and never run uncompiled: bits must not depend on the past.

    Kernels are also chosen without timing them, if this version of torch supports that.

    Read against torch 2.13.0. Relies on the settings named here, in `torch._dynamo.config` and
    `torch._inductor.config`, whose `patch` affects only the calling thread.

    Raises:
        SamplingError: more graphs than `MAX_GRAPHS`.
    """
    import torch._dynamo
    import torch._inductor

    limits = {
        "recompile_limit": MAX_GRAPHS,
        "accumulated_recompile_limit": 16 * MAX_GRAPHS,
        "fail_on_recompile_limit_hit": True,
    }
    for name in limits:
        patching.require(torch._dynamo.config, name, LIMIT)
    limit_hit = patching.require(torch._dynamo.exc, "FailOnRecompileLimitHit", LIMIT)
    kernels = torch._inductor.config
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):  # older ones may lack it
        patching.require(kernels, "deterministic", LIMIT)
    deterministic = {"deterministic": True} if hasattr(kernels, "deterministic") else {}
    try:
        with torch._dynamo.config.patch(limits), kernels.patch(deterministic):
            yield
    except limit_hit as error:
        raise SamplingError(
            f"one compiled function was called with more than {MAX_GRAPHS} shapes or LoRA scales"
        ) from error

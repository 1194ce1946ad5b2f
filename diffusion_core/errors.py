"""The errors of `diffusion_core`.

::

    NightpressError
    └── DiffusionError
        ├── ModelError
        │   ├── ModelNotFound         no such folder, package or revision
        │   ├── HubUnavailable        the hub is busy or fails; a later try may work
        │   ├── UnsafeWeights         the weights are pickles, and the caller did not allow them
        │   ├── UnsupportedModel      a pipeline that cannot be driven text-to-image
        │   └── IncompatibleLibrary   an upgrade of a library has moved something we patch
        ├── SettingsError             a sampler, size or dtype that the model does not support
        └── SamplingError             the model failed on an image
            └── DeviceError           the device failed; no image is to blame
                └── OutOfMemory       a smaller batch may fit
"""

import contextlib
import struct
from collections.abc import Iterator
from pickle import PickleError


class NightpressError(Exception):
    """The base of every error that nightpress raises on purpose."""


class DiffusionError(NightpressError):
    """The base of the errors that `diffusion_core` raises on purpose."""


class ModelError(DiffusionError):
    """A model that cannot be found, trusted, loaded or driven."""


class ModelNotFound(ModelError):
    """There is no model at the given source."""


class HubUnavailable(ModelError):
    """The Hugging Face hub answers that it is busy or fails; a later try may work."""


class UnsafeWeights(ModelError):
    """The weights are pickles, and unpickling runs code; the caller did not allow it."""


class UnsupportedModel(ModelError):
    """The pipeline does not follow the conventions that sampling relies on."""


class IncompatibleLibrary(ModelError):
    """An upgrade of a library has moved an internal that nightpress replaces or reads."""


class SettingsError(DiffusionError, ValueError):
    """A setting that this model or sampler does not support; the message says what it does."""


class SamplingError(DiffusionError):
    """The model ran and failed."""


class DeviceError(SamplingError):
    """The accelerator failed; no image is to blame, and the process should end."""


class OutOfMemory(DeviceError):
    """The batch does not fit into memory; the process can go on with a smaller one."""


def one_line(error: BaseException, max_length: int | None = 500) -> str:
    """An error's message on one line, cut to `max_length` characters; None for all of it."""
    return " ".join(str(error).split())[:max_length]


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Begin the message of a ModelError with what it is about, such as `ControlNet 'edges'`."""
    try:
        yield
    except ModelError as error:
        raise type(error)(f"{what}: {error}") from error


@contextlib.contextmanager
def as_model_error(what: str) -> Iterator[None]:
    """Turn what diffusers, transformers and safetensors raise while loading into a ModelError.

    Args:
        what: the beginning of the message, such as `FOLDER: cannot load NAME`.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    faults = (
        ArithmeticError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ImportError,
        AssertionError,
        RuntimeError,
        EOFError,
        PickleError,
        struct.error,
    )
    try:
        yield
    except (*faults, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"{what}: {one_line(error) or type(error).__name__}") from error

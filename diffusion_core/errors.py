"""The errors of `diffusion_core`.

::

    NightpressError
    └── DiffusionError
        ├── ModelError
        │   ├── ModelNotFound      no such folder, package or revision
        │   ├── UnsafeWeights      the weights are pickles and the caller did not allow them
        │   └── UnsupportedModel   a pipeline that cannot be driven text-to-image
        ├── SettingsError          a sampler name, size or dtype that the model cannot do
        └── SamplingError          the model failed on an image
            └── DeviceError        the device failed; no image is to blame
                └── OutOfMemory    a smaller batch may fit
"""

import contextlib
from collections.abc import Iterator


class NightpressError(Exception):
    """The base of every error that nightpress raises on purpose."""


class DiffusionError(NightpressError):
    """The base of the errors that `diffusion_core` raises on purpose."""


class ModelError(DiffusionError):
    """A model that cannot be found, trusted or driven."""


class ModelNotFound(ModelError):
    """There is no model at that source."""


class UnsafeWeights(ModelError):
    """The weights would have to be unpickled, which runs code."""


class UnsupportedModel(ModelError):
    """The pipeline does not follow the conventions that sampling relies on."""


class SettingsError(DiffusionError, ValueError):
    """A setting that this model or sampler cannot honour; the message says what it can."""


class SamplingError(DiffusionError):
    """The model ran and failed."""


class DeviceError(SamplingError):
    """The accelerator failed: the process should end, the images are fine."""


class OutOfMemory(DeviceError):
    """The batch does not fit into memory; the process can go on with a smaller one."""


def one_line(error: BaseException, most: int | None = 500) -> str:
    """What it says, in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn what diffusers, transformers and safetensors raise while loading into a ModelError."""
    from safetensors import SafetensorError

    faults = (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ImportError,
        AssertionError,
        RuntimeError,
    )
    try:
        yield
    except (*faults, SafetensorError) as error:
        raise ModelError(f"{what}: {one_line(error)}") from error

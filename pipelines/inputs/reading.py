"""Read the bytes of one picture that a row names."""

from nightpress.pipelines.errors import InputMissing, StoreMissing
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.records import PlannedInput
from nightpress.pipelines.storage import Options, is_url, open_source


class InputReader:
    """Reads pictures; safe to share between threads.

    Args:
        spec: says where relative paths start from.
        options: fsspec options by protocol.
        runs: reads images of earlier runs.
    """

    def __init__(self, spec: InputsSpec, options: Options, runs: object = None) -> None:
        self._spec, self._options = spec, options

    def read(self, planned: PlannedInput) -> bytes:
        """The bytes of a picture; see `read_input`."""
        return read_input(planned, self._spec, self._options)


def read_input(planned: PlannedInput, spec: InputsSpec, options: Options) -> bytes:
    """The bytes of a picture.

    Raises:
        InputMissing: it is not there.
        StoreError: the store fails.
    """
    if planned.data is not None:
        return planned.data
    url = resolved(planned.url or "", spec)
    try:
        with open_source(url, options) as stream:
            return stream.read()
    except StoreMissing as error:
        raise InputMissing(f"{planned.role}: {error}") from error


def resolved(url: str, spec: InputsSpec) -> str:
    """The URL or absolute path of a picture; relative paths start from the root."""
    if is_url(url) or url.startswith("/") or spec.root is None:
        return url
    return f"{spec.root.rstrip('/')}/{url}"

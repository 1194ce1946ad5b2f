"""Images of earlier runs as pictures of this one: `run://NAME/IMAGE_ID`."""

from nightpress.pipelines.storage import Options


class EarlierRuns:
    """Reads images of other runs.

    Args:
        url: URL of the run that uses the images; runs by name lie beside it.
        options: fsspec options by protocol.
    """

    def __init__(self, url: str, options: Options) -> None:
        self._url, self._options = url, options

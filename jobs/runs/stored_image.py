"""An image named by its URL: its bytes, and the run that holds it."""

from nightpress.pipelines.errors import ImageNotFound
from nightpress.pipelines.image_files.packing import member_of, split_member
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import read_record
from nightpress.pipelines.storage import Options, Store, open_source, require_answers
from nightpress.pipelines.storage.urls import absolute

MAX_FOLDERS_UP = 8
"""How many folders above an image are searched for its run."""


def read_image(url: str, options: Options) -> bytes:
    """The bytes of an image file, or of a pack's member; reads the file whole.

    Raises:
        StoreMissing: it does not exist.
        ImageNotFound: it is a pack, or a pack without that member.
    """
    packed = split_member(url)
    path, member = packed or (url, "")
    require_answers([path], options)
    with open_source(path, options) as stream:
        data = stream.read()
    try:
        return data if packed is None else member_of(path, data, member)
    except ValueError as error:
        raise ImageNotFound(f"{path}: {error}") from error


def run_around(url: str, options: Options) -> Run | None:
    """The run that holds an image: the nearest folder above it with a run.json."""
    path, _ = split_member(url) or (url, "")
    folder = absolute(path)
    for _ in range(MAX_FOLDERS_UP):
        folder, slash, _ = folder.rpartition("/")
        if not slash or folder.endswith((":", ":/")) or not folder:
            return None
        store = Store(folder, options)
        record = read_record(store)
        if record is not None:
            return Run(store, record)
    return None

"""What the value of a picture's column names: a URL, a path, or an image of an earlier run."""

import os
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from nightpress.pipelines.errors import InputMissing
from nightpress.pipelines.job.credentials import has_credentials
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.storage import is_local, is_url
from nightpress.pipelines.storage.urls import absolute, is_http, local_path, public

RUN_PREFIX = "run://"

MOST_SHOWN = 200
"""Characters of a reference that a message shows."""


@dataclass(frozen=True)
class RunImage:
    """An image of an earlier run: `run://NAME/IMAGE_ID`."""

    run: str
    """The run's name, or the URL or absolute path of its directory."""
    image_id: str

    @property
    def is_by_name(self) -> bool:
        """Whether the run lies in the folder of the run that uses the image."""
        return "/" not in self.run

    @classmethod
    def parse(cls, reference: str) -> "RunImage":
        """Read `run://NAME/IMAGE_ID`, or `run://URL_OF_THE_RUN/IMAGE_ID`.

        Raises:
            InputMissing: it has no run or no image.
        """
        rest = reference[len(RUN_PREFIX) :]
        by_url = rest.startswith("/") or is_url(rest)
        run, _, image_id = rest.rpartition("/") if by_url else rest.partition("/")
        if not run.strip("/") or run in (".", "..") or not image_id:
            raise InputMissing(
                "write run://NAME/IMAGE_ID, with the name of a run under the same output, or "
                "run://URL/IMAGE_ID, with the URL or absolute path of a run directory"
            )
        return cls(run, image_id)


class RunImages(Protocol):
    """Reads images of earlier runs."""

    def read(self, image: RunImage) -> bytes:
        """The bytes of an image, which are those that its run recorded.

        Raises:
            InputMissing: there is no such image.
            InputChanged: its bytes are not those that its run recorded.
            StoreError: the store fails.
        """
        ...


class NoRuns:
    """Reads no images of earlier runs, where it is not known which runs there are."""

    def read(self, image: RunImage) -> bytes:
        """Refuse every image."""
        raise InputMissing("images of earlier runs cannot be read here")


def is_run_image(reference: str) -> bool:
    """Whether a reference names an image of an earlier run."""
    return reference[: len(RUN_PREFIX)].lower() == RUN_PREFIX


def located(reference: str, root: str | None) -> str:
    """The URL or absolute path that a reference stands for; `run://` ones are returned unchanged.

    Args:
        reference: as the manifest has it.
        root: the URL or folder that relative paths start from; the working folder if None.

    Raises:
        InputMissing: it is empty, holds credentials, or leaves the root.
    """
    if not reference.strip() or "\0" in reference:
        raise InputMissing("names no file")
    if not is_url(reference) and not reference.startswith("/"):
        reference = _below(root or os.getcwd(), reference)
    if _has_credentials(reference):
        raise InputMissing(
            "the URL contains credentials; they come from the environment, a profile or the "
            "machine's role, and public URLs need none"
        )
    return reference


def with_absolute_root(spec: InputsSpec, begun: InputsSpec | None = None) -> InputsSpec:
    """The section with its root as an absolute path or URL, so that it is the same on every node.

    Args:
        spec: of the job.
        begun: of the run that the job resumes; its root is kept where the job names none.
    """
    root = spec.root or (begun.root if begun is not None else None) or os.getcwd()
    return spec.model_copy(update={"root": absolute(root)})


def public_form(reference: str | None) -> str | None:
    """A reference as metadata keep it: without credentials, if it has any."""
    if reference is None:
        return None
    if not _has_credentials(reference):
        return reference
    prefix = reference[: len(RUN_PREFIX)] if is_run_image(reference) else ""
    return prefix + public(reference.removeprefix(prefix))


def shown(reference: str | None) -> str:
    """A reference in messages: without credentials, and not too long."""
    if reference is None:
        return "(bytes in the manifest)"
    text = " ".join((public_form(reference) or "").split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _has_credentials(reference: str) -> bool:
    if is_run_image(reference):
        return _has_credentials(reference[len(RUN_PREFIX) :])
    try:
        return has_credentials(reference)
    except ValueError:  # such as a bracket that is not closed; reading it says so
        return "@" in reference


def _below(root: str, path: str) -> str:
    """A relative path below a root; links are resolved, so that none leads out of it."""
    if is_local(root):
        base = os.path.realpath(local_path(root))
        target = os.path.realpath(os.path.join(base, path))
        if os.path.commonpath([base, target]) == base:
            return target
    else:
        read_as = unquote(path) if is_http(root) else path
        if ".." not in read_as.replace("\\", "/").split("/"):
            return f"{root.rstrip('/')}/{path.removeprefix('./')}"
    raise InputMissing(f"leaves inputs.root, {public(root)}; use an absolute path or a URL instead")

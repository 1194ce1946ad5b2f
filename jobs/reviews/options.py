"""How a run is reviewed, and where its page is served."""

from dataclasses import dataclass

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.marks import checked_reviewer
from nightpress.pipelines.run_directory.marks_merge import Policy


@dataclass(frozen=True)
class ReviewOptions:
    """How a run is reviewed.

    Raises:
        MarksError: no reviewer can have that name, or there is no such policy.
        SpecError: `images_at` is no URL.
    """

    reviewer: str
    """Whose marks are made."""
    read_only: bool = False
    """Whether nothing at all is written."""
    policy: str = "any"
    """How the marks of several reviewers become one: `any`, `all`, `majority` or `lead`."""
    lead: str | None = None
    """The reviewer who decides under `lead`."""
    blind: bool = False
    """Whether the marks of others are kept from the reviewer."""
    group_by: str | None = None
    """The column by which images are stacked; by default that of the job."""
    thumbs: bool = True
    """Whether thumbnails that are missing are made."""
    images_at: str | None = None
    """URL from which the run directory is served to browsers, for the page without a server."""

    def __post_init__(self) -> None:
        if self.images_at is not None and not self.images_at.startswith(("https://", "http://")):
            raise SpecError(f"images_at: must be a URL of https or http, not {self.images_at!r}")
        object.__setattr__(self, "reviewer", checked_reviewer(self.reviewer))
        object.__setattr__(self, "lead", Policy.of(self.policy, self.lead).lead)

    @property
    def makes_thumbs(self) -> bool:
        """Whether thumbnails are made."""
        return self.thumbs and not self.read_only


@dataclass(frozen=True)
class ServerOptions:
    """Where the page is served."""

    listen: str = "127.0.0.1"
    """The address to listen at; by default only this machine can reach it."""
    port: int | None = None
    """0 is any port that is free. By default the run and the reviewer decide, so that a browser
    finds marks again that it could not send before."""
    open_browser: bool = False
    """Whether the page is opened in a browser of this machine."""

"""How a run may be extended, as a caller asks for it."""

from dataclasses import dataclass
from typing import Literal, get_args

from nightpress.pipelines.errors import SpecError

Changed = Literal["refuse", "new-variant"]
"""What to do with images that changed under the same id."""

CHANGED: tuple[Changed, ...] = get_args(Changed)


@dataclass(frozen=True)
class ExtendOptions:
    """How a run may be extended."""

    extend: bool = False
    changed: Changed = "refuse"

    @classmethod
    def of(cls, extend: bool, changed: str) -> "ExtendOptions":
        """The options as a caller gave them.

        Raises:
            SpecError: they do not go together.
        """
        if changed not in CHANGED:
            raise SpecError(f"changed: {changed!r} is not one of: {', '.join(CHANGED)}")
        if changed != "refuse" and not extend:
            raise SpecError(f"--changed {changed} has no effect without --extend")
        return cls(extend, "refuse" if changed == "refuse" else "new-variant")

    @property
    def words(self) -> list[str]:
        """The options of a command line that ask for this."""
        changed = ["--changed", self.changed] if self.changed != "refuse" else []
        return ["--extend", *changed] if self.extend else []

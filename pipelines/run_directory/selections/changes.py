"""What has become of the images of selections since they were chosen."""

from dataclasses import dataclass

import pyarrow.compute as pc

from nightpress.pipelines.errors import Damaged, SpecError, UnsupportedFormat
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.selections.candidates import MAX_EXAMPLES
from nightpress.pipelines.run_directory.selections.files import Selection


@dataclass(frozen=True)
class SelectionChanges:
    """What has become of the images of a selection since it was made."""

    name: str
    num_images: int
    """Images of the selection."""
    num_remade: int
    """Images whose file has other bytes now."""
    num_missing: int
    """Images that have no file now, because they failed when they were made again."""
    examples: tuple[str, ...]
    """Ids of a few of both."""
    problem: str | None = None
    """Why the selection cannot be read; then the numbers are 0."""

    @property
    def is_unchanged(self) -> bool:
        """Whether every image is the one that was chosen."""
        return not (self.num_remade or self.num_missing or self.problem)

    def __str__(self) -> str:
        """`selection best: of 40 images, 2 made again with other bytes since (0_00, 7_01)`."""
        if self.problem is not None:
            return f"selection {self.name}: {self.problem}"
        were = []
        if self.num_remade:
            were.append(f"{self.num_remade:,} made again with other bytes")
        if self.num_missing:
            were.append(f"{self.num_missing:,} without a file now")
        shown = f" ({', '.join(self.examples)}{', ...' if self._has_more else ''})"
        found = (
            f"{' and '.join(were)} since it was chosen{shown}"
            if were
            else "all as they were chosen"
        )
        return f"selection {self.name}: of {plural(self.num_images, 'image')}, {found}"

    @property
    def _has_more(self) -> bool:
        return self.num_remade + self.num_missing > len(self.examples)


def changes_of(run: Run, selection: Selection) -> SelectionChanges:
    """Compare a selection with the images that the run's commits name now.

    Raises:
        Damaged, StoreError: the metadata cannot be read.
    """
    with run.reading():
        now = run.metadata.to_table(columns=["image_id", "sha256"])
    places = pc.index_in(selection.images.column("image_id"), now.column("image_id"))
    current = now.column("sha256").take(places)
    is_missing = pc.is_null(current)
    is_remade = pc.fill_null(pc.not_equal(current, selection.images.column("sha256")), False)
    others = selection.images.column("image_id").filter(pc.or_(is_missing, is_remade))
    return SelectionChanges(
        name=selection.name,
        num_images=selection.num_chosen,
        num_remade=pc.sum(is_remade).as_py() or 0,
        num_missing=pc.sum(is_missing).as_py() or 0,
        examples=tuple(others[:MAX_EXAMPLES].to_pylist()),
    )


def all_changes(run: Run) -> tuple[SelectionChanges, ...]:
    """The selections of a run that are damaged, or whose images are not all as they were chosen.

    Raises:
        Damaged, StoreError: the metadata cannot be read.
    """
    compared = []
    for name in run.selections:
        try:
            selection = run.selection(name)
        except (Damaged, UnsupportedFormat, SpecError) as error:
            compared.append(SelectionChanges(name, 0, 0, 0, (), str(error)))
        else:
            compared.append(changes_of(run, selection))
    return tuple(each for each in compared if not each.is_unchanged)

"""How a manifest has grown since a run was planned from it, and which images that adds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from nightpress.pipelines.hashing import Hashes
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.planning.growth_summary import DETAILS, GrowthSummary, SomeImages
from nightpress.pipelines.planning.image_hashes import (
    ImageHashes,
    among,
    named,
)
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.units import WorkUnit

MAX_FIRST = 20
"""How many of them are kept."""


@dataclass(frozen=True)
class AddedRows:
    """The rows of a manifest that an edition makes images of; (n,) each."""

    numbers: Ints
    """Counted over the whole manifest, ascending."""
    first_variants: Ints
    num_images: Ints
    planned: Ints
    """(m,) their images, as indices into `Growth.new`."""
    variants: Ints
    """(m,) the variants that these are made as."""


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Growth:
    """A manifest beside the run that was planned from an earlier state of it."""

    files: tuple[ManifestFile, ...]
    """The manifest's files now."""
    planner: Planner = field(repr=False)
    units: tuple[WorkUnit, ...] = field(repr=False)
    old: ImageHashes = field(repr=False)
    """The images of the run."""
    new: ImageHashes = field(repr=False)
    """The images of the manifest."""
    names: Hashes = field(repr=False)
    """Hashes of the file names of the run's images, if those of others could be equal."""
    came: Ints = field(default_factory=_none, repr=False)
    """Indices into `new`: images that the run does not have."""
    changed: Ints = field(default_factory=_none, repr=False)
    """Indices into `new`: images that the run has, but planned differently."""
    kept: Ints = field(default_factory=_none, repr=False)
    """Indices into `new`: images that keep what was drawn for them; see `DRAW_KEY`."""
    went: Ints = field(default_factory=_none, repr=False)
    """Indices into `old`: images that the manifest does not plan any more, and did so far."""
    back: Ints = field(default_factory=_none, repr=False)
    """Indices into `old`: images that it plans again."""
    num_same: int = 0
    examples: tuple[str, ...] = ()
    """What has changed in the first of the changed images."""

    @property
    def may_share_names(self) -> bool:
        """Whether different images could have equal file names."""
        return self.planner.columns.has_ids or not self.planner.template.tells_images_apart

    @property
    def summary(self) -> GrowthSummary:
        """The counts, and the ids of the first images of each kind."""

        def some(images: ImageHashes, indices: Ints) -> SomeImages:
            first = images.image_ids(indices[:MAX_FIRST]).to_pylist()
            return SomeImages(len(indices), tuple(first))

        came, changed, kept = (
            some(self.new, each) for each in (self.came, self.changed, self.kept)
        )
        went, back = some(self.old, self.went), some(self.old, self.back)
        return GrowthSummary(came, went, back, changed, kept, self.num_same, self.examples)

    def added(self, new_variants: bool) -> AddedRows:
        """The rows to make images of: those that came, and if they get new variants the changed.

        A row's images keep their own variants if these are free and follow each other. Else they
        get the next ones that no image of the row has had.
        """
        slots = np.union1d(self.came, self.changed) if new_variants else self.came
        if not len(slots):
            return AddedRows(*[_none()] * 5)
        rows, starts, counts = np.unique(
            self.new.rows[slots], return_index=True, return_counts=True
        )
        variants = self.new.variants[slots]
        first, last = variants[starts], variants[starts + counts - 1]
        taken = among(self.new.images[slots], self.old.images)
        moves = (last - first + 1 != counts) | np.bitwise_or.reduceat(taken, starts)
        if moves.any():
            first[moves] = self._next_variants(self.new.id_hashes[slots[starts[moves]]])
        numbers = np.arange(len(slots)) - np.repeat(starts, counts)
        return AddedRows(rows, first, counts, slots, np.repeat(first, counts) + numbers)

    def _next_variants(self, id_hashes: Hashes) -> Ints:
        """The first variant above all that rows have had and have now; (n,)."""
        every = np.concatenate([self.old.id_hashes, self.new.id_hashes])
        variants = np.concatenate([self.old.variants, self.new.variants])
        order = np.argsort(every, kind="stable")
        ids, starts = np.unique(every[order], return_index=True)
        highest = np.maximum.reduceat(variants[order], starts)
        following: Ints = highest[np.searchsorted(ids, id_hashes)] + 1
        return following

    def details(self, added: AddedRows) -> pa.Table:
        """What an edition that adds these rows keeps of single images: DETAILS."""
        other = self.new.variants[added.planned] != added.variants
        moved = added.planned[other]
        made_as = named(self.new.ids.take(pa.array(moved)), added.variants[other]).to_pylist()
        by_image = dict(zip(moved.tolist(), made_as, strict=True))
        came = np.intersect1d(self.came, moved)
        kinds = [("changed", self.changed), ("came", came), ("kept", self.kept)]
        tables = [
            _details(what, self.old.image_ids(indices), [None] * len(indices))
            for what, indices in (("went", self.went), ("back", self.back))
        ]
        tables += [
            _details(what, self.new.image_ids(indices), list(map(by_image.get, indices.tolist())))
            for what, indices in kinds
        ]
        return pa.concat_tables(tables).combine_chunks()


def _details(what: str, image_ids: pa.Array, made_as: Sequence[str | None]) -> pa.Table:
    columns = [image_ids, [what] * len(image_ids), pa.array(made_as, pa.string())]
    return pa.table(columns, schema=DETAILS)

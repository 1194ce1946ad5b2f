"""Which ControlNet or IP-Adapter each picture and scale of a row is for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.pictures import Pictures
from nightpress.pipelines.manifest.refusals import Refusals
from nightpress.pipelines.manifest.row_problems import Mask
from nightpress.pipelines.manifest.scales import Scales

Flags = NDArray[np.bool_]
"""Of any shape."""


@dataclass(frozen=True)
class AdapterUse:
    """The ControlNets or the IP-Adapters that n rows use, of those that the job has."""

    counts: Ints
    """(n, adapters) how many pictures of the row each gets; (n, 1) without adapters."""
    scales: Floats
    """The same shape; 0 where an adapter is not used."""

    @property
    def is_used(self) -> Mask:
        """Whether a row uses any; (n,) bool."""
        return np.asarray(self.counts.any(axis=1))


@dataclass(frozen=True)
class AdapterColumns:
    """The columns for one kind of adapter."""

    picture: str
    """The setting that gives their pictures, such as `control_image`."""
    kind: str
    """What a person calls one of them, such as `ControlNet`."""
    key: str
    """The job file's key, such as `model.controlnets`."""
    adapters: tuple[LoraInfo, ...]
    """Those of the job."""
    lists_are_for_one: bool
    """Whether a list gives one adapter several pictures; else it gives each adapter one."""
    without: str | None
    """Why a picture is refused if the job has none of them; None if the model takes it itself."""

    def indices(self, pictures: Pictures, refusals: Refusals) -> Ints:
        """The index of each picture's adapter, (k,); those without one are refused, and get 0."""

        def refuse(where: Mask | bool, why: str) -> None:
            flags = np.broadcast_to(np.asarray(where), len(pictures))
            refusals.add_entries(flags, pictures.rows, pictures.column, lambda entry: why)

        name, places = _name_in(pictures.setting), pictures.places
        if name:
            index = self._index_of(name)
            refuse(index is None, self._unknown(name))
            why = f"the list has several pictures, but a {self.kind} takes one"
            refuse((places > 0) & (not self.lists_are_for_one), why)
            return np.full(len(pictures), index or 0)
        if not self.adapters:
            refuse(self.without is not None, self.without or "")
            return np.zeros(len(pictures), np.int64)
        several = len(self.adapters) > 1
        if self.lists_are_for_one:
            refuse(several, self._ambiguous(""))
            return np.zeros(len(pictures), np.int64)
        refuse((places < 0) & several, self._ambiguous(", or give a list"))
        too_long = f"the list has more pictures than the job has {self.kind}s ({self._names})"
        refuse(places >= len(self.adapters), too_long)
        return np.clip(places, 0, len(self.adapters) - 1)

    def counts(
        self, pictures: Sequence[Pictures], indices: Sequence[Ints], refusals: Refusals, rows: int
    ) -> Ints:
        """How many pictures each adapter gets; (rows, adapters), or (rows, 1) without adapters.

        Args:
            pictures: what the columns name.
            indices: the adapters of these, as `indices` returns them.
            refusals: receives rows that give a ControlNet two pictures.
            rows: the number of rows.
        """
        counts = np.zeros((rows, max(1, len(self.adapters))), np.int64)
        for each, targets in zip(pictures, indices, strict=True):
            if not self.lists_are_for_one:
                taken = counts[each.rows, targets] > 0
                why = f"another column gives a picture for this {self.kind} too"
                refusals.add_entries(taken, each.rows, each.column, lambda entry, why=why: why)  # type: ignore[misc]
            np.add.at(counts, (each.rows, targets), 1)
        return counts

    def use(self, counts: Ints, columns: Sequence[Scales], refusals: Refusals) -> AdapterUse:
        """The adapters that rows use, with their scales.

        Args:
            counts: what `counts` returns.
            columns: what the columns of scales give.
            refusals: receives what is wrong with rows.
        """
        defaults = np.array([adapter.scale for adapter in self.adapters] or [0.0])
        scales = np.where(counts > 0, defaults, 0.0)
        is_set = np.zeros(counts.shape, np.bool_)
        for column in columns:
            self._add_scales(column, counts, scales, is_set, refusals)
        return AdapterUse(counts, scales)

    def used_names(self, use: AdapterUse, row: int) -> tuple[str, ...]:
        """The names of the adapters that a row uses."""
        used = zip(self.adapters, use.counts[row].tolist(), strict=False)
        return tuple(adapter.name for adapter, count in used if count)

    def used_scales(self, use: AdapterUse, row: int) -> tuple[float, ...]:
        """The scales of the adapters that a row uses."""
        used = zip(self.adapters, use.counts[row], use.scales[row].tolist(), strict=False)
        return tuple(scale for _, count, scale in used if count)

    def _add_scales(
        self, column: Scales, counts: Ints, scales: Floats, is_set: Flags, refusals: Refusals
    ) -> None:
        """Write the scales of one column into `scales`, and note where in `is_set`."""
        rows = column.rows
        if not self.adapters and self.without is None:
            why = "this model edits images, and takes no scale for a reference"
            refusals.add_entries(np.ones(len(rows), np.bool_), rows, column.column, lambda _: why)
        wanted = self._targets(column, refusals) & (counts[rows] > 0)
        useful, twice = wanted.any(axis=1), (wanted & is_set[rows]).any(axis=1)
        refusals.add_entries(
            np.asarray(~useful),
            rows,
            column.column,
            lambda entry: (
                f"the scale is {column.values[entry]:g}, but the row has no "
                f"{self._picture_of(column, int(column.places[entry]))}"
            ),
        )
        why = f"another column gives the scale of this {self.kind} too"
        refusals.add_entries(np.asarray(twice), rows, column.column, lambda _: why)
        entries, targets = np.nonzero(wanted)
        scales[rows[entries], targets] = column.values[entries]
        is_set[rows[entries], targets] = True

    def _targets(self, column: Scales, refusals: Refusals) -> Flags:
        """Which adapters each scale is for; (k, adapters)."""
        numbers = np.arange(max(1, len(self.adapters)))
        name, places = _name_in(column.setting), column.places
        if not name:
            targets: Flags = (places[:, None] < 0) | (places[:, None] == numbers)
            return targets
        index = self._index_of(name)
        for where, why in (
            (np.full(len(places), index is None), self._unknown(name)),
            (places >= 0, f"a {self.kind} takes one scale, not a list"),
        ):
            refusals.add_entries(where, column.rows, column.column, lambda _, why=why: why)  # type: ignore[misc]
        return np.broadcast_to(numbers == index, (len(places), len(numbers)))

    def _picture_of(self, column: Scales, place: int) -> str:
        """The picture that a scale is for, in words."""
        name = _name_in(column.setting)
        if place >= 0 and len(self.adapters) > 1:
            known = place < len(self.adapters)
            name = self.adapters[place].name if known else f"{self.kind} number {place + 1}"
        return f"{self.picture} for {name}" if name else self.picture

    @property
    def _names(self) -> str:
        return ", ".join(adapter.name for adapter in self.adapters)

    def _index_of(self, name: str) -> int | None:
        names = [adapter.name for adapter in self.adapters]
        return names.index(name) if name in names else None

    def _unknown(self, name: str) -> str:
        if not self.adapters:
            return self.without or f"the job has no {self.kind} ({self.key})"
        return f"{self.key} has no {self.kind} {name!r}; choose one of: {self._names}"

    def _ambiguous(self, advice: str) -> str:
        return (
            f"the job has {plural(len(self.adapters), self.kind)} ({self._names}); name one in the "
            f"column's name, as in {self.picture}.{self.adapters[0].name}{advice}"
            if self.adapters
            else ""
        )


def _name_in(setting: str) -> str:
    """The name of the adapter in a setting such as `control_image.depth`; empty without one."""
    return setting.partition(".")[2]

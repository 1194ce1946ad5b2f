"""Bringing an export up to date: what has changed is written, and what is beside it once more."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from nightpress.pipelines.export.duplicates import find_leaving
from nightpress.pipelines.export.events import (
    Event,
    ExportPlanned,
    ShardExported,
    ShardSurveyed,
)
from nightpress.pipelines.export.finish import finish
from nightpress.pipelines.export.index import listed_entries
from nightpress.pipelines.export.plan import ExportPlan, ShardTask, tasks_of, with_wanted
from nightpress.pipelines.export.shard import export_shard
from nightpress.pipelines.export.sources import ExportSource
from nightpress.pipelines.export.summary import (
    SUMMARY_FILE,
    ExportSummary,
    index_hash,
    read_summary_file,
)
from nightpress.pipelines.export.survey import SURVEY_FOLDER, Surveyed, survey_shard

Mapper = Callable[[Callable[[ShardTask], Any], Iterable[ShardTask]], Iterator[Any]]
"""`map`, or one that spreads the tasks over a cluster; its results come in order."""


class ExportWriter:
    """Writes an export.

    Args:
        plan: the export.
        sources: its runs.
        mapper: carries out the tasks.
    """

    def __init__(
        self, plan: ExportPlan, sources: Sequence[ExportSource], mapper: Mapper = map
    ) -> None:
        self._plan, self._sources, self._mapper = plan, tuple(sources), mapper
        self.num_written = 0
        """Source shards that were written."""
        self._summary: ExportSummary | None = None

    @property
    def summary(self) -> ExportSummary:
        """What the export holds, after all events."""
        assert self._summary is not None  # noqa: S101 - the last event sets it
        return self._summary

    def events(self) -> Generator[Event, None, None]:
        """Write what is missing or has changed; it may be stopped after any event.

        Raises:
            Damaged: a commit or an image of a run is not what was written.
            LeaseLost: another process has taken over the export.
            StoreError: a store failed.
        """
        plan, surveys = self._plan, list[Surveyed]()
        if plan.spec.leaks != "keep" or plan.spec.dedup is not None:
            yield from self._survey(surveys)
        leaving = yield from find_leaving(plan, surveys)
        tasks = tasks_of(self._sources, leaving)
        entries = listed_entries(plan.store)
        paths = [entries[task.key] for task in tasks if task.key in entries]
        missing = [task for task in tasks if task.key not in entries]
        done = read_summary_file(plan.store)
        if done is not None and not missing and done.index == index_hash(paths):
            self._summary = done
            return
        plan.store.delete(SUMMARY_FILE)
        if missing:
            yield ExportPlanned(len(tasks), len(paths))
            yield from self._export(missing, paths)
        self._summary = finish(plan, self._sources, sorted(paths), [each.path for each in surveys])

    def _survey(self, surveys: list[Surveyed]) -> Iterator[Event]:
        """Look at the shards that have changed; adds the surveys of all, in order."""
        tasks = tasks_of(self._sources, {})
        entries = listed_entries(self._plan.store, SURVEY_FOLDER)
        missing = [task for task in tasks if task.key not in entries]
        surveys += [
            Surveyed(task.source, task.shard, entries[task.key])
            for task in tasks
            if task.key in entries
        ]
        with closing(with_wanted(self._sources, missing)) as ready:
            for found in self._mapper(partial(survey_shard, self._plan), ready):
                surveys.append(found)
                yield ShardSurveyed()
        surveys.sort(key=lambda each: (each.source, each.shard))

    def _export(self, missing: list[ShardTask], paths: list[str]) -> Iterator[Event]:
        """Export shards; adds the paths of their index objects."""
        with closing(with_wanted(self._sources, missing)) as ready:
            for done in self._mapper(partial(export_shard, self._plan), ready):
                paths.append(done.path)
                self.num_written += 1
                yield ShardExported(done.num_images, done.num_bytes)

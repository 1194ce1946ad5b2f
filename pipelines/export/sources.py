"""The runs that an export takes its images from: opened, finished, with what they select."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from nightpress.pipelines.errors import RunNotFound, SpecError
from nightpress.pipelines.export.columns import SCORES
from nightpress.pipelines.export.selected_images import SelectedImages
from nightpress.pipelines.export.spec import ExportSpec, SelectSpec
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.run_directory.clip_checks import refuse_clips
from nightpress.pipelines.run_directory.commit import commit_sizes, read_commit
from nightpress.pipelines.run_directory.embeddings import embedding_parts, read_part
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    newest_parts,
    with_scores_of,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE, read_record
from nightpress.pipelines.run_directory.selections.vectors import scorer_of_embeddings
from nightpress.pipelines.run_directory.where import parse_condition
from nightpress.pipelines.storage import Store


@dataclass(frozen=True)
class ExportSource:
    """One run that an export takes images from."""

    run: Run
    schema: pa.Schema
    """Its metadata columns, carried ones last."""
    scores: tuple[str, ...]
    """The names of the scores that its images have."""
    sizes: Mapping[int, int]
    """Shard -> bytes of its commit, as listed."""
    late: Mapping[int, LatePart]
    """Shard -> the part with its late scores, of those that have one."""
    selection: SelectedImages | None
    embeddings: str | None = None
    """The scorer whose vectors are compared, if any are."""
    vectors: tuple[str, ...] = ()
    """The paths of the parts of its vectors that are compared."""

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.run.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """What the names of its images end with, without the dot."""
        return self.run.spec.images.template.rpartition(".")[2]

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same for an export to go on: the run as it began, its selection."""
        selection = {} if self.selection is None else {"selection": self.selection.sha256}
        return {"run": self.run.record.fingerprint_at_first, **selection}


def open_sources(spec: ExportSpec) -> tuple[ExportSource, ...]:
    """Open the runs of an export, and check that it can be made of them; writes nothing.

    Raises:
        RunNotFound: one is no run, or is not finished.
        SpecError: a selection is missing, the condition is none, or nothing is selected.
        StoreError: a store does not answer.
    """
    sources = tuple(_opened(spec, url) for url in spec.runs)
    _require_one_scorer(sources)
    if isinstance(spec.select, str):
        if not any(len(each.selection.keys) for each in sources if each.selection is not None):
            raise SpecError(f"select: {spec.select}: this selection is empty in every run")
        return sources
    has_images = [_has_any(source, spec.select) for source in sources]
    if not any(has_images):
        where = "" if spec.select is None else f" meets the condition {spec.select.where}"
        raise SpecError(f"select: no image that is ok{where} in {', '.join(spec.runs)}")
    return sources


def _has_any(source: ExportSource, select: SelectSpec | None) -> bool:
    """Whether a run has an image to export; checks the condition, too."""
    wanted = ds.field("status") == "ok"
    if select is not None:
        try:
            wanted = wanted & parse_condition(select.where, source.schema)
        except SpecError as error:
            raise SpecError(f"select.where: {error}") from error
    with source.run.reading():
        found = source.run.metadata.head(1, columns=["status"], filter=wanted)
    return len(found) > 0


def _opened(spec: ExportSpec, url: str) -> ExportSource:
    store = Store(url, spec.storage)
    store.require_answer()
    record = read_record(store)
    if record is None:
        raise RunNotFound(f"from: {url}: no run here ({RUN_FILE} is missing)")
    run = Run(store, record)
    refuse_clips(run, "nightpress export")
    sizes = commit_sizes(store)
    missing = record.layout.num_shards - len(sizes)
    if missing:
        raise RunNotFound(
            f"from: {url}: this run is not finished: {plural(missing, 'shard')} of "
            f"{record.layout.num_shards:,} not committed yet; nightpress run goes on with it"
        )
    with run.reading():
        schema = run.metadata.schema
    selection = SelectedImages.read(store, spec.select) if isinstance(spec.select, str) else None
    late = newest_parts(store)
    scores = _score_names(run, schema, late)
    embeddings, vectors = None, tuple[str, ...]()
    if spec.compares_embeddings:
        embeddings = scorer_of_embeddings(run, spec.embeddings)
        vectors = tuple(embedding_parts(store, embeddings))
    return ExportSource(run, schema, scores, sizes, late, selection, embeddings, vectors)


def _require_one_scorer(sources: Sequence[ExportSource]) -> None:
    """Refuse to compare the vectors of different scorers.

    Raises:
        SpecError: the runs have those of different ones.
    """
    first, *others = sources
    if not first.vectors:
        return
    mark = read_part(first.run.store, first.vectors[0]).fingerprint
    for each in others:
        if each.embeddings != first.embeddings:
            raise SpecError(
                f"embeddings: {first.run.url} has those of {first.embeddings}, and {each.run.url} "
                f"those of {each.embeddings}; name a scorer that all runs have"
            )
        other = read_part(each.run.store, each.vectors[0]).fingerprint
        if other != mark:
            raise SpecError(
                f"embeddings: {first.embeddings} is another scorer in {each.run.url} (fingerprint "
                f"{other[:12]}) than in {first.run.url} ({mark[:12]}); their vectors cannot be "
                "compared"
            )


def _score_names(run: Run, schema: pa.Schema, late: Mapping[int, LatePart]) -> tuple[str, ...]:
    """The names of the scores that images of the run have.

    All images of an edition that are ok have the scores of its job, and as a rule the same late
    ones. Scores that were added last may be in some shards only, whose parts have most layers.
    """
    if SCORES not in schema.names or not pa.types.is_map(schema.field(SCORES).type):
        return ()
    most_layers = sorted(late, key=lambda shard: (-late[shard].layer, shard))
    of_sections = (_shards_of(section) for section in run.record.layout.sections)
    found = (_names_in_first(run, shards, late) for shards in (*of_sections, most_layers))
    return tuple(dict.fromkeys(name for names in found for name in names))


def _shards_of(section: PlanLayout) -> Iterator[int]:
    for part in section.parts:
        yield from range(part.first_shard, part.first_shard + part.num_shards)


def _names_in_first(run: Run, shards: Iterable[int], late: Mapping[int, LatePart]) -> list[str]:
    """The names of the scores in the first of some shards that has an image that is ok."""
    for shard in shards:
        rows = read_commit(run.store, shard)
        if pc.any(pc.equal(rows.column("status"), "ok")).as_py():
            rows = with_scores_of(run.store, rows, late.get(shard))
            scores = rows.column(SCORES).to_pylist() if SCORES in rows.column_names else []
            return [name for each in scores for name, _ in each or ()]
    return []

"""The scorers of a job: what is checked before a run, and what a run says about them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.scores_section import ScorerSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import column_uses
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.scoring.scorer import ScorerInfo, ScorerNote
from nightpress.pipelines.shards.events import BatchDone
from nightpress.pipelines.storage.urls import public


def check_scored_columns(spec: RunSpec, files: Sequence[ManifestFile]) -> None:
    """Check that the texts of scorers use only columns that the images of a manifest have.

    Raises:
        ScorerError: one of them uses another.
    """
    if spec.scores:
        from nightpress.pipelines.scoring.loading import check_templates
        from nightpress.pipelines.shards.shard_scores import PROMPTS

        carried = (use.stored_as for use in column_uses(spec, files))
        check_templates(spec.scores, [*PROMPTS, *(name for name in carried if name)])


def scorer_lines(specs: Mapping[str, ScorerSpec], infos: Mapping[str, ScorerInfo]) -> Iterator[str]:
    """`clip (clip, s3://models/clip 3f2a...)`, for each scorer."""
    for name, spec in specs.items():
        sources = "".join(f", {public(source)}" for source in spec.sources)
        kind = spec.scorer if spec.scorer not in sources else spec.scorer.rpartition(":")[2]
        labels = [label for label in infos[name].labels if label]
        of = f", {plural(len(labels), 'label')}" if labels else ""
        yield f"{name} ({kind}{sources}{of}) {infos[name].fingerprint[:12]}"


class ScorerNotes:
    """Says which scores are missing: a scorer's first failure at once, all counts at the end."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[str, int]] = {}
        """Scorer -> why it failed first, and on how many images."""
        self._remarks: Counter[tuple[str, str]] = Counter()
        """Scorer and remark -> of how many images."""

    def add(self, notes: Iterable[ScorerNote]) -> Iterator[Message]:
        """Count notes; yields a warning for a scorer that fails for the first time."""
        for note in notes:
            if not note.has_failed:
                self._remarks[note.scorer, note.text] += note.num_images
                continue
            if note.scorer not in self._failed:
                text = f"scores.{note.scorer}: no score of an image, which stays: {note.text}"
                yield Message(text, warning=True)
            first, number = self._failed.get(note.scorer, (note.text, 0))
            self._failed[note.scorer] = first, number + note.num_images

    def of_event(self, event: Event) -> Iterator[Message]:
        """Count what an event of a run tells of scorers; see `add`."""
        if isinstance(event, BatchDone):
            yield from self.add(event.notes)

    def lines(self) -> Iterator[Message]:
        """What there was to say, with the numbers of images; nothing if all went well."""
        for (scorer, text), number in self._remarks.items():
            yield Message(f"scores.{scorer}: {plural(number, 'image')}: {text}", warning=True)
        for scorer, (first, number) in self._failed.items():
            yield Message(
                f"scores.{scorer}: {plural(number, 'image')} without a score, the first because: "
                f"{first}",
                warning=True,
            )

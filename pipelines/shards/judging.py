"""The verdicts on the draws of one attempt at a shard."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.draws import LostDraw
from nightpress.pipelines.scoring.draws import draw_of_seed
from nightpress.pipelines.scoring.gates import Gates
from nightpress.pipelines.scoring.verdicts import Verdict
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.draw_queue import DrawKey, DrawQueue, Place
from nightpress.pipelines.shards.drawn import Drawn, Ended, ended
from nightpress.pipelines.shards.events import DrawsJudged


@dataclass(frozen=True)
class JudgedBatch:
    """What the verdicts on a batch decided."""

    lost: Sequence[LostDraw]
    """The draws that cannot be taken any more."""
    ended: Sequence[Ended]
    """The places that are decided now."""
    event: DrawsJudged


class Judging:
    """Judges the draws of some places, and knows which of them may still win.

    Args:
        shard: the number of the shard.
        gates: the job's gates.
        images: the images that are drawn, as planned.
    """

    def __init__(self, shard: int, gates: Gates, images: Iterable[PlannedImage]) -> None:
        self._shard, self._gates, self._rule = shard, gates, gates.rule
        self.places = {image.image_id: Place(image) for image in images}
        """Image id -> its place."""
        self._drawn: defaultdict[str, dict[int, Drawn]] = defaultdict(dict)
        """Image id -> the draws that may win, and those that could not be made."""
        self._ended: set[str] = set()

    def draw_of(self, image: PlannedImage) -> int:
        """Which draw of its place an image with the seed of a draw is."""
        return self._number(image.image_id, image.seed)

    def recall(self, lost: Iterable[LostDraw]) -> None:
        """Note the draws that earlier attempts recorded, judged again by their scores."""
        for each in lost:
            place = self.places.get(each.image_id)
            if place is None or place.image.drawn(each.draw).seed != each.seed:
                continue
            fault, gates = each.fault, self._gates
            verdict = gates.judge(each.scores) if fault is None else gates.faulty(fault)
            place.verdicts[each.draw] = verdict

    def add_found(self, record: ImageRecord) -> None:
        """Judge an image that is stored under the name of its place already."""
        facts = record.facts
        drawn = Drawn(self._number(facts.image_id, facts.seed), record)
        place = self.places[facts.image_id]
        place.verdicts[drawn.number] = drawn.verdict(self._gates)
        place.held.add(drawn.number)
        self._drawn[facts.image_id][drawn.number] = drawn

    def end(self, image_id: str) -> Ended | None:
        """How a place is decided; None if it is open, or was returned before."""
        place = self.places[image_id]
        decision = place.decision(self._rule)
        if decision is None or image_id in self._ended or not place.is_done(self._rule):
            return None
        self._ended.add(image_id)
        return ended(place.image, decision, place.verdicts, self._drawn.pop(image_id, {}))

    def judge(self, batch: Sequence[Drawn], queue: DrawQueue) -> JudgedBatch:
        """Judge a batch, and tell the queue."""
        verdicts, news = {each.key: each.verdict(self._gates) for each in batch}, dict[str, None]()
        for each in batch:
            self._drawn[each.image_id][each.number] = each
            news[each.image_id] = None
        queue.add_verdicts(verdicts, [each.key for each in batch if each.is_image])
        event = self._event(verdicts)
        lost = [each for image_id in news for each in self._lost(image_id)]
        done = [end for image_id in news if (end := self.end(image_id)) is not None]
        return JudgedBatch(lost, done, event)

    def _lost(self, image_id: str) -> Iterator[LostDraw]:
        """Drop the draws of a place that cannot win; yields those that were considered."""
        place, drawn = self.places[image_id], self._drawn[image_id]
        place.drop_beaten(self._rule)
        for number, each in list(drawn.items()):
            verdict = place.verdicts[number]
            if number not in place.held and not verdict.ends:
                del drawn[number]
                if self._is_considered(place, number):
                    yield each.lost(verdict)

    def _is_considered(self, place: Place, number: int) -> bool:
        """Whether a draw belongs to those that decide its place, as far as that is known."""
        decision = place.decision(self._rule)
        return decision is None or number < decision.num_draws

    def _event(self, verdicts: Mapping[DrawKey, Verdict]) -> DrawsJudged:
        made, passed, failed = Counter[str](), Counter[str](), Counter[str]()
        for (image_id, number), verdict in verdicts.items():
            place = self.places[image_id]
            if self._is_considered(place, number) and not verdict.ends:
                made[place.image.id] += 1
                passed[place.image.id] += verdict.passes
                failed.update(each.condition for each in verdict.failed)
        return DrawsJudged(
            shard=self._shard,
            num_draws=made.total(),
            num_unused=len(verdicts) - made.total(),
            failed=tuple(failed.items()),
            rows=tuple((row, number, passed[row]) for row, number in made.items()),
        )

    def _number(self, image_id: str, seed: int) -> int:
        image = self.places[image_id].image
        number = draw_of_seed(seed, image.seed, image.id, image.variant, self._rule.max_draws)
        assert number is not None  # noqa: S101 - nothing but draws is sampled or adopted
        return number

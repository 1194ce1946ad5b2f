"""The queue of draws of a shard: which are sampled next, and when a place is decided.

A place needs some draws for certain, whatever their verdicts will be. Draws that it may need are
sampled only where a batch would otherwise be padded, since padding takes the same time.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.scoring.draws import Decision, DrawRule, best, decide
from nightpress.pipelines.scoring.draws import needed_draws as needed
from nightpress.pipelines.scoring.verdicts import Verdict
from nightpress.pipelines.shards.batching import PlannedImage, shared_settings

DrawKey = tuple[str, int]
"""A place, which is an image id, and the number of a draw."""


@dataclass(frozen=True)
class Draw:
    """One draw of a place."""

    image: PlannedImage
    """The planned image with the seed of the draw."""
    number: int

    @property
    def key(self) -> DrawKey:
        """Its place and its number."""
        return self.image.image_id, self.number


@dataclass
class Place:
    """What is known of one place; `held` are the draws whose bytes are in memory."""

    image: PlannedImage
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    """Draws that wait or are being sampled."""

    def decision(self, rule: DrawRule) -> Decision | None:
        """How the place is decided; None if that is open."""
        return decide(self.verdicts, rule)

    def is_done(self, rule: DrawRule) -> bool:
        """Whether no draw of it is needed any more."""
        decision = self.decision(rule)
        return decision is not None and (decision.winner is None or decision.winner in self.held)

    def wanted(self, rule: DrawRule) -> list[int]:
        """The draws that are needed for certain and that nobody has been asked for.

        The winner is made again if only its verdict is known.
        """
        draws = needed(self.verdicts, rule)
        decision = self.decision(rule)
        if decision is not None and decision.winner is not None:
            draws = [] if decision.winner in self.held else [decision.winner]
        return [draw for draw in draws if draw not in self.asked]

    def perhaps(self, rule: DrawRule) -> Iterator[int]:
        """Further draws that it may need, in order."""
        if needed(self.verdicts, rule):
            known = self.asked | self.verdicts.keys()
            yield from (draw for draw in range(rule.max_draws) if draw not in known)

    def drop_beaten(self, rule: DrawRule) -> list[int]:
        """Stop holding the draws that cannot win any more; returns them.

        Of the draws whose predecessors are all known only the best can win. Of the others each may.
        """
        decision = self.decision(rule)
        if decision is not None:
            kept = {decision.winner}
        else:
            known = next(n for n in range(rule.max_draws + 1) if n not in self.verdicts)
            early = [draw for draw in self.held if draw < known]
            able = early if rule.exhausted == "keep" else list(filter(self._passes, early))
            kept = {best(able, self.verdicts), *(draw for draw in self.held if draw > known)}
        beaten = sorted(self.held - kept)
        self.held.difference_update(beaten)
        return beaten

    def _passes(self, draw: int) -> bool:
        return self.verdicts[draw].passes


@dataclass
class _Group:
    """The draws that can share batches."""

    lora: tuple[str | None, float | None]
    waiting: deque[Draw] = field(default_factory=deque)
    """Draws that are needed for certain."""
    num_sampling: int = 0
    """Draws that were handed out and have no verdict yet."""
    places: dict[str, Place] = field(default_factory=dict)


class DrawQueue:
    """Hands out the draws of a shard in batches of equal settings.

    Args:
        places: the places that are open, in plan order.
        rule: how places are decided.
        size: the size of the batch that an image is sampled in; asked again for each batch.
        supports_per_image_guidance: whether guidance scales may differ within a batch.
        singly: whether each draw is sampled in a batch of its own.
    """

    def __init__(
        self,
        places: Iterable[Place],
        rule: DrawRule,
        size: Callable[[PlannedImage], int],
        supports_per_image_guidance: bool = False,
        singly: bool = False,
    ) -> None:
        self._rule, self._size, self._singly = rule, size, singly
        self._groups: dict[tuple[SamplingParams, int], _Group] = {}
        self._group_of: dict[str, _Group] = {}
        for place in places:
            settings = shared_settings(place.image.params, supports_per_image_guidance)
            lora = settings.lora, settings.lora_scale
            key = settings, place.image.num_chunks
            group = self._groups.setdefault(key, _Group(lora))
            group.places[place.image.image_id] = place
            self._group_of[place.image.image_id] = group
            group.waiting.extend(self._ask(place, place.wanted(rule)))
        self._current: _Group | None = None

    def __getitem__(self, image_id: str) -> Place:
        """The place of an image."""
        return self._group_of[image_id].places[image_id]

    @property
    def is_finished(self) -> bool:
        """Whether nothing waits and nothing is being sampled."""
        return not any(each.waiting or each.num_sampling for each in self._groups.values())

    def next_batch(self) -> list[Draw]:
        """Take the draws to sample next; none if verdicts must be known first, or all is done.

        A full batch comes first. A group whose draws do not fill a batch waits until all of its
        verdicts are known, and its batch is then filled with draws that its places may need.
        """
        group = self._next_group()
        if group is None:
            return []
        self._current = group
        size = self._batch_size(group)
        batch = [group.waiting.popleft() for _ in range(min(size, len(group.waiting)))]
        if len(batch) < size and not group.num_sampling and not self._singly:
            batch += self._perhaps_needed(group, size - len(batch))
        group.num_sampling += len(batch)
        return batch

    def coming(self) -> Sequence[Draw]:
        """The draws that wait and come next, as far as that is known now."""
        group = self._next_group()
        if group is None:
            return []
        return list(group.waiting)[: self._batch_size(group)]

    def add_verdicts(
        self, verdicts: Mapping[DrawKey, Verdict], held: Iterable[DrawKey] = ()
    ) -> None:
        """Note the verdicts on draws that were sampled.

        Args:
            verdicts: draw -> its verdict.
            held: those of them whose bytes are in memory.
        """
        places = {}
        for (image_id, number), verdict in verdicts.items():
            self._group_of[image_id].num_sampling -= 1
            place = places[image_id] = self[image_id]
            place.asked.discard(number)
            place.verdicts[number] = verdict
        for image_id, number in held:
            places[image_id].held.add(number)
        for image_id, place in places.items():
            group = self._group_of[image_id]
            if place.is_done(self._rule):  # it may have ended before all it had asked for
                kept = (each for each in group.waiting if each.image.image_id != image_id)
                group.waiting = deque(kept)
            group.waiting.extendleft(reversed(self._ask(place, place.wanted(self._rule))))

    def _ask(self, place: Place, draws: Iterable[int]) -> list[Draw]:
        numbers = list(draws)
        place.asked.update(numbers)
        return [Draw(place.image.drawn(number), number) for number in numbers]

    def _next_group(self) -> _Group | None:
        groups = [each for each in self._in_turn() if each.waiting]
        full = (each for each in groups if len(each.waiting) >= self._batch_size(each))
        settled = (each for each in groups if not each.num_sampling)
        return next(full, None) or next(settled, None)

    def _in_turn(self) -> Iterator[_Group]:
        """The group of the batch before, then those with its LoRA, then the others."""
        before = self._current
        if before is None:
            yield from self._groups.values()
            return
        yield before
        others = [each for each in self._groups.values() if each is not before]
        yield from sorted(others, key=lambda each: each.lora != before.lora)

    def _batch_size(self, group: _Group) -> int:
        if self._singly:
            return 1
        image = group.waiting[0].image
        return image.num_together(self._size(image))

    def _perhaps_needed(self, group: _Group, count: int) -> list[Draw]:
        """Draws that open places may need, evenly among the places."""
        coming = [(place, place.perhaps(self._rule)) for place in group.places.values()]
        chosen: list[Draw] = []
        while coming and len(chosen) < count:
            still = []
            for place, draws in coming:
                number = next(draws, None)
                if number is not None and len(chosen) < count:
                    chosen += self._ask(place, [number])
                    still.append((place, draws))
            coming = still
        return chosen

"""Gates: they judge a draw by its scores."""

import math
from collections.abc import Mapping

from nightpress.pipelines.job.gate_conditions import GateCondition
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.scoring.draws import DrawRule
from nightpress.pipelines.scoring.verdicts import NO_RANK, Miss, Verdict


class Gates:
    """Judges draws by a job's section `gates`."""

    def __init__(self, spec: GatesSpec) -> None:
        self.rule = DrawRule(spec.best_of, spec.max_draws, spec.exhausted)
        self._conditions, self._ranking = spec.conditions, spec.ranking

    def judge(self, scores: Mapping[str, float | None]) -> Verdict:
        """The verdict on an image with these scores."""
        failed = [each for each in self._conditions if not each.holds_in(scores)]
        misses = (_miss(each, scores.get(each.score)) for each in failed)
        return Verdict(tuple(misses), self._rank(scores))

    def faulty(self, fault: str) -> Verdict:
        """The verdict on a draw of which there is no image.

        Args:
            fault: what is wrong with it, such as `Blank`.
        """
        return Verdict((Miss(fault, fault),), is_image=False)

    def _rank(self, scores: Mapping[str, float | None]) -> float:
        if self._ranking is None:
            return NO_RANK
        name, lowest_first = self._ranking
        value = scores.get(name)
        if value is None or math.isnan(value):
            return NO_RANK
        return -value if lowest_first else value


def _miss(condition: GateCondition, value: float | None) -> Miss:
    distance = None
    if value is not None and not math.isnan(value):
        distance = abs(value - condition.value)
    return Miss(str(condition), condition.finding(value), distance)

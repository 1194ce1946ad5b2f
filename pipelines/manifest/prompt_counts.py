"""How many prompts of a plan are not what they seem."""

from dataclasses import asdict, astuple, dataclass

import numpy as np

from nightpress.pipelines.formatting import plural


@dataclass(frozen=True)
class PromptCounts:
    """How many rows have a prompt or negative prompt that is not what it seems."""

    num_cut: int = 0
    """Longer than the model reads."""
    num_literal: int = 0
    """With weights or tags of other programs, which are taken as text."""
    num_doubled: int = 0
    """With doubled parentheses, which are taken as text."""
    num_unguided: int = 0
    """With a negative prompt, but a guidance scale that leaves it out."""

    def __add__(self, other: "PromptCounts") -> "PromptCounts":
        return PromptCounts(*np.add(astuple(self), astuple(other)).tolist())

    def warnings(self) -> list[str]:
        """What a person should know before the run begins."""
        texts = (
            (self.num_cut, "more tokens than the model reads; the end is cut, and recorded"),
            (self.num_literal, "weights or tags of other programs, which are taken as text"),
            (self.num_doubled, "doubled parentheses, as in ((word)), which are taken as text"),
        )
        found = [
            f"{plural(number, 'row')} with a prompt that has {text}"
            for number, text in texts
            if number
        ]
        if self.num_unguided:
            found.append(
                f"{plural(self.num_unguided, 'row')} with a negative prompt that has no effect, as "
                "the guidance_scale leaves guidance off"
            )
        return found

    def as_dict(self) -> dict[str, int]:
        """JSON-ready values; counts that older versions lack only where there are any."""
        values = asdict(self)
        return {k: v for k, v in values.items() if v or k != "num_unguided"}

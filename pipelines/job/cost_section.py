"""The job's key `cost`: what a GPU costs for an hour."""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, PositiveFloat

from nightpress.pipelines.job.sections import Section

HOUR_S = 3600.0


@dataclass(frozen=True)
class Cost:
    """An amount of money, and its share for each image."""

    amount: float
    currency: str
    per_image: float | None
    """None without images."""

    @classmethod
    def of(cls, amount: float, currency: str, num_images: int) -> Self:
        """The cost of some images."""
        return cls(amount, currency, amount / num_images if num_images else None)

    def __str__(self) -> str:
        """`12.40 EUR, 0.0021 EUR an image`."""
        total = money(self.amount, self.currency)
        if self.per_image is None:
            return total
        return f"{total}, {money(self.per_image, self.currency)} an image"


class CostSpec(Section):
    """The price of the GPUs that a job uses."""

    currency: Annotated[
        str,
        Field(
            pattern=r"^[A-Z]{3}$",
            json_schema_extra={
                "patternErrorMessage": "must be three capital letters, such as EUR or USD"
            },
            description="Three capital letters, such as EUR or USD.",
        ),
    ]
    per_gpu_hour: Annotated[
        PositiveFloat,
        Field(
            allow_inf_nan=False,
            description="Price of one GPU for an hour. An actor without a GPU is counted as one, "
            "at the same price.",
        ),
    ]

    def per_actor_s(self, gpus_per_actor: float) -> float:
        """The price of one actor for a second."""
        return self.per_gpu_hour * priced_gpus(gpus_per_actor) / HOUR_S

    def of(self, actor_s: float, gpus_per_actor: float, num_images: int) -> Cost:
        """What seconds of actors cost."""
        amount = actor_s * self.per_actor_s(gpus_per_actor)
        return Cost.of(amount, self.currency, num_images)


def priced_gpus(gpus_per_actor: float) -> float:
    """How many GPUs an actor is paid for: its own, or one if it has none."""
    return gpus_per_actor or 1.0


def money(amount: float, currency: str) -> str:
    """`12.40 EUR`; small amounts with two significant digits, such as `0.0021 EUR`."""
    if amount >= 0.1 or amount == 0:
        return f"{amount:,.2f} {currency}"
    if amount < 1e-9:
        return f"{amount:.1e} {currency}"
    decimals = next(n for n in range(2, 12) if amount * 10**n >= 9.95)
    return f"{amount:.{decimals}f} {currency}"

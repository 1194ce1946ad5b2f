"""How fast and how large: measured rates from the runs that lie beside a job's own.

A rate is only ever taken from the same weights at the same settings; where there is none, there
is no estimate.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.planning import BatchSetting
from pipelines.run_record import RUN_FILE, RunRecord
from pipelines.runs import open_run
from pipelines.spec import RunSpec
from pipelines.storage import Store

RUNS_LOOKED_AT = 8
"""Of the runs beside this one, the latest that used the same model."""

RateKey = tuple[int, int, int, bool]
"""Width, height, steps, and whether guidance doubles the work."""


@dataclass(frozen=True)
class Rate:
    """What one image took."""

    sampling_s: float
    """Seconds of one actor."""
    num_bytes: float


@dataclass(frozen=True)
class Estimate:
    """What a job will take of one actor, and of the store."""

    actor_s: float
    num_bytes: float


def estimate(settings: Iterable[BatchSetting], rates: Mapping[RateKey, Rate]) -> Estimate | None:
    """The sum over a job's settings; None where one of them has not been measured."""
    actor_s = num_bytes = 0.0
    for setting in settings:
        rate = rates.get(_key(setting))
        if rate is None:
            return None
        actor_s += rate.sampling_s * setting.num_images
        num_bytes += rate.num_bytes * setting.num_images
    return Estimate(actor_s, num_bytes)


def measured_rates(spec: RunSpec, model_fingerprint: str) -> dict[RateKey, Rate]:
    """The rates of this model, by settings, from the runs under the job's output."""
    store = Store(spec.output, spec.storage)
    alike: list[tuple[str, str]] = []
    for name in _run_names(store):
        record = RunRecord.from_json(store.read(f"{name}/{RUN_FILE}"))
        if record.model.fingerprint == model_fingerprint:
            alike.append((record.created_at, name))
    rates: dict[RateKey, Rate] = {}
    for _, name in sorted(alike)[-RUNS_LOOKED_AT:]:
        rates |= _rates_of(f"{spec.output.rstrip('/')}/{name}", spec)
    return rates


def _run_names(store: Store) -> list[str]:
    return [name for name in store.folders() if store.size(f"{name}/{RUN_FILE}") is not None]


def _rates_of(url: str, spec: RunSpec) -> dict[RateKey, Rate]:
    settings = ["width", "height", "num_inference_steps", "guidance_scale"]
    metadata: ds.Dataset = open_run(url, spec.storage).metadata
    table = metadata.to_table(
        columns=[*settings, "sampling_s", "num_bytes"], filter=ds.field("sampling_s").is_valid()
    )
    guided = pc.greater(table.column("guidance_scale"), 1.0)
    table = table.set_column(3, "guided", guided)
    grouped = table.group_by([*settings[:3], "guided"]).aggregate(
        [("sampling_s", "mean"), ("num_bytes", "mean")]
    )
    return {
        (row["width"], row["height"], row["num_inference_steps"], row["guided"]): Rate(
            row["sampling_s_mean"], row["num_bytes_mean"]
        )
        for row in grouped.to_pylist()
    }


def _key(setting: BatchSetting) -> RateKey:
    return (
        setting.width,
        setting.height,
        setting.num_inference_steps,
        setting.guidance_scale > 1.0,
    )

"""Compare what metadata rows say about draws with the plan and the job's gates."""

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.scoring.draws import draw_seed

DRAW_COLUMNS = ("status", "draw", "draws")


def with_drawn_seeds(planned: pa.Table, part: pa.Table) -> pa.Table:
    """The plan of a shard with the seeds of the draws that were taken.

    Args:
        planned: rows of the plan.
        part: the metadata of a shard, of any version.
    """
    draws = metadata_columns(part, ["draw"]).column("draw")
    if len(part) != len(planned) or not pc.any(pc.greater(draws, 0)).as_py():
        return planned
    rows = planned.select(["seed", "id", "variant"]).to_pylist()
    seeds = [
        draw_seed(row["seed"], row["id"], row["variant"], draw or 0)
        for row, draw in zip(rows, draws.to_pylist(), strict=True)
    ]
    position = planned.schema.get_field_index("seed")
    return planned.set_column(position, planned.schema.field(position), pa.array(seeds, pa.int64()))


def wrong_draws(part: pa.Table, gates: GatesSpec | None) -> str | None:
    """The first row whose draw cannot be that of a run with these gates, if any.

    Args:
        part: the metadata of a shard, of any version.
        gates: the job's gates; None for a run without.
    """
    columns = metadata_columns(part, DRAW_COLUMNS)
    if gates is None:
        drawn = pc.or_(*(pc.is_valid(columns.column(name)) for name in ("draw", "draws")))
        first = pc.index(drawn, True).as_py()
        return None if first < 0 else f"row {first}, column draw: the run has no gates"
    for number, row in enumerate(columns.to_pylist()):
        draw, draws = row["draw"], row["draws"]
        if row["status"] == "ok" and (draw is None or draws is None):
            return f"row {number}, column draw: missing, but the run has gates"
        if draw is not None and not 0 <= draw < (draws or 0) <= gates.max_draws:
            return (
                f"row {number}, column draw: draw {draw} of {draws}, but max_draws is "
                f"{gates.max_draws}"
            )
    return None

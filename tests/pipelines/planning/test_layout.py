"""The layout of a plan: looking a shard up costs the same, however large the plan is."""

from collections.abc import Iterator

from nightpress.pipelines.planning.layout import PlanLayout, PlanPart, part_path

SHARDS, ROWS = 4, 40


class CountedParts(tuple[PlanPart, ...]):
    """Parts that count how often somebody goes through all of them."""

    num_walks = 0

    def __iter__(self) -> Iterator[PlanPart]:
        CountedParts.num_walks += 1
        return super().__iter__()


def layout_of(num_parts: int) -> PlanLayout:
    parts = (
        PlanPart(part_path(n), n, n * ROWS, ROWS, ROWS, n * SHARDS, SHARDS, model=f"m{n}")
        for n in range(num_parts)
    )
    return PlanLayout(CountedParts(parts), ROWS // SHARDS, (), ())


def test_a_shard_is_looked_up_without_going_through_all_parts() -> None:
    layout = layout_of(30)
    layout.shard_images(0)
    before = CountedParts.num_walks
    for shard in range(layout.num_shards):
        assert layout.model_of(shard) == f"m{shard // SHARDS}"
        assert layout.section_of(shard) is layout
        assert layout.shard_images(shard) == ROWS // SHARDS
    assert CountedParts.num_walks == before


def test_a_layout_cut_anew_counts_its_shards_anew() -> None:
    layout = layout_of(3)
    assert layout.num_shards == 12
    assert layout.in_shards(ROWS, 1).num_shards == 3
    assert layout.extended(layout).num_shards == 24

"""Planning: turn a manifest into a list of images, named, seeded, sorted and cut into shards.

`check` validates everything and writes nothing; `write_plan` writes the plan; `read_shard` reads
one shard of it back. The work runs in one process, or wherever the caller's `mapper` sends it.
"""

from nightpress.pipelines.planning.checking import check, cut_into_shards, manifest_changes
from nightpress.pipelines.planning.duplicates import Mapper
from nightpress.pipelines.planning.index import candidate_shards
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart, SettingsCount
from nightpress.pipelines.planning.parts import plan_part, read_shard, rewrite_plan_part, write_plan

__all__ = [
    "Mapper",
    "PlanLayout",
    "PlanPart",
    "SettingsCount",
    "candidate_shards",
    "check",
    "cut_into_shards",
    "manifest_changes",
    "plan_part",
    "read_shard",
    "rewrite_plan_part",
    "write_plan",
]

"""Planning: from a manifest to every image to make, named, seeded, sorted and cut into shards.

`check` validates everything and writes nothing; `write_plan` writes the plan;
`read_shard` reads a piece of it back. Runs in one process, or wherever the caller's mapper does.
"""

from nightpress.pipelines.planning.checking import check, cut, manifest_changes
from nightpress.pipelines.planning.duplicates import Mapper
from nightpress.pipelines.planning.index import candidate_shards
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart, SettingsCount
from nightpress.pipelines.planning.parts import mend_plan, plan_part, read_shard, write_plan

__all__ = [
    "Mapper",
    "PlanLayout",
    "PlanPart",
    "SettingsCount",
    "candidate_shards",
    "check",
    "cut",
    "manifest_changes",
    "mend_plan",
    "plan_part",
    "read_shard",
    "write_plan",
]

"""Planning: turn a manifest into a list of images, named, seeded, sorted and cut into shards.

`check` validates every row and `check_inputs` the pictures; neither writes anything. `write_plan`
writes the plan; `read_shard` reads one shard of it back. The work runs in one process, or wherever
the caller's `mapper` sends it.
"""

from nightpress.pipelines.planning.added_rows import CheckedRows, check_added_rows
from nightpress.pipelines.planning.checking import check, cut_into_shards
from nightpress.pipelines.planning.duplicates import Mapper
from nightpress.pipelines.planning.growth import Growth, GrowthSummary
from nightpress.pipelines.planning.growth_comparison import PlanIncomplete, compare_growth
from nightpress.pipelines.planning.index import candidate_shards
from nightpress.pipelines.planning.input_checks import RecordedImages, check_inputs
from nightpress.pipelines.planning.input_hashes import keep_hashes
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart, SettingsCount
from nightpress.pipelines.planning.parts import plan_part, read_shard, rewrite_plan_part, write_plan
from nightpress.pipelines.planning.picture_facts import PictureFacts
from nightpress.pipelines.planning.selection import select_images
from nightpress.pipelines.planning.shard_order import shards_in_order
from nightpress.pipelines.planning.sources import (
    ManifestComparison,
    compare_manifest,
    file_changes,
    manifest_sources,
    planned_file_changes,
    require_unchanged,
)

__all__ = [
    "CheckedRows",
    "Growth",
    "GrowthSummary",
    "ManifestComparison",
    "Mapper",
    "PictureFacts",
    "PlanIncomplete",
    "PlanLayout",
    "PlanPart",
    "RecordedImages",
    "SettingsCount",
    "candidate_shards",
    "check",
    "check_added_rows",
    "check_inputs",
    "compare_growth",
    "compare_manifest",
    "cut_into_shards",
    "file_changes",
    "keep_hashes",
    "manifest_sources",
    "plan_part",
    "planned_file_changes",
    "read_shard",
    "require_unchanged",
    "rewrite_plan_part",
    "select_images",
    "shards_in_order",
    "write_plan",
]

from .added_rows import CheckedRows, check_added_rows
from .checking import check, cut_into_shards
from .duplicates import Mapper
from .growth import Growth
from .growth_comparison import PlanIncomplete, compare_growth
from .growth_summary import GrowthSummary
from .index import candidate_shards
from .input_checks import RecordedImages, check_inputs
from .input_hashes import keep_hashes
from .layout import PlanLayout, PlanPart, SettingsCount
from .parts import plan_part, read_shard, rewrite_plan_part, write_plan
from .picture_facts import PictureFacts
from .selection import select_images
from .shard_order import shards_in_order
from .sources import (
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

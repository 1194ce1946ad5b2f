"""The models in the hub's cache on this machine, without asking the hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightpress.pipelines.models.location import MODEL_INDEX


@dataclass(frozen=True)
class CachedModel:
    """One revision of a repository that holds a diffusers pipeline."""

    source: str
    """As a job names it: `owner/name`, or `owner/name@revision` unless it is the main branch."""
    folder: Path


def cached_models(repo: str | None = None) -> Iterator[CachedModel]:
    """The revisions in the cache that hold a diffusers pipeline, sorted.

    Args:
        repo: only those of this repository.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    for found in sorted(cache.repos, key=lambda each: each.repo_id):
        if found.repo_type != "model" or repo not in (None, found.repo_id):
            continue
        for revision in sorted(found.revisions, key=lambda each: each.commit_hash):
            if (revision.snapshot_path / MODEL_INDEX).is_file():
                names = sorted(revision.refs) or [revision.commit_hash]
                end = "" if "main" in names else f"@{names[0]}"
                yield CachedModel(f"{found.repo_id}{end}", revision.snapshot_path)

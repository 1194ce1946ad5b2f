"""What travels with a submitted job: its job file and the manifests that lie beside it."""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from nightpress.pipelines import storage
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import size
from nightpress.pipelines.image_files.content_credentials.setup import with_certificate
from nightpress.pipelines.job.scores_section import OwnSpec
from nightpress.pipelines.job.spec import RunSpec, canonical_json
from nightpress.pipelines.manifest.campaigns import load_campaign
from nightpress.pipelines.manifest.files import load_table
from nightpress.pipelines.manifest.formats import is_campaign
from nightpress.pipelines.models.location import is_path

JOB_FILE = "job.yaml"

MAX_BYTES = 400 * 2**20
"""Ray refuses packages of 500 MiB or more."""


@dataclass(frozen=True)
class Bundle:
    """A folder that a cluster can run a job from."""

    folder: Path
    fingerprint: str
    """SHA-256 of the job and of the manifests in the folder, 12 hexadecimal digits."""


def write_bundle(spec: RunSpec, folder: Path, ship_package: bool) -> Bundle:
    """Write a job, and the manifests that it names by relative paths, into an empty folder.

    Paths in the written job mean the same files there, and a certificate becomes its text. The
    cluster address is left out, because the cluster that receives the job is the one that it runs
    on.

    Args:
        spec: the job, as it was read on this machine.
        folder: an empty folder.
        ship_package: whether the package is sent in another way, so that the job must not.

    Raises:
        SpecError: the job names a file or folder of this machine that cannot travel with it, or
            its manifests are too large to do so.
    """
    _require_urls(spec)
    spec = with_certificate(spec)
    manifests = {path for url in spec.manifests for path in _travelling(url)}
    _copy(manifests | set(_python_files(spec)), folder)
    values = spec.as_dict()
    values["cluster"] |= {"address": None} | ({"ship_package": False} if ship_package else {})
    (folder / JOB_FILE).write_text(as_yaml(values), encoding="utf-8")
    return Bundle(folder, _fingerprint(folder))


def as_yaml(values: Mapping[str, Any]) -> str:
    """A job as YAML with every text in quotes: a name such as 1e3 is a number without them."""
    return yaml.dump(values, Dumper=_QuotedTexts, sort_keys=False)


class _QuotedTexts(yaml.SafeDumper):
    """Writes texts in quotes."""


_QuotedTexts.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def _require_urls(spec: RunSpec) -> None:
    """Refuse relative paths of what does not travel: the cluster has other folders."""
    local = [("model", each) for each in spec.model_sources if is_path(each)]
    local += [
        (f"scores.{name}.model", source)
        for name, each in spec.scores.items()
        if not isinstance(each, OwnSpec)
        for source in each.sources
        if is_path(source)
    ]
    named = [("output", spec.output), ("inputs.root", spec.inputs.root or "/"), *local]
    for key, url in named:
        if _is_relative(url):
            raise SpecError(
                f"{key}: {url!r} is a path of this machine; to submit the job, give a URL such as "
                "s3://bucket/folder, or an absolute path that all nodes of the cluster share"
            )


def _is_relative(url: str) -> bool:
    """Whether a URL is a path that means other files on other machines."""
    path = urlsplit(url).path if storage.is_url(url) else url
    return storage.is_local(url) and not PurePosixPath(path).is_absolute()


def _travelling(url: str) -> Iterator[Path]:
    """The files of one entry of `manifest`, if it is a relative path."""
    in_archive = url.rpartition("::")[2] if storage.is_url(url) else url
    if not _is_relative(in_archive):
        return
    if ".." in PurePosixPath(url).parts or url.startswith("~") or in_archive != url:
        raise SpecError(
            f"manifest: {url!r} is no file or folder below the one where submit starts, so it "
            "cannot travel with the job; start submit in a folder above it, or give a URL"
        )
    for source in storage.find([url], {}):
        yield Path(source.url)
        if is_campaign(source.url):
            yield from _read_by(source.url)


def _python_files(spec: RunSpec) -> Iterator[Path]:
    """The Python files of scorers that are relative paths."""
    for name, each in spec.scores.items():
        if not isinstance(each, OwnSpec) or not _is_relative(each.file):
            continue
        if os.path.relpath(each.file).startswith(".."):
            raise SpecError(
                f"scores.{name}.scorer: {each.file} is not below the folder where submit starts, "
                "so it cannot travel with the job; start submit in a folder above it, or give a URL"
            )
        if not Path(each.file).is_file():
            raise SpecError(f"scores.{name}.scorer: {each.file}: no such file")
        yield Path(each.file)


def _read_by(campaign: str) -> Iterator[Path]:
    """The lists and tables that a campaign names by relative paths."""
    for url in load_campaign(campaign, {}, load_table).beside:
        path = Path(url)
        if os.path.relpath(path).startswith(".."):
            raise SpecError(
                f"manifest: {campaign} reads {url}, which is not below the folder where submit "
                "starts, so it cannot travel with the job; start submit in a folder above both, or "
                "give a URL"
            )
        yield path


def _copy(files: Collection[Path], folder: Path) -> None:
    """Copy files to the same relative paths in a folder."""
    try:
        total = sum(path.stat().st_size for path in files)
        if total > MAX_BYTES:
            raise SpecError(
                f"manifest: {size(total)} of files would travel with the job, at most "
                f"{size(MAX_BYTES)} can; put them on object storage and give their URL"
            )
        for path in files:
            target = folder / os.path.relpath(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    except OSError as error:
        where = error.filename or folder
        raise SpecError(f"manifest: {where}: {error.strerror or error}") from error


def _fingerprint(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    return hashlib.sha256(canonical_json(contents).encode()).hexdigest()[:12]

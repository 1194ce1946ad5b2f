"""`train.json`: the job and the data of a training run, and whether a job may resume it."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from nightpress.pipelines.errors import Change, ChangedRunError, RunNotFound, UnsupportedFormat
from nightpress.pipelines.run_directory.json_files import json_file, what_is_wrong
from nightpress.pipelines.run_directory.versions import package_versions
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.layout import TRAIN_FILE
from nightpress.pipelines.training.spec import TrainSpec, train_spec

FORMAT_VERSION = 1
"""Increased when an older nightpress could no longer resume or report a training run."""


@dataclass(frozen=True)
class TrainRecord:
    """Everything that a machine needs to resume a training run that another machine began."""

    spec: TrainSpec
    data_fingerprint: str
    num_images: int
    base: str
    """Fingerprint of the initial weights; empty if all of them were new."""
    created_at: str
    """UTC, ISO 8601."""
    versions: dict[str, str]

    def to_json(self) -> bytes:
        """Serialize to the contents of `train.json`."""
        values = {
            "format_version": FORMAT_VERSION,
            "nightpress": self.versions["nightpress"],
            "created_at": self.created_at,
            "spec": self.spec.as_dict(),
            "data": {"fingerprint": self.data_fingerprint, "num_images": self.num_images},
            "base": self.base,
            "versions": self.versions,
        }
        return json_file(values)

    @classmethod
    def from_json(cls, data: bytes, url: str) -> Self:
        """Parse `train.json`; `url` is the run directory, as messages name it.

        Raises:
            RunNotFound: the file is not the record of a training run.
            UnsupportedFormat: it was written in a newer format.
        """
        try:
            values = json.loads(data)
            version = int(values["format_version"])
            if version <= FORMAT_VERSION:
                return cls._from_values(values)
        except (ValueError, KeyError, TypeError) as error:
            wrong = what_is_wrong(error)
            raise RunNotFound(f"{url}/{TRAIN_FILE}: not a training record: {wrong}") from error
        raise UnsupportedFormat(
            f"{url}: this training run was written in format {version}; this nightpress reads up "
            f"to format {FORMAT_VERSION}. Upgrade nightpress."
        )

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Self:
        return cls(
            spec=train_spec(values["spec"], where=TRAIN_FILE),
            data_fingerprint=values["data"]["fingerprint"],
            num_images=values["data"]["num_images"],
            base=values["base"],
            created_at=values["created_at"],
            versions=values["versions"],
        )

    def changes(self, other: "TrainRecord") -> list[Change]:
        """What `other` would train differently."""
        changes = self.spec.changes(other.spec)
        if other.data_fingerprint != self.data_fingerprint:
            changes.append(
                Change("data_fingerprint", self.data_fingerprint, other.data_fingerprint)
            )
        if other.base != self.base:
            changes.append(Change("base_weights", self.base, other.base))
        return changes


def new_record(spec: TrainSpec, data_fingerprint: str, num_images: int, base: str) -> TrainRecord:
    """Create the record of a training run that begins now."""
    return TrainRecord(
        spec=spec,
        data_fingerprint=data_fingerprint,
        num_images=num_images,
        base=base,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
    )


def read_record(store: Store) -> TrainRecord | None:
    """Read the record of the training run in this store; None if none has begun."""
    data = store.read_if_any(TRAIN_FILE)
    return None if data is None else TrainRecord.from_json(data, store.url)


def begin_or_resume(store: Store, record: TrainRecord) -> TrainRecord:
    """Write `train.json`, or return the record of the same training run if it has begun already.

    Raises:
        ChangedRunError: the store holds another training run.
    """
    if store.create(TRAIN_FILE, record.to_json()):
        return record
    existing = refuse_another(store, record)
    if existing is None:
        raise RunNotFound(f"{store.url}: {TRAIN_FILE} was deleted while it was being read")
    return existing


def refuse_another(store: Store, record: TrainRecord) -> TrainRecord | None:
    """The record of the same training run; None if none has begun here. Writes nothing.

    Raises:
        ChangedRunError: the store holds another training run.
    """
    existing = read_record(store)
    if existing is not None and (changes := existing.changes(record)):
        raise ChangedRunError(store.url, changes)
    return existing

"""`train.json`: what a training run is, and whether a job may go on with it.

Owns the record and its comparison. Knows nothing of weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from nightpress.pipelines.errors import Change, ChangedRunError, RunNotFound
from nightpress.pipelines.run_directory.json_files import json_file
from nightpress.pipelines.run_directory.record import package_versions
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.spec import TrainSpec, train_spec

TRAIN_FILE = "train.json"


@dataclass(frozen=True)
class TrainRecord:
    """Everything a machine needs to go on with a training that another machine began."""

    spec: TrainSpec
    data_fingerprint: str
    num_images: int
    base: str
    """Fingerprint of the weights that training began from, where there are any."""
    created_at: str
    """UTC, ISO 8601."""
    versions: dict[str, str]

    def to_json(self) -> bytes:
        """As written to `train.json`."""
        values = {
            "nightpress": self.versions["nightpress"],
            "created_at": self.created_at,
            "spec": self.spec.as_dict(),
            "data": {"fingerprint": self.data_fingerprint, "num_images": self.num_images},
            "base": self.base,
            "versions": self.versions,
        }
        return json_file(values)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The inverse of `to_json`.

        Raises:
            RunNotFound: it is not the record of a training that this version can read.
        """
        try:
            return cls._from_values(json.loads(data))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunNotFound(f"{TRAIN_FILE} is no training of this version ({reason})") from error

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
        found = self.spec.changes(other.spec)
        if other.data_fingerprint != self.data_fingerprint:
            found.append(Change("data_fingerprint", self.data_fingerprint, other.data_fingerprint))
        if other.base != self.base:
            found.append(Change("base_weights", self.base, other.base))
        return found


def new_record(spec: TrainSpec, data_fingerprint: str, num_images: int, base: str) -> TrainRecord:
    """The record of a training that begins now."""
    return TrainRecord(
        spec=spec,
        data_fingerprint=data_fingerprint,
        num_images=num_images,
        base=base,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
    )


def read_record(store: Store) -> TrainRecord | None:
    """The record of the training in this store; None where none has begun."""
    data = store.read_if_any(TRAIN_FILE)
    return None if data is None else TrainRecord.from_json(data)


def claim(store: Store, record: TrainRecord) -> TrainRecord:
    """Write `train.json`, or find that this very training has begun already.

    Raises:
        ChangedRunError: what has begun here is another training.
    """
    if store.create(TRAIN_FILE, record.to_json()):
        return record
    found = read_record(store)
    if found is None:
        raise RunNotFound(f"{store.url}: {TRAIN_FILE} was there and has gone")
    _refuse(store, found.changes(record))
    return found


def _refuse(store: Store, changes: Sequence[Change]) -> None:
    if changes:
        raise ChangedRunError(store.url, changes)

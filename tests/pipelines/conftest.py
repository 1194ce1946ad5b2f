"""What the tests of shards share."""

from pathlib import Path

import pyarrow as pa
import pytest
from fake_press import prepare

from pipelines.run_record import RunRecord
from pipelines.storage import Store


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, RunRecord, pa.Table]:
    """Six pictures that are planned in memory, with nothing in their store."""
    return prepare(tmp_path, [f"picture {i}" for i in range(6)])

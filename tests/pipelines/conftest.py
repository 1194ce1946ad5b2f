"""What the tests of shards share."""

from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes.fake_runs import prepare

from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import Store


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, RunRecord, pa.Table]:
    """Six pictures that are planned in memory, with nothing in their store."""
    return prepare(tmp_path, [f"picture {i}" for i in range(6)])

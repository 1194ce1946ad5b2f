"""A planned run for the tests of shards."""

from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes.fake_runs import prepare

from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import Store


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, RunRecord, pa.Table]:
    """A run of six images, planned in memory, with an empty store."""
    return prepare(tmp_path, [f"picture {i}" for i in range(6)])

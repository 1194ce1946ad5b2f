"""Tables with a row for each image, in files of bounded size."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightpress.pipelines.export import table_files
from nightpress.pipelines.export.table_files import TableFiles, delete_later_files
from nightpress.pipelines.storage import Store

SCHEMA = pa.schema([pa.field("n", pa.int64())])


def written(store: Store, num_tables: int, file_bytes: int) -> tuple[str, ...]:
    table = TableFiles(store.put, "dropped", SCHEMA, file_bytes)
    for n in range(num_tables):
        table.add(pa.table([[n, -n]], schema=SCHEMA))
        table.add(SCHEMA.empty_table())
    paths = table.finish()
    delete_later_files(store, "dropped", len(paths))
    return paths


def test_a_large_table_has_several_files_and_every_row_once(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "GROUP_ROWS", 4)
    store = Store(str(tmp_path))
    paths = written(store, 5, file_bytes=1)
    assert paths == ("dropped.parquet", "dropped-1.parquet", "dropped-2.parquet")
    read = [pq.read_table(f"{tmp_path}/{path}") for path in paths]
    assert [len(each) for each in read] == [4, 4, 2]
    assert pa.concat_tables(read).column("n").to_pylist() == [0, 0, 1, -1, 2, -2, 3, -3, 4, -4]
    assert written(store, 1, file_bytes=1) == ("dropped.parquet",)
    assert list(store.list()) == ["dropped.parquet"]


def test_a_table_without_rows_is_one_file(tmp_path: object) -> None:
    store = Store(str(tmp_path))
    assert written(store, 0, file_bytes=1) == ("dropped.parquet",)
    assert pq.read_table(f"{tmp_path}/dropped.parquet").schema == SCHEMA

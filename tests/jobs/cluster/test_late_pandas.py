"""When pyarrow imports pandas, and what it knows of frames afterwards; each in a process."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

needs_pandas = pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")

LATE = (
    "import sys\n"
    "from nightpress.jobs.cluster.late_pandas import import_pandas_late\n"
    "import_pandas_late()\n"
)


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ARRAY = "import pyarrow as pa\npa.array([1, 2])\nimport pyarrow.dataset\n"
LOADED = "print('pandas' in sys.modules)\n"


@needs_pandas
def test_pyarrow_makes_arrays_without_pandas_once_it_is_told_to() -> None:
    assert printed(LATE + ARRAY + LOADED) == "False"
    assert printed("import sys\n" + ARRAY + LOADED) == "True", "pyarrow needs no telling any more"


FRAMES = (
    "import pandas as pd\n"
    "series = pd.Series([1.0, float('nan')])\n"
    "print(pa.array(series).null_count, pa.table(pd.DataFrame({'a': series})).num_rows,\n"
    "      type(pa.table({'b': [1]}).to_pandas()).__name__)\n"
)


@needs_pandas
@pytest.mark.parametrize("before", [ARRAY, "import pandas, pyarrow as pa\n"])
def test_frames_are_known_as_soon_as_something_imports_pandas(before: str) -> None:
    assert printed(LATE + before + FRAMES) == "1 2 DataFrame"


@needs_pandas
def test_a_column_is_turned_into_pandas_by_a_process_that_has_not_imported_it() -> None:
    assert printed(LATE + ARRAY + "print(len(pa.array([1, 2]).to_pandas()))") == "2"


def test_a_process_that_has_pyarrow_already_is_left_as_it_is() -> None:
    count = "print(sum('late_pandas' in type(each).__module__ for each in sys.meta_path))"
    assert printed("import pyarrow\n" + LATE + count) == "0"
    assert printed(LATE + "import_pandas_late()\n" + count) == "1"

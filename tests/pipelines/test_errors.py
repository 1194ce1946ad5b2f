"""Problems of a manifest in words."""

import pickle

from nightpress.pipelines.errors import ManifestError, NotConverted, Problem


def test_a_problem_names_its_line_or_its_row() -> None:
    assert (
        str(Problem("m.csv", 3, "width", "wrong", line=5)) == "m.csv, line 5, column width: wrong"
    )
    assert str(Problem("m.parquet", 3, None, "wrong")) == "m.parquet, row 3 (counted from 0): wrong"
    assert str(Problem("m.csv", None, None, "wrong")) == "m.csv: wrong"
    assert str(Problem("m.txt", None, None, "wrong", 5, 9)) == "m.txt, line 5, character 9: wrong"


def test_a_line_is_named_once_however_many_problems_it_has() -> None:
    problems = [Problem("m.txt", None, None, "wrong", line, at) for line, at in [(5, 1), (5, 9)]]
    assert str(ManifestError(problems)) == "m.txt, line 5, character 1: wrong"
    problems.append(Problem("m.txt", None, None, "wrong", 7, 1))
    assert str(ManifestError(problems)) == "m.txt, lines 5 and 7: wrong"


def test_a_folder_that_is_not_converted_says_how_to_go_on() -> None:
    error = NotConverted([Problem("m.txt", None, None, "wrong", 5)])
    assert str(error).splitlines() == [
        "m.txt, line 5: wrong",
        "nothing was written; --leave-out leaves these entries out",
    ]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_problems_that_differ_in_their_place_only_are_one_line() -> None:
    problems = [Problem("m.csv", row, "width", "wrong", line=row + 2) for row in range(16)]
    problems += [Problem("m.pq", row, None, "wrong") for row in range(6)]
    problems.insert(1, Problem("m.csv", 0, "height", "wrong", line=2))
    error = ManifestError(problems[:19], total=40)
    assert str(error).splitlines() == [
        "m.csv, lines 2, 3, 4, 5, 6 and 11 more, column width: wrong",
        "m.csv, line 2, column height: wrong",
        "m.pq, rows 0 and 1 (counted from 0): wrong",
        "... and 21 more",
    ]
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
    assert "rows 0, 1, 2, 3, 4 and 5 (counted from 0)" in str(ManifestError(problems[-6:]))

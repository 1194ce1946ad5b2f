"""What a run has used, read back from its commits as two small arrays."""

import pickle

import pyarrow as pa

from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.used_inputs import NOTHING_USED, UsedInputs

OLD, NEW = "0" * 63 + "1", "f" * 64


def rows(*values: tuple[str | None, list[tuple[str | None, str | None]] | None]) -> pa.Table:
    """Metadata rows of (error type, [(URL, SHA-256)])."""
    columns = {
        "error_type": [error for error, _ in values],
        "inputs": [
            None
            if inputs is None
            else [
                {"role": "init_image", "url": url, "sha256": sha256, "fit": "cover"}
                for url, sha256 in inputs
            ]
            for _, inputs in values
        ],
    }
    schema = pa.schema([METADATA_SCHEMA.field(name) for name in columns])
    return pa.table(columns, schema=schema)


def test_every_row_counts_that_got_as_far_as_the_model() -> None:
    used = UsedInputs.of(
        [
            rows((None, [("a.png", OLD), ("b.png", NEW)]), (None, None), (None, [])),
            rows(
                (None, [("a.png", OLD)]),
                ("NonFinite", [("c.png", NEW)]),
                ("InputUndecodable", [("d.png", OLD)]),
                ("InputChanged", [("a.png", NEW)]),
                ("InputMissing", [("e.png", None), ("f.png", OLD)]),
                (None, [(None, OLD)]),
            ),
        ]
    )
    assert used.hashes("a.png") == {OLD}
    assert used.hashes("b.png") == used.hashes("c.png") == {NEW}
    for url in ("d.png", "e.png", "f.png", "never.png", ""):
        assert used.hashes(url) == frozenset()
    assert len(used.keys) == 3


def test_a_picture_that_changed_while_a_start_was_working_has_both_hashes() -> None:
    used = UsedInputs.of([rows((None, [("a.png", OLD)])), rows((None, [("a.png", NEW)]))])
    assert used.hashes("a.png") == {OLD, NEW}


def test_many_pictures_take_forty_bytes_each_and_are_found_again() -> None:
    table = rows(*((None, [(f"photos/{n}.png", f"{n:064x}")]) for n in range(1_000)))
    used = pickle.loads(pickle.dumps(UsedInputs.of([table])))
    assert used.keys.nbytes + used.digests.nbytes == 40_000
    for number in (0, 1, 500, 999):
        assert used.hashes(f"photos/{number}.png") == {f"{number:064x}"}


def test_a_run_without_pictures_has_used_nothing() -> None:
    assert NOTHING_USED.hashes("a.png") == frozenset()
    assert len(UsedInputs.of([]).keys) == 0

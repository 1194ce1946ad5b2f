"""A run whose manifest has gained rows: what `run` says, and what `extend` adds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ManifestGrown
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


def row(number: int) -> str:
    return json.dumps({"prompt": f"a new picture {number}", "mood": "new"}) + "\n"


@pytest.mark.usefixtures("local_ray")
def test_a_run_that_grew_makes_only_what_came(finished: MakeSpec) -> None:
    spec = finished()
    before = hashes(spec)
    (path,) = map(Path, spec.manifests)
    path.write_text(
        "".join(path.read_text().splitlines(keepends=True) + [row(n) for n in range(3)])
    )
    with pytest.raises(ManifestGrown, match="3 images came"):
        jobs.run(spec)
    result = jobs.run(spec, extend=True)
    assert (result.num_images, result.num_made) == (PROMPTS + 3, 3)
    after = hashes(spec)
    assert {name: after[name] for name in before} == before
    assert len(read_metadata(spec)) == PROMPTS + 3
    edition = json.loads(Path(spec.url, "editions/0001.json").read_text())
    assert edition["images"]["came"]["number"] == 3
    assert jobs.run(spec).num_made == 0
    assert jobs.verify(spec).findings == ()

    # What repairs and reproduces images reads the rows of the edition.
    new = Path(spec.url, f"images/{PROMPTS:08d}_00.png")
    data = new.read_bytes()
    new.write_bytes(b"harmed")
    Path(spec.url, "plan/part-00001.parquet").write_bytes(b"harmed")
    assert jobs.verify(spec, repair=True).is_sound
    assert new.read_bytes() == data
    run = open_run(spec.url)
    assert jobs.reproduce(run, f"{PROMPTS:08d}_00", device="cpu").image == data

    # Rows that went are recorded without a cluster, and nothing is made or deleted.
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:PROMPTS]))
    result = jobs.run(spec, extend=True)
    assert (result.num_images, result.num_made) == (PROMPTS + 3, 0)
    assert jobs.status(spec).num_gone == 3
    assert hashes(spec) == after

"""README.md, croissant.json and the tables beside an export."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from support.exports import SPLIT, finished_run, spec_of, written
from support.made_runs import colour

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import Run
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.export.card import size_category
from nightpress.pipelines.export.layouts.registry import DATA_FILES, WRITERS
from nightpress.pipelines.export.licences import licences_of
from nightpress.pipelines.export.spec import WITHOUT_SPLITS
from nightpress.pipelines.storage import Store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finished_run(tmp_path / "press")


RDFLIB = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
"""What mlcroissant uses of rdflib."""


@RDFLIB
@pytest.mark.parametrize("layout", sorted(set(WRITERS) - {"preference"}))
def test_mlcroissant_accepts_the_description_of_every_layout(
    run: Run, tmp_path: Path, layout: str
) -> None:
    import mlcroissant

    split = None if layout in WITHOUT_SPLITS else SPLIT
    spec = spec_of(tmp_path, run.url, layout=layout, split=split, licence="CC0-1.0")
    written(spec)
    path = Path(spec.url, "croissant.json")
    described = mlcroissant.Dataset(jsonld=str(path))
    issues = described.metadata.ctx.issues
    assert not issues.errors, issues.report()
    assert described.metadata.name == "set"
    assert described.metadata.data_limitations
    assert "made by a trained model" in str(described.metadata.data_collection)


@RDFLIB
@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")
def test_mlcroissant_reads_every_image_and_caption(run: Run, tmp_path: Path) -> None:
    import mlcroissant
    import numpy as np

    spec = spec_of(tmp_path, run.url, split=SPLIT, caption="{topic}")
    summary = written(spec)
    described = mlcroissant.Dataset(jsonld=f"{spec.url}/croissant.json")
    for split, num_images in summary.num_images.items():
        records = list(described.records(split))
        assert len(records) == num_images
        for record in records:
            seed = record[f"{split}/seed"]
            assert record[f"{split}/caption"] == f"topic {seed}".encode()
            pixel = np.asarray(record[f"{split}/image"].convert("RGB"))[0, 0]
            assert tuple(pixel.tolist()) == colour(seed)


def test_the_card_says_what_is_in_the_set_and_what_is_not(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, split=SPLIT, licence="CC-BY-4.0")
    written(spec)
    text = Path(spec.url, "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["license"] == "CC-BY-4.0"
    assert values["configs"][0]["data_files"] == [
        {"split": split, "path": f"data/{split}-*.parquet"} for split in spec.splits
    ]
    for said in (
        "9 images with captions",
        "| train | 6 |",
        "| failed | 1 |",
        "| `topic` | 9 | 1.00 |",
        "| model | `ffffffffffffffff` | apache-2.0 |",
    ):
        assert said in body
    assert "builtin" not in body


@pytest.mark.parametrize("layout", sorted(set(WRITERS) - set(DATA_FILES)))
def test_a_card_names_no_files_that_datasets_could_not_read(
    run: Run, tmp_path: Path, layout: str
) -> None:
    spec = spec_of(tmp_path, run.url, layout=layout)
    written(spec)
    head = Path(spec.url, "README.md").read_text().split("---\n", 2)[1]
    assert "configs" not in yaml.safe_load(head)


def test_the_tables_count_every_column_by_split(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, split=SPLIT)
    written(spec)
    stats = {
        (row["split"], row["column"]): row
        for row in pq.read_table(f"{spec.url}/stats.parquet").to_pylist()
    }
    seed = stats["train", "seed"]
    assert (seed["num_values"], seed["num_nulls"]) == (6, 0)
    assert seed["mean"] == pytest.approx(sum(seeds(spec.url, "train")) / 6)
    assert stats["test", "topic"]["num_distinct"] == 1
    balance = pq.read_table(f"{spec.url}/balance.parquet").to_pylist()
    assert {row["value"] for row in balance if row["column"] == "topic"} == {
        f"topic {n}" for n in range(10) if n != 5
    }
    assert all(row["train"] + row["validation"] + row["test"] == 1 for row in balance)


def seeds(url: str, split: str) -> list[int]:
    paths = Path(url).glob(f"data/{split}-*.parquet")
    return [seed for path in paths for seed in pq.read_table(path).column("seed").to_pylist()]


def test_the_licence_of_a_model_is_what_its_card_states(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    record = replace(run.record, model=replace(run.record.model, source=str(folder)))
    assert [each.licence for each in licences_of(record, {})] == [None]
    for card, licence in (
        ("---\nlicense: openrail++\n---\n# A model\n", "openrail++"),
        ("# No head\nlicense: mit\n", None),
        ("---\n[not a mapping]\n---\n", None),
        ("---\n{: broken\n---\n", None),
    ):
        (folder / "README.md").write_text(card)
        assert [each.licence for each in licences_of(record, {})] == [licence]
    spec = record.spec.model_copy(update={"model": ModelSpec(source="owner/none")})
    unknown = replace(record, spec=spec, model=replace(record.model, source="owner/none"))
    assert [each.licence for each in licences_of(unknown, {})] == [None]


def cached_card(cache: Path, revision: str, card: str) -> None:
    """Put the card of `owner/model` at a revision into a cache of the hub."""
    repo = cache / "models--owner--model"
    snapshot = repo / "snapshots" / f"{revision:0<40}"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text(card)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / revision).write_text(snapshot.name)


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ({"source": "owner/model"}, "cc-by-nc-4.0"),
        ({"source": "owner/model", "revision": "v1"}, "openrail"),
        ({"source": "owner/model@v1"}, "openrail"),
        ({"source": "owner/model@v2"}, None),
    ],
)
def test_the_licence_of_a_hub_model_is_that_of_its_revision(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, str],
    licence: str | None,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached_card(tmp_path / "hub", "main", "---\nlicense: cc-by-nc-4.0\n---\n")
    cached_card(tmp_path / "hub", "v1", "---\nlicense: openrail\n---\n")
    spec = run.record.spec.model_copy(update={"model": ModelSpec.model_validate(model)})
    info = replace(run.record.model, source=model["source"])
    record = replace(run.record, spec=spec, model=info)
    assert [each.licence for each in licences_of(record, {})] == [licence]


def test_a_card_that_cannot_be_read_is_told_from_one_that_states_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise StoreError("s3://models: the store is busy")

    source = f"memory://{tmp_path.name}/model"
    model = run.record.spec.model.model_copy(update={"source": source})
    record = replace(
        run.record,
        spec=run.record.spec.model_copy(update={"model": model}),
        model=replace(run.record.model, source=source),
    )
    (none,) = licences_of(record, {})
    assert (none.licence, none.is_unread) == (None, False)
    monkeypatch.setattr(Store, "read_if_any", busy)
    (unread,) = licences_of(record, {})
    assert (unread.licence, unread.is_unread) == (None, True)


def test_sizes_have_the_names_of_the_hub() -> None:
    assert [size_category(n) for n in (1, 999, 1_000, 10_000_000)] == [
        *("n<1K", "n<1K", "1K<n<10K", "10M<n<100M")
    ]


def test_croissant_is_plain_json_without_prompts(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, caption="{topic}")
    written(spec)
    text = Path(spec.url, "croissant.json").read_text()
    assert json.loads(text)["name"] == "set"
    assert "a cat" not in text

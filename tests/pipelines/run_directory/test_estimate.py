"""Estimates from other runs: those that cannot be read are left out, and said."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes.fake_runs import finished_run
from support.fakes.fake_scorers import loaded

from nightpress.diffusion_core.conditioning.passes import PassSpec, passes_of
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import StoreDenied
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory import estimate as estimates
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.estimate import (
    DrawsOfImage,
    Rate,
    expected_draws_of,
    mean_of_models,
    measured_rates,
    scoring_in,
)
from nightpress.pipelines.run_directory.gate_trial import try_gates
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord
from nightpress.pipelines.scoring.scorer import ScoredImage
from nightpress.pipelines.storage import Store


@pytest.fixture
def beside(tmp_path: Path) -> tuple[Store, RunRecord]:
    """A finished run, in whose output folder other runs may be."""
    return finished_run(tmp_path, [f"a picture of {n}" for n in range(8)])


def skipped(record: RunRecord) -> tuple[bool, list[str]]:
    """Whether anything was measured, and why other runs were left out."""
    reasons: list[str] = []
    rates = measured_rates(record.spec, record.model.fingerprint, reasons.append)
    return bool(rates), reasons


def test_a_run_in_the_same_folder_gives_rates(beside: tuple[Store, RunRecord]) -> None:
    assert skipped(beside[1]) == (True, [])


@pytest.mark.parametrize("content", [b"{}", b"not JSON", b"", b'{"format_version": 99}'])
def test_a_record_that_cannot_be_read_is_left_out_and_said(
    beside: tuple[Store, RunRecord], content: bytes
) -> None:
    store, record = beside
    other = Path(store.url).parent / "other"
    other.mkdir()
    (other / RUN_FILE).write_bytes(content)
    measured, reasons = skipped(record)
    assert measured
    (reason,) = reasons
    assert str(other) in reason
    assert "\n" not in reason


def test_a_run_with_a_damaged_commit_is_left_out_and_said(
    beside: tuple[Store, RunRecord],
) -> None:
    store, record = beside
    store.put(shard_path(0), b"PAR1 no more")
    measured, reasons = skipped(record)
    assert not measured
    (reason,) = reasons
    assert store.url in reason
    assert "damaged" in reason


def test_a_run_that_may_not_be_read_is_left_out_and_said(
    beside: tuple[Store, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(store: Store) -> RunRecord:
        raise StoreDenied(f"{store.url}/{RUN_FILE}: permission denied")

    monkeypatch.setattr(estimates, "require_record", denied)
    store, record = beside
    assert skipped(record) == (False, [f"{store.url}/{RUN_FILE}: permission denied"])


def test_images_with_pictures_or_passes_are_not_estimated_from_those_without(
    beside: tuple[Store, RunRecord],
) -> None:
    rates = measured_rates(beside[1].spec, beside[1].model.fingerprint)
    (count,) = beside[1].layout.batches
    assert estimates.estimate([count], rates) is not None
    settings = count.settings
    passes = passes_of(
        [PassSpec(scale=2.0, strength=0.5, num_inference_steps=4)],
        settings.width // 2,
        settings.height // 2,
        8,
    )
    for other in (
        replace(settings, conditioning=Conditioning("image", strength=0.5)),
        replace(settings, width=settings.width // 2, height=settings.height // 2, passes=passes),
    ):
        assert other.final_size == settings.final_size
        assert estimates.estimate([replace(count, settings=other)], rates) is None


def test_a_gated_job_is_estimated_by_the_draws_that_its_gates_took_before(tmp_path: Path) -> None:
    gates = {"require": ["exposure > 0.45"], "max_draws": 12}
    prompts = [f"picture {n}" for n in range(9)]
    store, record = finished_run(tmp_path, prompts, gates=gates)
    draws = open_run(store.url).metadata.to_table(columns=["draws"]).column("draws").to_pylist()
    model, mean = record.model.fingerprint, sum(draws) / len(draws)
    assert mean > 1
    assert expected_draws_of(record.spec, model) == DrawsOfImage(pytest.approx(mean))
    plain = record.spec.model_copy(update={"gates": None})
    other = record.spec.model_copy(update={"gates": GatesSpec(require=("exposure > 0.4",))})
    trial = try_gates(open_run(store.url), other.gates)  # type: ignore[arg-type]
    foretold = DrawsOfImage(trial.expected.draws, is_foretold=True)
    assert expected_draws_of(other, model) == foretold
    clip = {"scores": {"clip": {"scorer": "brand.py:Brand"}}, "gates": {"require": ["clip > 1"]}}
    never = RunSpec.from_dict(plain.as_dict() | clip)
    assert expected_draws_of(never, model) is None
    (once,), (drawn,), (tried,), (unknown,) = (
        list(measured_rates(spec, model).values()) for spec in (plain, record.spec, other, never)
    )
    assert (once.draws, drawn.draws, unknown.draws) == (1.0, pytest.approx(mean), 1.0)
    assert tried.draws == foretold.mean
    assert drawn.actor_s == pytest.approx(once.actor_s * mean)


SLEEP_S = 0.02


def slowly(image: ScoredImage) -> Mapping[str, float]:
    time.sleep(SLEEP_S)
    return {"": 1.0}


def test_scoring_counts_where_it_takes_longer_than_sampling(tmp_path: Path) -> None:
    scores = {"brand": {"scorer": "brand.py:Brand"}}
    scorers, gates = {"brand": loaded(slowly)}, {"require": ["exposure > 0.45"], "max_draws": 12}
    store, record = finished_run(
        tmp_path, [f"picture {n}" for n in range(6)], scorers=scorers, scores=scores, gates=gates
    )
    table = open_run(store.url).metadata.to_table(columns=["status", "scoring_s", "draws"])
    assert all(row["scoring_s"] >= SLEEP_S for row in table.to_pylist() if row["status"] == "ok")
    model, spec = record.model.fingerprint, record.spec
    (rate,) = measured_rates(spec, model).values()
    assert rate.scoring_s is not None
    assert rate.scoring_s >= SLEEP_S
    assert rate.actor_s == max(rate.scoring_s, rate.sampling_s) * rate.draws > rate.scoring_s
    found = estimates.estimate(record.layout.batches, {**measured_rates(spec, model)})
    assert found is not None
    assert (found.scoring, found.actor_s) == ("measured", pytest.approx(rate.actor_s * 6))

    (plain,) = measured_rates(spec.model_copy(update={"scores": {}}), model).values()
    assert (plain.scoring_s, plain.sampling_s) == (0.0, rate.sampling_s)
    others = RunSpec.from_dict(spec.as_dict() | {"scores": {"brand": {"scorer": "other.py:Brand"}}})
    (unknown,) = measured_rates(others, model).values()
    assert unknown.scoring_s is None
    found = estimates.estimate(record.layout.batches, measured_rates(others, model))
    assert found is not None
    assert (found.scoring, found.actor_s) == ("unknown", pytest.approx(unknown.actor_s * 6))


def test_a_draw_takes_as_long_as_the_slower_of_sampling_and_scoring() -> None:
    assert Rate(2.0, 1.0, draws=3.0, scoring_s=5.0).actor_s == 15.0
    assert Rate(2.0, 1.0, draws=3.0, scoring_s=0.5).actor_s == 6.0
    assert Rate(2.0, 1.0, scoring_s=None).actor_s == 2.0
    assert scoring_in([Rate(1, 1), Rate(1, 1)]) == "none"
    assert scoring_in([Rate(1, 1, scoring_s=0.1), Rate(1, 1, scoring_s=None)]) == "unknown"


def test_the_draws_of_a_job_are_the_mean_of_its_models_by_their_images() -> None:
    few, many = DrawsOfImage(2.0), DrawsOfImage(5.0, is_foretold=True)
    draws = {"a": few, "b": many, "c": None}
    assert mean_of_models({"a": 30, "b": 10, "c": 0}, draws) == DrawsOfImage(2.75, True)
    assert mean_of_models({"a": 30, "b": 0, "c": 0}, draws) == few
    assert mean_of_models({"a": 30, "b": 10, "c": 1}, draws) is None
    assert mean_of_models({"c": 1}, draws) is None
    assert mean_of_models({"a": 0, "b": 0}, {"a": few, "b": few}) == few
    assert mean_of_models({}, {}) is None


def test_the_draws_of_a_model_are_those_of_its_own_images(tmp_path: Path) -> None:
    gates = {"require": ["exposure > 0.45"], "max_draws": 12}
    store, record = finished_run(tmp_path, [f"picture {n}" for n in range(6)], gates=gates)
    draws = open_run(store.url).metadata.to_table(columns=["draws"]).column("draws").to_pylist()
    fingerprint = record.model.fingerprint
    own = estimates._mean_draws(store.url, record.spec, fingerprint)
    assert own == pytest.approx(sum(draws) / len(draws))
    assert estimates._mean_draws(store.url, record.spec, "another") is None

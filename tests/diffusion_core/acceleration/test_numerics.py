"""The switches that decide bits on a GPU: set whatever they were before, and recorded."""

from collections.abc import Iterator

import pytest
import torch

from nightpress.diffusion_core.acceleration.numerics import (
    SWITCHES,
    TORCH_DEFAULTS,
    fix_numerics,
    set_switches,
    switch_differences,
    switches_of,
)


def switches() -> dict[str, bool]:
    """What torch is set to now."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    half = {
        bool(matmul.allow_fp16_reduced_precision_reduction),
        bool(matmul.allow_bf16_reduced_precision_reduction),
    }
    assert len(half) == 1
    return {
        "tf32": matmul.allow_tf32 or cudnn.allow_tf32,
        "reduced_precision_reduction": half.pop(),
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
    }


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before, threads = switches(), torch.get_num_threads()
    yield
    set_switches(before)
    torch.set_num_threads(threads)


def test_every_switch_is_set_whatever_it_was_before() -> None:
    set_switches({name: not value for name, value in SWITCHES.items()})
    assert not any(switches()[name] == value for name, value in SWITCHES.items())
    fix_numerics()
    assert switches() == SWITCHES
    assert torch.get_float32_matmul_precision() == "highest"


def test_threads_are_set_only_where_a_number_is_given() -> None:
    fix_numerics(2)
    assert torch.get_num_threads() == 2
    fix_numerics()
    assert torch.get_num_threads() == 2
    fix_numerics(1)
    assert torch.get_num_threads() == 1


def test_switches_belong_to_accelerators() -> None:
    assert switches_of("cpu") == {}
    assert switches_of("cuda") == SWITCHES
    assert switch_differences("cpu", {}) == []
    assert switch_differences("cuda", SWITCHES) == []


def test_a_run_with_other_switches_is_warned_about_each_of_them() -> None:
    (line,) = switch_differences("cuda", {**SWITCHES, "tf32": True})
    assert line == (
        "tf32 is off and was on when the run began; the last bits of a pixel may differ"
    )


def test_a_run_that_recorded_none_had_those_of_torch() -> None:
    found = [line.split()[0] for line in switch_differences("cuda", {})]
    assert found == [name for name in SWITCHES if SWITCHES[name] != TORCH_DEFAULTS[name]]
    assert found

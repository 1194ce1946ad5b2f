"""The simulated accelerator waits where a GPU would, and a small mixed manifest is made on it."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import simulated_accelerator

    return simulated_accelerator


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_busy

    return bench_busy


def test_work_is_done_in_order_and_the_host_runs_ahead_by_one_piece(accelerators: Any) -> None:
    accelerator = accelerators.Accelerator()
    start = time.perf_counter()
    for _ in range(3):
        accelerator.enqueue(0.05)
    assert time.perf_counter() - start >= 0.05  # the third waits until the second begins
    first, second, third = [each.real for each in accelerator.done]
    assert first.ended <= second.began
    assert second.ended <= third.began
    accelerator.synchronize()
    assert time.perf_counter() >= third.ended
    assert accelerator.num_waits == 1


def test_the_clock_of_the_host_counts_its_work_and_its_waits_and_no_other_pause(
    accelerators: Any,
) -> None:
    accelerator = accelerators.Accelerator()
    accelerator.enqueue(10.0)
    assert accelerator.done[0].alone.began < 1.0
    accelerator.clock.wait_until(accelerator.done[0].alone.ended)  # does not sleep
    time.sleep(0.05)
    assert 10.0 <= accelerator.clock.now() - accelerator.done[0].alone.began < 10.04


def test_reading_a_value_and_copying_from_ordinary_memory_wait_and_other_work_does_not(
    accelerators: Any,
) -> None:
    accelerator = accelerators.Accelerator()
    read = accelerators.numbers_read(accelerator)
    with torch.inference_mode(), read, accelerators.OnAccelerator(accelerator):

        def has_waited(action: Any) -> bool:
            accelerator.enqueue(0.02)
            before = accelerator.num_waits
            action()
            return accelerator.num_waits > before

        host = torch.arange(6.0)
        there = host.to("meta", non_blocking=True)
        assert not has_waited(lambda: host.to("meta", non_blocking=True))
        assert not has_waited(lambda: (there * 2 + 1).chunk(2))
        assert has_waited(lambda: host.to("meta"))
        assert has_waited(lambda: there.to("cpu"))
        assert has_waited(lambda: there[3].item())
        assert has_waited(lambda: torch.tensor([there[3]]))
        assert has_waited(lambda: (there == 3).nonzero())
        assert torch.equal((there * 2 + 1).to("cpu"), host * 2 + 1)
        assert (there == 3).nonzero().tolist() == [[3]]


def test_what_changes_between_two_batches_is_named(bench: Any) -> None:
    from busy_run import Sampled

    from nightpress.diffusion_core.sampling.request import SamplingParams

    one = Sampled(SamplingParams(64, 64, 4, 2.0, "euler"), 0, 0.0, 1.0)
    two = Sampled(SamplingParams(64, 32, 4, 2.0, "euler", "a"), 1, 1.0, 2.0)
    assert bench.changes(one, two) == "size, LoRA, shard"
    assert bench.changes(one, one) == "-"


@pytest.mark.slow
@pytest.mark.parametrize("asleep", [False, True])
def test_a_small_manifest_of_all_modes_is_made_and_shown(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], asleep: bool
) -> None:
    setup = bench.Setup(
        images=16,
        batch_size=2,
        images_per_s=100.0,
        batches_alike=1,
        shard_size=8,
        plentiful_cores=asleep,
        sizes=((256, 192), (192, 256)),
        shallow=True,
    )
    outcome = bench.run(tmp_path, setup)
    assert outcome.num_ok == setup.images
    modes = {batch.params.conditioning.mode for batch in outcome.batches}
    assert modes == {"text", "image", "inpaint", "text+control"}
    assert {batch.params.lora for batch in outcome.batches} == {None, "a", "b"}
    assert {batch.params.scheduler for batch in outcome.batches} >= {"euler", "dpmsolver++"}
    assert {batch.shard for batch in outcome.batches} == {0, 1}
    # The pixels of a small image are counted by its size: 256 x 192 are 3 of 64 parts.
    work_s = sum(each.real.ended - each.real.began for each in outcome.accelerator.done)
    assert work_s == pytest.approx(setup.images * 3 / 64 / setup.images_per_s, rel=0.01)
    assert outcome.accelerator.num_waits == 0
    bench.show(setup, outcome)
    shown = capsys.readouterr().out
    for words in ("device busy", "host alone", "text+control", "encode", "images pending"):
        assert words in shown

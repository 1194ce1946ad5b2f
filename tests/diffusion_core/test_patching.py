"""The tools for patching are safe from two threads; `test_library_patches.py` has the patches."""

import inspect
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import diffusers
import pytest
import structure
import torch

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import IncompatibleLibrary
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import no_sync, schedulers

WAIT_S = 20


class Greeter:
    def greet(self, name: str, loudly: bool = False) -> str:
        return f"hello {name}"


def shadow(word: str) -> Callable[[str], str]:
    return lambda name: f"{word} {name}"


def test_a_shadow_lasts_for_a_block_and_leaves_no_trace() -> None:
    greeter = Greeter()
    with patching.shadowed(greeter, "greet", shadow("good morning")):
        assert greeter.greet("fox") == "good morning fox"
    assert greeter.greet("fox") == "hello fox"
    assert vars(greeter) == {}


def test_a_shadow_that_fails_is_taken_down_too() -> None:
    greeter = Greeter()
    with pytest.raises(ZeroDivisionError), patching.shadowed(greeter, "greet", lambda _: 1 / 0):
        greeter.greet("fox")
    assert greeter.greet("fox") == "hello fox"


def test_shadows_nest_and_each_reaches_what_it_shadows() -> None:
    greeter = Greeter()

    def twice(name: str) -> str:
        return f"{greeter.greet(name)}, {inner(name)}"

    with patching.shadowed(greeter, "greet", shadow("good morning")):
        inner = greeter.greet
        with patching.shadowed(greeter, "greet", twice):
            assert greeter.greet("fox") == "good morning fox, good morning fox"
        assert greeter.greet("fox") == "good morning fox"


def test_what_stood_in_the_place_of_the_method_before_does_so_again() -> None:
    greeter = Greeter()
    greeter.greet = own = shadow("good evening")  # type: ignore[method-assign, assignment]
    with patching.shadowed(greeter, "greet", shadow("good morning")):
        assert greeter.greet("fox") == "good morning fox"
    assert vars(greeter)["greet"] is own


def test_a_shadowed_method_keeps_its_signature() -> None:
    greeter = Greeter()
    before = inspect.signature(greeter.greet)
    with patching.shadowed(greeter, "greet", shadow("good morning")):
        assert inspect.signature(greeter.greet) == before


class Steps:
    """Lets two threads take turns in a fixed order."""

    def __init__(self) -> None:
        self._done: dict[str, threading.Event] = {}

    def _event(self, name: str) -> threading.Event:
        return self._done.setdefault(name, threading.Event())

    def reach(self, name: str) -> None:
        self._event(name).set()

    def wait_for(self, name: str) -> None:
        assert self._event(name).wait(WAIT_S), name


def test_two_threads_that_shadow_one_method_each_see_their_own_shadow_only() -> None:
    """The first to enter leaves first, so plain saving and restoring would leak the second's."""
    greeter, steps = Greeter(), Steps()

    def first() -> list[str]:
        with patching.shadowed(greeter, "greet", shadow("first")):
            steps.reach("first entered")
            steps.wait_for("second entered")
            heard = [greeter.greet("fox")]
        steps.reach("first left")
        return [*heard, greeter.greet("fox")]

    def second() -> list[str]:
        steps.wait_for("first entered")
        heard = [greeter.greet("fox")]
        with patching.shadowed(greeter, "greet", shadow("second")):
            steps.reach("second entered")
            steps.wait_for("first left")
            heard.append(greeter.greet("fox"))
        return [*heard, greeter.greet("fox")]

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.submit(first), threads.submit(second)
        assert one.result(WAIT_S) == ["first fox", "hello fox"]
        assert other.result(WAIT_S) == ["hello fox", "second fox", "hello fox"]
    assert vars(greeter) == {}


def test_many_threads_that_shadow_one_method_never_hear_each_other() -> None:
    greeter, together = Greeter(), threading.Barrier(4)

    def work(number: int) -> None:
        together.wait(WAIT_S)
        for turn in range(100):
            original = greeter.greet
            with patching.shadowed(greeter, "greet", shadow(f"{number}.{turn}")):
                time.sleep(0)  # lets another thread run
                assert greeter.greet("fox") == f"{number}.{turn} fox"
                assert original("fox") in ("hello fox", f"{number}.{turn} fox")
            assert greeter.greet("fox") == "hello fox"

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, number) for number in range(4)]:
            done.result(WAIT_S)
    assert vars(greeter) == {}


def test_shadows_of_many_threads_never_mix_however_often_threads_are_switched() -> None:
    greeter, together = Greeter(), threading.Barrier(6)
    before = sys.getswitchinterval()

    def work(number: int) -> None:
        together.wait(WAIT_S)
        for turn in range(200):
            held = greeter.greet

            def below(name: str, label: str = f"{number}.{turn}") -> str:
                return f"{label} {greeter.greet(name)}"

            with patching.shadowed(greeter, "greet", below):
                assert patching.shadow_of(greeter, "greet") is below
                with patching.shadowed(greeter, "greet", lambda name: greeter.greet(name) + "!"):
                    assert greeter.greet("fox") == f"{number}.{turn} hello fox!"
                assert list(inspect.signature(greeter.greet).parameters) == ["name", "loudly"]
            assert held("fox") == greeter.greet("fox") == "hello fox"
            assert patching.shadow_of(greeter, "greet") is None

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(work, number) for number in range(6)]:
                done.result(WAIT_S)
    finally:
        sys.setswitchinterval(before)
    assert vars(greeter) == {}


def test_a_method_that_is_missing_cannot_be_shadowed() -> None:
    scheduler = diffusers.DDIMScheduler()
    with (
        pytest.raises(IncompatibleLibrary, match=r"there is no .*DDIMScheduler\.leap"),
        patching.shadowed(scheduler, "leap", shadow("")),
    ):
        pass
    assert "leap" not in vars(scheduler)


class Noisy:
    """Draws through a function of its module, as diffusers' schedulers do."""

    def draw(self, shape: tuple[int, ...], *, scale: float = 1.0) -> list[float]:
        return [scale * draw_number() for _ in shape]


def draw_number() -> float:
    return 0.0


def test_a_copied_method_sees_other_globals_and_nothing_else_does() -> None:
    noisy = Noisy()
    copied = patching.with_globals(noisy.draw, "draw", draw_number=lambda: 1.0)
    assert copied((1, 2), scale=3.0) == [3.0, 3.0]
    assert noisy.draw((1, 2)) == [0.0, 0.0]
    assert inspect.signature(copied) == inspect.signature(noisy.draw)


def test_a_method_that_does_not_use_a_name_cannot_be_given_another_object_for_it() -> None:
    step = diffusers.DDIMScheduler().step
    with pytest.raises(IncompatibleLibrary, match=r"DDIMScheduler\.step no longer uses roll_dice"):
        patching.with_globals(step, "roll", roll_dice=lambda: 6)


def test_a_method_that_is_wrapped_in_something_else_cannot_be_copied() -> None:
    with pytest.raises(IncompatibleLibrary, match=r"is not a plain method"):
        patching.with_globals(draw_number, "draw", shadow=shadow)


def test_a_scheduler_that_steps_in_one_thread_changes_nothing_for_another(
    loaded: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one step is held up, another scheduler of the same class finds diffusers as it is."""
    config, steps = loaded("sd").scheduler_config, Steps()
    module = sys.modules[diffusers.DDPMScheduler.__module__]
    before = dict(vars(module))
    upload = no_sync.upload

    def held_up(noise: torch.Tensor, device: Any) -> torch.Tensor:
        steps.reach("first is inside")
        steps.wait_for("second is done")
        return upload(noise, device)

    def step(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(4)
        x = torch.ones(1, 4, 8, 8)
        seeded = torch.Generator().manual_seed(1)
        return scheduler.step(x, scheduler.timesteps[0], x, generator=seeded).prev_sample

    plain = step(schedulers.make("ddpm", config))
    patched = no_sync.install(schedulers.make("ddpm", config))
    monkeypatch.setattr(no_sync, "upload", held_up)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(step, patched)
        steps.wait_for("first is inside")
        assert dict(vars(module)) == before
        assert torch.equal(step(schedulers.make("ddpm", config)), plain)
        steps.reach("second is done")
        assert torch.equal(first.result(WAIT_S), plain)
    assert dict(vars(module)) == before


def test_an_error_names_the_library_the_place_the_purpose_and_the_version_that_has_it() -> None:
    with pytest.raises(IncompatibleLibrary) as caught:
        patching.require(diffusers.DDIMScheduler, "leap", "skip steps")
    assert str(caught.value) == (
        f"diffusers {diffusers.__version__}: there is no "
        "diffusers.schedulers.scheduling_ddim.DDIMScheduler.leap; nightpress uses it to skip steps "
        f"and was written for diffusers {patching.READ_AGAINST['diffusers']}"
    )


@pytest.mark.parametrize(
    ("owner", "library"),
    [
        ("torch._no_such_module", "torch"),
        (torch.nn, "torch"),
        (torch.nn.Linear(1, 1), "torch"),
        (type("Own", (torch.nn.Linear,), {}), "torch"),
        ("peft.utils", "peft"),
    ],
)
def test_an_error_names_the_library_that_an_object_comes_from(owner: Any, library: str) -> None:
    with pytest.raises(IncompatibleLibrary, match=rf"^{library} \d+\.\d+.*: there is no "):
        patching.require(owner, "no_such_thing", "do nothing")


def test_patches_were_read_against_the_versions_that_the_project_is_tested_with() -> None:
    """After an upgrade: read every patch again, then change `READ_AGAINST` and its docstring."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE))
    for library, version in patching.READ_AGAINST.items():
        assert pinned[library] == version
    for file in chain.from_iterable(map(structure.files, ("diffusion_core", "jobs"))):
        for library, version in re.findall(r"Read against (\w+) ([\d.]*\d)", file.read_text()):
            assert patching.READ_AGAINST[library] == version, file


CONSTRAINTS = Path(structure.ROOT) / "infra" / "constraints.txt"

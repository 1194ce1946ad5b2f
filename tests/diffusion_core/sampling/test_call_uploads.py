"""A call of a pipeline copies host memory without waiting, and makes the same bits."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import pictures
from support.slow_cases import slow_except

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.samplers import SCHEDULERS
from nightpress.diffusion_core.sampling import call_uploads, no_sync, schedulers
from nightpress.diffusion_core.sampling.sampler import Sampler

Loaded = Callable[[str], LoadedModel]


ON_META: Any = SimpleNamespace(device="meta", memory=SimpleNamespace(offload="none"))
"""What is asked of a model on a device that has no values to read."""


class Processor:
    """Prepares pictures as diffusers does: it reads whether a value is below 0."""

    def preprocess(self, image: torch.Tensor) -> torch.Tensor:
        return image if image.min() < 0 else 2 * image - 1


class Pipeline:
    """A pipeline that uploads before, in and after its first step."""

    def __init__(self) -> None:
        self.scheduler = SimpleNamespace(add_noise=lambda sample, index: sample[index].to("meta"))
        self.image_processor = Processor()

    def progress_bar(self, total: int) -> int:
        return total

    def __call__(self, picture: torch.Tensor, host: torch.Tensor) -> list[torch.Tensor]:
        before = [host.to("meta"), host.to(device="meta", dtype=torch.bfloat16), host.to(picture)]
        prepared = self.image_processor.preprocess(picture)
        self.progress_bar(total=2)
        after = host.to("meta")
        return [*before, prepared, after, self.scheduler.add_noise(picture, [0, 1])]


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What is uploaded without a wait."""
    found: list[torch.Tensor] = []
    upload = no_sync.upload

    def recorded(tensor: torch.Tensor, device: Any) -> torch.Tensor:
        found.append(tensor)
        return upload(tensor, device)

    monkeypatch.setattr(no_sync, "upload", recorded)
    return found


def test_what_is_uploaded_before_the_first_step_and_while_noising_waits_for_nothing(
    uploaded: list[torch.Tensor],
) -> None:
    pipeline, host = Pipeline(), torch.arange(3.0)
    picture = torch.empty(2, 3, 8, 8, device="meta")  # reading a value of it would fail
    with call_uploads.around_call(pipeline, {"image": picture}, ON_META) as call:
        made = call(picture, host)
    types = [each.dtype for each in uploaded]
    assert types == [torch.float32, torch.bfloat16, torch.float32, torch.int64]
    assert all(each.is_cpu for each in uploaded)
    assert [each.dtype for each in made[:3]] == [each.dtype for each in uploaded[:3]]
    assert all(each.is_meta for each in made)
    assert "preprocess" not in vars(pipeline.image_processor)
    assert "progress_bar" not in vars(pipeline)


def test_a_picture_that_is_not_known_to_be_in_0_to_1_is_read() -> None:
    pipeline, host = Pipeline(), torch.arange(3.0)
    picture = torch.empty(2, 3, 8, 8, device="meta")
    with (
        call_uploads.around_call(pipeline, {}, ON_META) as call,
        pytest.raises(RuntimeError, match="meta"),
    ):
        call(picture, host)


def test_a_call_that_fails_before_its_first_step_leaves_nothing_behind(
    uploaded: list[torch.Tensor],
) -> None:
    pipeline = Pipeline()
    with pytest.raises(AttributeError), call_uploads.around_call(pipeline, {}, ON_META) as call:
        call(torch.empty(1, device="meta"), None)
    torch.arange(3.0).to("meta")
    assert uploaded == []


def test_what_has_gaps_and_weights_are_uploaded_as_torch_does_it(
    uploaded: list[torch.Tensor],
) -> None:
    pipeline, picture = Pipeline(), torch.empty(2, 3, 8, 8, device="meta")
    for host in (torch.zeros(1).expand(3), torch.nn.Parameter(torch.zeros(3))):
        with call_uploads.around_call(pipeline, {"image": picture}, ON_META) as call:
            call(picture, host)
    assert {each.dtype for each in uploaded} == {torch.int64}


@pytest.mark.parametrize("memory", ["model", "group"])
def test_where_networks_move_a_pipeline_is_called_as_it_is(memory: str) -> None:
    model: Any = SimpleNamespace(device="cuda", memory=SimpleNamespace(offload=memory))
    pipeline = Pipeline()
    with call_uploads.around_call(pipeline, {}, model) as call:
        assert call is pipeline
        assert not vars(pipeline.image_processor)


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"flow-euler"}))
def test_timesteps_made_on_the_host_are_those_that_diffusers_makes(
    loaded: Loaded, name: str, uploaded: list[torch.Tensor]
) -> None:
    check_timesteps(loaded("sd"), name, uploaded)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_so_are_those_for_flow_matching(
    loaded: Loaded, family: str, uploaded: list[torch.Tensor]
) -> None:
    check_timesteps(loaded(family), "flow-euler", uploaded, mu=0.7)


def check_timesteps(
    model: LoadedModel, name: str, uploaded: list[torch.Tensor], **arguments: Any
) -> None:
    plain = schedulers.make(name, model.scheduler_config)
    patched = no_sync.install(schedulers.make(name, model.scheduler_config))
    if not plain.config.get("use_dynamic_shifting"):
        arguments = {}
    plain.set_timesteps(6, device="cpu", **arguments)
    patched.set_timesteps(6, device="meta", **arguments)
    on_device = no_sync.ON_DEVICE[type(plain).__name__]
    assert patched.timesteps.is_meta
    assert len(uploaded) == len(on_device)
    for attribute, given in zip(on_device, uploaded, strict=True):
        assert torch.equal(given, getattr(plain, attribute))
        assert given.dtype == getattr(plain, attribute).dtype
    assert torch.equal(patched.host_timesteps.on_host, plain.timesteps)
    for place, timestep in enumerate(patched.timesteps):
        assert torch.equal(no_sync.host_timestep(patched, timestep), plain.timesteps[place])
    if hasattr(plain, "index_for_timestep"):
        found = patched.index_for_timestep(patched.timesteps[0])
        assert found == plain.index_for_timestep(plain.timesteps[0])


def test_the_sigmas_that_a_scheduler_keeps_in_host_memory_stay_there(loaded: Loaded) -> None:
    plain = schedulers.make("dpmsolver++", loaded("sd").scheduler_config)
    patched = no_sync.install(schedulers.make("dpmsolver++", loaded("sd").scheduler_config))
    plain.set_timesteps(6, device="cpu")
    patched.set_timesteps(6, device="meta")
    assert torch.equal(patched.sigmas, plain.sigmas)


def test_timesteps_that_are_logarithms_are_made_where_diffusers_makes_them(
    uploaded: list[torch.Tensor],
) -> None:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    made = no_sync.install(scheduler)
    made.set_timesteps(6, device="cpu")
    assert uploaded == []
    assert "host_timesteps" not in vars(made)
    assert "set_timesteps" not in vars(made)


@pytest.fixture
def always_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a sampler on a CPU call its pipelines as on a GPU, and upload to the CPU."""
    monkeypatch.setattr(call_uploads, "_leaves_host", lambda tensor, device: True)
    around_call = call_uploads.around_call
    monkeypatch.setattr(
        call_uploads,
        "around_call",
        lambda pipeline, values, _: around_call(pipeline, values, ON_META),
    )
    init = Sampler.__init__

    def made(sampler: Sampler, *args: Any) -> None:
        init(sampler, *args)
        sampler._on_cpu = False

    monkeypatch.setattr(Sampler, "__init__", made)


@pytest.mark.parametrize(
    ("family", "mode", "scheduler"),
    slow_except(
        [
            (family, mode, scheduler)
            for family in ("sd", "sdxl")
            for mode in ("text", "image", "inpaint")
            for scheduler in ("euler", "ddim", "dpmsolver++", "heun", "unipc", "lcm", "ddpm")
        ]
        + [("flux", mode, "flow-euler") for mode in ("text", "image", "inpaint")],
        ("sd", "inpaint", "euler"),
        ("sdxl", "image", "ddim"),
        ("flux", "inpaint", "flow-euler"),
    ),
)
def test_a_call_without_waits_changes_no_bit(
    loaded: Loaded,
    family: str,
    mode: str,
    scheduler: str,
    uploaded: list[torch.Tensor],
    request: pytest.FixtureRequest,
) -> None:
    strength = None if mode == "text" else 0.6
    settings = pictures.params(mode, strength, scheduler=scheduler, num_inference_steps=5)
    rows = pictures.requests(mode)[:2]
    expected = Sampler(loaded(family), 2).sample(rows, settings).pixels
    assert uploaded == []
    request.getfixturevalue("always_uploads")
    np.testing.assert_array_equal(
        Sampler(loaded(family), 2).sample(rows, settings).pixels, expected
    )
    assert uploaded

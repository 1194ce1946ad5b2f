"""Names of A1111 and ComfyUI are read as the same sampler, or refused with the nearest."""

from itertools import product

import numpy as np
import pytest

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.sampler_spellings import (
    SCHEDULES,
    SCHEDULES_WITHOUT_EQUAL,
    SPELLINGS,
    WITHOUT_EQUAL,
    a1111_names,
    read_pair,
    read_sampler,
)
from nightpress.diffusion_core.models.samplers import (
    SAMPLER_NAMES,
    SCHEDULERS,
    SPACINGS,
    solver_and_suffix,
)
from nightpress.diffusion_core.sampling.schedulers import make


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("DPM++ 2M Karras", "dpmsolver++-karras"),
        ("dpm++ 2m karras", "dpmsolver++-karras"),
        ("dpmpp_2m + karras", "dpmsolver++-karras"),
        ("dpmpp_2m karras", "dpmsolver++-karras"),
        ("dpmpp_2m_karras", "dpmsolver++-karras"),
        ("dpmpp_2m/karras", "dpmsolver++-karras"),
        ("dpmpp_2m", "dpmsolver++"),
        ("dpmpp_2m normal", "dpmsolver++"),
        ("DPM++ 2M SDE", "dpmsolver-sde"),
        ("DPM++ 2M SDE Karras", "dpmsolver-sde-karras"),
        ("dpmpp_2m_sde_gpu sgm_uniform", "dpmsolver-sde-trailing"),
        ("Euler", "euler"),
        ("Euler a", "euler-ancestral"),
        ("euler_ancestral", "euler-ancestral"),
        ("euler_ancestral + normal", "euler-ancestral"),
        ("k_euler_a", "euler-ancestral"),
        ("Euler SGM Uniform", "euler-trailing"),
        ("euler simple", "euler-trailing"),
        ("Heun", "heun"),
        ("heun karras", "heun-karras"),
        ("DDIM", "ddim"),
        ("ddim ddim_uniform", "ddim"),
        ("UniPC", "unipc"),
        ("uni_pc_bh2 karras", "unipc-karras"),
        ("LCM", "lcm"),
        ("lcm sgm_uniform", "lcm"),
        ("DDPM", "ddpm"),
        ("  EULER-KARRAS ", "euler-karras"),
        ("Default", "default"),
    ],
)
def test_a_name_of_another_program_is_read_as_the_same_sampler(spelled: str, name: str) -> None:
    assert read_sampler(spelled).name == name


@pytest.mark.parametrize(
    ("spelled", "nearest"),
    [
        ("DPM++ SDE", "dpmsolver-sde, dpmsolver++"),
        ("dpmpp_sde karras", "dpmsolver-sde-karras, dpmsolver++-karras"),
        ("DPM++ 3M SDE", "dpmsolver-sde, dpmsolver++"),
        ("dpmpp_2m_sde_heun", "dpmsolver-sde, dpmsolver++"),
        ("Euler a Karras", "euler-ancestral, euler-ancestral-trailing"),
        ("euler_ancestral_cfg_pp", "euler-ancestral"),
        ("DPM++ 2M Exponential", "dpmsolver++, dpmsolver++-karras, dpmsolver++-trailing"),
        ("euler beta", "euler, euler-karras, euler-trailing"),
        ("ddim normal", "ddim, ddim-trailing"),
        ("lcm karras", "lcm"),
        ("LMS Karras", "euler-karras, dpmsolver++-karras"),
        ("PLMS", "ddim, dpmsolver++"),
    ],
)
def test_a_sampler_without_an_equal_is_refused_with_the_nearest(spelled: str, nearest: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_sampler(spelled)
    assert repr(spelled) in str(caught.value)
    assert str(caught.value).endswith(f"; the nearest: {nearest}")


def test_a_message_offers_only_samplers_that_are_allowed() -> None:
    with pytest.raises(SettingsError, match=r"the nearest: dpmsolver\+\+$"):
        read_sampler("DPM++ SDE", ["default", "dpmsolver++"])
    with pytest.raises(SettingsError, match=r"choose one of: default, flow-euler$"):
        read_sampler("DPM++ SDE", ["default", "flow-euler"])


def test_a_schedule_alone_is_no_sampler() -> None:
    with pytest.raises(SettingsError, match="'karras' is a schedule; write it behind the sampler"):
        read_sampler("karras")


@pytest.mark.parametrize("text", ["", "eular", "DPM", "dpm++", "2M", "x" * 10_000, "Karras Euler"])
def test_what_no_program_calls_a_sampler_is_refused_with_all_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match=r"choose one of: default, ddpm, .*, flow-euler$") as no:
        read_sampler(text)
    assert len(str(no.value)) < 600


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler_is_read_back_from_its_own_name_and_from_a1111s(name: str) -> None:
    assert read_sampler(name.upper()).name == name
    if name != "default":
        pair = a1111_names(name)
        assert read_pair(*pair, is_flow=name == "flow-euler").name == name
        assert read_pair(" ".join(filter(None, pair)), None, name == "flow-euler").name == name


def test_every_sampler_and_spacing_has_a_spelling() -> None:
    solvers, suffixes = zip(*map(solver_and_suffix, SAMPLER_NAMES), strict=True)
    assert set(SPELLINGS) == set(solvers) - {"default"} == set(SCHEDULERS)
    assert {"", *SCHEDULES} == set(suffixes) == set(SPACINGS)


def read_or_nearest(text: str) -> str:
    """The sampler that a name stands for, or the nearest of one that has no equal."""
    try:
        return read_sampler(text).name
    except SettingsError as error:
        return str(error).partition("; the nearest: ")[2].partition(",")[0]


def test_no_two_names_are_written_alike() -> None:
    """Each solver with each schedule has one meaning, however it is written."""
    equal = {
        each: solver
        for solver, spelling in SPELLINGS.items()
        if solver != "flow-euler"
        for each in (spelling.a1111, *spelling.others)
    }
    schedules = {each for spelling in SPELLINGS.values() for each in spelling.own}
    schedules |= {each for names in SCHEDULES.values() for each in names}
    for (spelled, solver), schedule in product(
        equal.items(), ("", *schedules, *SCHEDULES_WITHOUT_EQUAL)
    ):
        assert solver_and_suffix(read_or_nearest(f"{spelled} {schedule}"))[0] == solver
    others = [(a, *more) for a, (more, _) in WITHOUT_EQUAL.items()]
    for spelled in (each for names in others for each in names):
        for schedule in ("", *schedules, *SCHEDULES_WITHOUT_EQUAL):
            with pytest.raises(SettingsError, match="of other programs has no equal here"):
                read_sampler(f"{spelled} {schedule}")
    assert all(set(nearest) <= set(SAMPLER_NAMES) for _, nearest in WITHOUT_EQUAL.values())


def test_automatic_is_the_schedule_that_a1111_takes_for_the_sampler() -> None:
    assert read_pair("DPM++ 2M", "Automatic").name == "dpmsolver++-karras"
    assert read_pair("DPM++ 2M Karras", "Automatic").name == "dpmsolver++-karras"
    assert read_pair("Euler a", "Automatic").name == "euler-ancestral"
    assert read_pair("LCM", "Automatic").name == "lcm"
    with pytest.raises(SettingsError, match="DPM\\+\\+ 2M SDE is not spaced as Exponential"):
        read_pair("DPM++ 2M SDE", "Automatic")


def test_euler_is_another_sampler_for_a_flow_model() -> None:
    assert read_pair("euler", "simple", is_flow=True).name == "flow-euler"
    assert read_pair("Euler", None, is_flow=True).name == "flow-euler"
    assert read_pair("dpmpp_2m", "simple", is_flow=True).name == "dpmsolver++-trailing"
    with pytest.raises(SettingsError, match="the nearest: flow-euler"):
        read_pair("euler", "beta", is_flow=True)


def test_what_differs_is_told_of_other_programs_names_only() -> None:
    assert read_sampler("unipc").differs is None
    assert "order 3" in (read_sampler("uni_pc").differs or "")
    assert read_sampler("Euler").differs is read_sampler("DPM++ 2M Karras").differs is None


# The spacings, against k-diffusion's formulas

CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
STEPS = 20


def model_sigmas() -> np.ndarray:
    """The 1,000 noise levels of Stable Diffusion's process."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    return np.sqrt((1 - alphas) / alphas)


def at_timesteps(timesteps: np.ndarray) -> np.ndarray:
    """k-diffusion's t_to_sigma."""
    return np.exp(np.interp(timesteps, np.arange(1000), np.log(model_sigmas())))


def karras() -> np.ndarray:
    """k-diffusion's get_sigmas_karras, with rho 7."""
    low, high = model_sigmas()[0] ** (1 / 7), model_sigmas()[-1] ** (1 / 7)
    return (high + np.linspace(0, 1, STEPS) * (low - high)) ** 7


def sigmas_of(name: str) -> np.ndarray:
    """The noise levels at which a sampler calls the model, without those of second calls."""
    scheduler = make(name, CONFIG)
    scheduler.set_timesteps(STEPS)
    if name.startswith("ddim"):
        return model_sigmas()[scheduler.timesteps.numpy()]
    return np.unique(scheduler.sigmas.numpy()[:-1])[::-1]


def test_karras_is_spaced_as_elsewhere() -> None:
    for name in ("dpmsolver++-karras", "euler-karras", "heun-karras", "unipc-karras"):
        np.testing.assert_allclose(sigmas_of(name), karras(), rtol=1e-3)


def test_uniform_and_normal_are_spaced_as_elsewhere() -> None:
    for name in ("euler", "euler-ancestral", "heun"):
        np.testing.assert_allclose(sigmas_of(name), at_timesteps(np.linspace(999, 0, STEPS)), 1e-3)
    elsewhere = at_timesteps(np.linspace(999, 0, STEPS + 1)[:-1])
    for name in ("dpmsolver++", "unipc"):  # what `differs` says of them
        np.testing.assert_allclose(sigmas_of(name), elsewhere, rtol=5e-3)
        assert "above timestep 0" in (read_sampler(f"{a1111_names(name)[0]} Uniform").differs or "")


def test_simple_sgm_uniform_and_ddim_uniform_are_spaced_as_elsewhere() -> None:
    simple = model_sigmas()[[999 - int(step * 1000 / STEPS) for step in range(STEPS)]]
    sgm_uniform = at_timesteps(np.linspace(999, 0, STEPS + 1)[:-1])
    for name in ("euler-trailing", "dpmsolver++-trailing", "heun-trailing", "ddim-trailing"):
        np.testing.assert_allclose(sigmas_of(name), simple, rtol=1e-5)
        np.testing.assert_allclose(sigmas_of(name), sgm_uniform, rtol=1.5e-2)
    ddim = model_sigmas()[range(1, 1000, 1000 // STEPS)][::-1]
    np.testing.assert_allclose(sigmas_of("ddim"), ddim, rtol=1e-5)

"""What A1111 and ComfyUI call the samplers: one table, read in both directions.

A name in their spelling is a solver and a schedule: `DPM++ 2M` and `Karras`, `dpmpp_2m` and
`karras`. Those that are the same as one of `SAMPLER_NAMES` are read as it. The others are refused
with what comes nearest, because another sampler makes another image.

References: A1111 1.10, modules/sd_samplers_kdiffusion.py and sd_schedulers.py; ComfyUI,
comfy/samplers.py; k-diffusion, sampling.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES, SPACINGS, solver_and_suffix


@dataclass(frozen=True)
class SolverSpelling:
    """What other programs call a solver, and the schedules of theirs that are a spacing of ours."""

    a1111: str
    """As A1111 writes it."""
    others: tuple[str, ...] = ()
    """Other spellings, ComfyUI's first; case, blanks, `_`, `-` and a single `+` do not count."""
    own: tuple[str, ...] = ("Uniform", "normal")
    """The schedules that stand for the spacing without a suffix."""
    automatic: str | None = None
    """The schedule that A1111 takes when it is `Automatic`, if not the first of `own`."""
    differs: str | None = None
    """How the solver differs from theirs."""


SPELLINGS: Mapping[str, SolverSpelling] = {
    "ddpm": SolverSpelling("DDPM", ("ddpm",), own=("DDIM", "ddim_uniform")),
    "ddim": SolverSpelling("DDIM", ("ddim",), own=("DDIM", "ddim_uniform")),
    "dpmsolver++": SolverSpelling(
        "DPM++ 2M", ("dpmpp_2m", "k_dpmpp_2m", "DPMSolver++"), automatic="Karras"
    ),
    "dpmsolver-sde": SolverSpelling(
        "DPM++ 2M SDE",
        ("dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "k_dpmpp_2m_sde"),
        automatic="Exponential",
        differs="the noise of each step is drawn alone, not from a Brownian tree",
    ),
    "euler": SolverSpelling("Euler", ("euler", "k_euler")),
    "euler-ancestral": SolverSpelling(
        "Euler a", ("euler_ancestral", "k_euler_a", "k_euler_ancestral")
    ),
    "heun": SolverSpelling("Heun", ("heun", "k_heun")),
    "unipc": SolverSpelling(
        "UniPC",
        ("uni_pc", "uni_pc_bh2"),
        differs="it has order 2 and B2(h), where A1111 and ComfyUI have order 3",
    ),
    "lcm": SolverSpelling("LCM", ("lcm", "k_lcm"), own=("SGM Uniform", "sgm_uniform", "Simple")),
    "flow-euler": SolverSpelling(
        "Euler", ("euler",), own=("Simple", "normal", "SGM Uniform", "sgm_uniform", "Uniform")
    ),
}
"""Solver of a sampler's name -> its spellings. `flow-euler` is what `Euler` is for a flow model."""

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "-karras": ("Karras",),
    "-trailing": ("SGM Uniform", "sgm_uniform", "Simple"),
}
"""Suffix of a sampler's name -> the schedules that it stands for, A1111's name first."""

WITHOUT_EQUAL: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "DPM++ SDE": (("dpmpp_sde", "dpmpp_sde_gpu"), ("dpmsolver-sde", "dpmsolver++")),
    "DPM++ 2S a": (("dpmpp_2s_ancestral",), ("euler-ancestral", "dpmsolver-sde")),
    "DPM++ 2M SDE Heun": (
        ("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
        ("dpmsolver-sde", "dpmsolver++"),
    ),
    "DPM++ 3M SDE": (("dpmpp_3m_sde", "dpmpp_3m_sde_gpu"), ("dpmsolver-sde", "dpmsolver++")),
    "DPM2": (("dpm_2",), ("heun", "dpmsolver++")),
    "DPM2 a": (("dpm_2_ancestral",), ("euler-ancestral", "heun")),
    "DPM fast": (("dpm_fast",), ("dpmsolver++", "unipc")),
    "DPM adaptive": (("dpm_adaptive",), ("dpmsolver++", "unipc")),
    "LMS": (("lms",), ("euler", "dpmsolver++")),
    "PLMS": ((), ("ddim", "dpmsolver++")),
    "DEIS": (("deis",), ("unipc", "dpmsolver++")),
    "IPNDM": (("ipndm", "ipndm_v"), ("dpmsolver++", "unipc")),
    "Restart": ((), ("heun", "euler")),
    "HeunPP2": (("heunpp2",), ("heun",)),
    "TCD": (("tcd",), ("lcm",)),
    "DDIM CFG++": ((), ("ddim",)),
    "Euler CFG++": (("euler_cfg_pp",), ("euler",)),
    "Euler a CFG++": (("euler_ancestral_cfg_pp",), ("euler-ancestral",)),
    "DPM++ 2M CFG++": (("dpmpp_2m_cfg_pp",), ("dpmsolver++",)),
    "DPM++ 2S a CFG++": (("dpmpp_2s_ancestral_cfg_pp",), ("euler-ancestral",)),
    "res_multistep": (("res_multistep_cfg_pp",), ("dpmsolver++", "unipc")),
    "res_multistep_ancestral": (("res_multistep_ancestral_cfg_pp",), ("euler-ancestral",)),
    "gradient_estimation": (("gradient_estimation_cfg_pp",), ("euler",)),
    "er_sde": ((), ("dpmsolver-sde",)),
    "seeds_2": (("seeds_3",), ("dpmsolver-sde",)),
    "sa_solver": (("sa_solver_pece",), ("dpmsolver-sde",)),
}
"""Solver without an equal -> its other spellings, and the solvers that come nearest."""

SCHEDULES_WITHOUT_EQUAL = (
    *("Exponential", "Polyexponential", "KL Optimal", "Align Your Steps", "AYS", "Beta", "Turbo"),
    *("Align Your Steps GITS", "Align Your Steps 11", "Align Your Steps 32", "Karras Exponential"),
    *("Linear Quadratic", "linear_quadratic", "SGM Karras", "gits"),
)
"""Schedules that no suffix stands for. Others are refused too, as names that nobody knows."""

AUTOMATIC = "Automatic"
"""What A1111 writes where it takes the schedule that goes with a sampler."""

ENDS_EARLY = ("dpmsolver++", "dpmsolver-sde", "unipc")
ENDS_EARLY_NOTE = "its last step is one step above timestep 0, where Uniform and normal end"
"""Solvers whose spacing without a suffix is not quite that of `Uniform` and `normal`."""


@dataclass(frozen=True)
class Reading:
    """What a name stands for."""

    name: str
    """One of `SAMPLER_NAMES`."""
    differs: str | None = None
    """How the sampler differs from the one that was named; None if it is our own name."""


@dataclass(frozen=True)
class _Unequal:
    """A name of another program that no sampler here is equal to."""

    why: str
    nearest: tuple[str, ...]


def read_sampler(text: str, allowed: Sequence[str] = SAMPLER_NAMES) -> Reading:
    """The sampler that a name stands for: one of ours in any case, or A1111's or ComfyUI's.

    Args:
        text: such as `ddim`, `DPM++ 2M Karras`, `dpmpp_2m + karras` or `Euler a`.
        allowed: the samplers that messages offer. What is returned may be another one.

    Raises:
        SettingsError: there is none; the message names those that come nearest.
    """
    shown = text.strip()[:100]
    if shown.casefold() in SAMPLER_NAMES:
        return Reading(shown.casefold())
    found = _known_names().get(_key(text))
    if isinstance(found, Reading):
        return found
    if found is not None:
        nearest = [each for each in found.nearest if each in allowed]
        choice = f"the nearest: {', '.join(nearest)}" if nearest else _choice(allowed)
        raise SettingsError(f"sampler {shown!r} {found.why}; {choice}")
    if _key(text) in _schedule_keys():
        raise SettingsError(
            f"{shown!r} is a schedule; write it behind the sampler, as in 'dpmpp_2m karras'"
        )
    raise SettingsError(f"there is no sampler {shown!r}; {_choice(allowed)}")


def _choice(allowed: Sequence[str]) -> str:
    return f"choose one of: {', '.join(allowed)}"


def read_pair(sampler: str, schedule: str | None, is_flow: bool = False) -> Reading:
    """The sampler that a solver and a schedule of another program stand for.

    Args:
        sampler: such as `DPM++ 2M`, or one that has its schedule in its name.
        schedule: such as `Karras`; None or empty if only the sampler is given.
        is_flow: whether the model is one of flow matching, whose Euler is `flow-euler`.

    Raises:
        SettingsError: there is none; the message names those that come nearest.
    """
    schedule, flow = (schedule or "").strip(), SPELLINGS["flow-euler"]
    if is_flow and _key(sampler) == _key(flow.a1111):
        if _key(schedule) in ("", _key(AUTOMATIC), *map(_key, flow.own)):
            return Reading("flow-euler")
        message = f"sampler '{sampler} {schedule}' has no equal for flow-matching models"
        raise SettingsError(f"{message}; the nearest: flow-euler")
    if _key(schedule) == _key(AUTOMATIC):
        schedule = _automatic(sampler)
    return read_sampler(f"{sampler} {schedule}")


def a1111_names(name: str) -> tuple[str, str | None]:
    """The sampler and the schedule type that A1111 and its readers call a sampler.

    Args:
        name: one of `SAMPLER_NAMES`, or the name of a scheduler's class, which stays as it is.
    """
    solver, suffix = solver_and_suffix(name)
    spelling = SPELLINGS.get(solver)
    return (spelling.a1111 if spelling else solver), (SCHEDULES[suffix][0] if suffix else None)


def _key(text: str) -> str:
    """A name without what does not count: `DPM++ 2M` and `dpmpp_2m` are `dpmpp2m`."""
    return re.sub(r"[\s_+,/()-]+", "", re.sub(r"\+\+", "pp", text.casefold()))


def _automatic(sampler: str) -> str:
    """The schedule that A1111 takes for a sampler by itself, if not its plain one."""
    for spelling in SPELLINGS.values():
        if _key(sampler) in map(_key, (spelling.a1111, *spelling.others)):
            return spelling.automatic or ""
    return ""


@cache
def _schedule_keys() -> frozenset[str]:
    own = [each for spelling in SPELLINGS.values() for each in spelling.own]
    equal = [each for names in SCHEDULES.values() for each in names]
    return frozenset(map(_key, (*own, *equal, *SCHEDULES_WITHOUT_EQUAL)))


@cache
def _known_names() -> Mapping[str, Reading | _Unequal]:
    """The key of every solver of A1111 and ComfyUI, alone and with every schedule."""
    known: dict[str, Reading | _Unequal] = {}
    for solver, spelling in SPELLINGS.items():
        if solver != "flow-euler":
            for each in (spelling.a1111, *spelling.others):
                for schedule in ("", *_schedule_keys()):
                    known[_key(each) + schedule] = _reading(solver, spelling.a1111, schedule)
    for a1111, (others, nearest) in WITHOUT_EQUAL.items():
        for each in (a1111, *others):
            for schedule in ("", *_schedule_keys()):
                known[_key(each) + schedule] = _Unequal(
                    "of other programs has no equal here", _forms(nearest, schedule)
                )
    return known


def _reading(solver: str, a1111: str, schedule: str) -> Reading | _Unequal:
    """What a solver stands for with a schedule, given as its key."""
    spelling, suffix = SPELLINGS[solver], _suffix_of(schedule)
    if schedule in ("", *map(_key, spelling.own)):
        notes = [spelling.differs, ENDS_EARLY_NOTE if solver in ENDS_EARLY else None]
        return Reading(solver, "; ".join(filter(None, notes)) or None)
    if suffix and f"{solver}{suffix}" in SAMPLER_NAMES:
        return Reading(f"{solver}{suffix}", spelling.differs)
    why = f"has no equal here, because {a1111} is not spaced as {_written(schedule)}"
    forms = tuple(f"{solver}{each}" for each in SPACINGS if f"{solver}{each}" in SAMPLER_NAMES)
    return _Unequal(why, forms)


def _forms(solvers: Sequence[str], schedule: str) -> tuple[str, ...]:
    """The samplers of some solvers, with the suffix of a schedule where they have it."""
    suffix = _suffix_of(schedule) or ""
    return tuple(each + suffix if each + suffix in SAMPLER_NAMES else each for each in solvers)


def _suffix_of(schedule: str) -> str | None:
    found = (end for end, names in SCHEDULES.items() if schedule in map(_key, names))
    return next(found, None)


def _written(schedule: str) -> str:
    """A schedule as it is written, given its key."""
    own = [each for spelling in SPELLINGS.values() for each in spelling.own]
    equal = [each for names in SCHEDULES.values() for each in names]
    every = (*equal, *own, *SCHEDULES_WITHOUT_EQUAL)
    return next(each for each in every if _key(each) == schedule)

"""The Dockerfile is sound, and stands on the pinned Ray."""

import re
import tomllib
from pathlib import Path

import pytest
from structure import ROOT
from support.infra_checks import INFRA, findings, run_tool

DOCKERFILE = INFRA / "docker" / "Dockerfile"


def text() -> str:
    return DOCKERFILE.read_text(encoding="utf-8")


def argument(name: str) -> str:
    """The default of a build argument."""
    (value,) = re.findall(rf"^ARG {name}=(.*)$", text(), re.MULTILINE)
    return str(value)


def test_hadolint_has_nothing_against_the_dockerfile() -> None:
    assert findings(run_tool("hadolint", DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("FROM ${BASE} AS wheel", "FROM rayproject/ray:latest AS wheel", "DL3007"),
        ("install --no-cache-dir --constraint", "install --constraint", "DL3042"),
        ("USER 1000\n", "USER root\n", "DL3002"),
        ("WORKDIR /home/ray", "WORKDIR home/ray", "DL3000"),
    ],
)
def test_a_mistake_in_the_dockerfile_is_found(
    tmp_path: Path, right: str, wrong: str, rule: str
) -> None:
    assert right in text()
    changed = tmp_path / "Dockerfile"
    changed.write_text(text().replace(right, wrong), encoding="utf-8")
    assert any(rule in line for line in findings(run_tool("hadolint", changed)))


def test_the_base_image_has_the_pinned_ray_and_the_python_of_the_project() -> None:
    version = argument("RAY_VERSION")
    pins = (INFRA / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={version}" in pins
    assert argument("BASE") == "rayproject/ray:${RAY_VERSION}-py311-${DEVICE}"


def test_the_extras_of_the_image_are_extras_of_nightpress() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(argument("EXTRAS").split(",")) <= set(project["optional-dependencies"])
    manual = (INFRA / "README.md").read_text(encoding="utf-8")
    assert f"| `EXTRAS` | `{argument('EXTRAS')}` |" in manual


def test_torch_comes_from_its_cpu_index_unless_the_image_is_for_gpus() -> None:
    (cases,) = re.findall(r"case (.*?) esac", re.sub(r"\s*\\\n\s*", " ", text()))
    assert cases == (
        '"${DEVICE}" in cpu) index=https://download.pytorch.org/whl/cpu ;;'
        " *) index=https://pypi.org/simple ;;"
    )


def test_the_image_ends_as_a_numbered_ordinary_user() -> None:
    """Kubernetes' runAsNonRoot cannot tell that a name is not root."""
    last = re.findall(r"^USER (.*)$", text(), re.MULTILINE)[-1]
    assert last == "1000"


def test_the_build_sees_all_that_the_wheel_is_made_of_and_little_else() -> None:
    lines = (INFRA / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert {"pyproject.toml", "README.md", "LICENSE", "infra/constraints.txt"} <= kept
    links = {each.resolve() for each in (ROOT / ".src" / "nightpress").iterdir() if each.is_dir()}
    assert {path.name for path in links if path.parent == ROOT} <= kept
    assert all((ROOT / name).exists() for name in kept)

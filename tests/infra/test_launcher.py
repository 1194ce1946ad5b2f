"""The files for `ray up` are what Ray's launcher accepts."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from support.infra_checks import INFRA

LAUNCHER = INFRA / "launcher"
FILES = ("aws.yaml", "gcp.yaml", "on-prem.yaml")

TOKEN = "~/.ray/auth_token"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((LAUNCHER / name).read_text(encoding="utf-8"))
    return found


def check(config: dict[str, Any]) -> None:
    """Check a file as `ray up` does, with Ray's defaults filled in."""
    validate_config(prepare_config(config))


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    check(read(name))


def test_every_file_is_tested() -> None:
    assert {file.name for file in LAUNCHER.iterdir()} == set(FILES)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("cluster_names", "night", jsonschema.ValidationError),
        ("max_workers", "four", (jsonschema.ValidationError, TypeError)),
        ("head_node_type", "heads", (KeyError, ValueError)),
        ("docker", {"images": "x"}, jsonschema.ValidationError),
        ("file_mounts", ["~/.ray/auth_token"], (jsonschema.ValidationError, AttributeError)),
    ],
)
def test_a_mistake_in_the_file_is_found(
    key: str, value: object, error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    with pytest.raises(error):
        check(read("aws.yaml") | {key: value})


def test_machines_without_the_image_have_a_path_to_the_python_of_submitted_jobs() -> None:
    (start,) = [
        each for each in read("on-prem.yaml")["head_start_ray_commands"] if "--head" in each
    ]
    assert " PATH=/opt/nightpress/bin:$PATH " in start


@pytest.mark.parametrize("name", FILES)
def test_every_node_gets_the_token_and_uses_it(name: str) -> None:
    config = read(name)
    assert list(config["file_mounts"].values()) == [TOKEN]
    (there,) = config["file_mounts"]
    assert Path(there).name == "auth_token"
    text = (LAUNCHER / name).read_text(encoding="utf-8")
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"]]
    in_container = "--env RAY_AUTH_MODE=token" in text
    assert in_container or all("RAY_AUTH_MODE=token" in each for each in starts if "start" in each)

"""The description of the built-in model that is known without diffusers."""

import json
from pathlib import Path
from typing import Any

import pytest

from nightpress.diffusion_core.models import builtin_description as module
from nightpress.diffusion_core.models.builtin_description import (
    builtin_description,
    described_from_folder,
)
from nightpress.diffusion_core.models.spec import ModelSpec


def test_what_is_written_down_is_what_diffusers_and_transformers_say() -> None:
    known, said = builtin_description(ModelSpec(source="builtin")), described_from_folder()
    assert known == said
    assert known is not None
    assert known.info.prompts == said.info.prompts  # which models are not compared by


def test_the_type_of_the_weights_may_be_any() -> None:
    assert builtin_description(ModelSpec(source="builtin", dtype="float16")) is not None


@pytest.mark.parametrize(
    "changes",
    [{"source": "elsewhere"}, {"variant": "fp16"}, {"loras": ["builtin/loras/duotone"]}],
)
def test_any_other_model_is_not_known(changes: dict[str, Any]) -> None:
    assert builtin_description(ModelSpec(**{"source": "builtin", **changes})) is None


@pytest.mark.parametrize("part", ["libraries", "fingerprint"])
def test_with_other_libraries_or_files_nothing_is_known(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = json.loads(module.FILE.read_text())
    if part == "libraries":
        known["libraries"]["diffusers"] = "0.1"
    else:
        known["info"]["fingerprint"] = "0" * 64
    (tmp_path / "description.json").write_text(json.dumps(known))
    monkeypatch.setattr(module, "FILE", tmp_path / "description.json")
    assert builtin_description(ModelSpec(source="builtin")) is None

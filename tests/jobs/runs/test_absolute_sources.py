"""Actors start in another folder, so the sources of a model become full paths."""

from pathlib import Path

import pytest

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.runs.shared import _absolute_model


def test_an_image_encoder_in_its_source_keeps_its_name_and_another_gets_its_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sdxl", "models/image_encoder"):
        (tmp_path / name).mkdir(parents=True)
    encoder = "models/image_encoder"
    spec = ModelSpec(
        references=[
            {"source": "sdxl", "image_encoder": encoder},
            {"source": "./", "name": "here", "subfolder": "sdxl", "image_encoder": encoder},
            {"source": "studio/style", "image_encoder": "studio/clip"},
        ]
    )
    outside, inside, hub = _absolute_model(spec).references
    assert (outside.source, outside.label) == (str(tmp_path / "sdxl"), "sdxl")
    assert outside.image_encoder == str(tmp_path / encoder)
    assert (inside.source, inside.image_encoder) == (str(tmp_path), encoder)
    assert (hub.source, hub.image_encoder) == ("studio/style", "studio/clip")

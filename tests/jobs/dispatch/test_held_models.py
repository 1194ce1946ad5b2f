"""Models that one process holds: one that is used again is not loaded again, if memory allows."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.dispatch.held_models import HeldModels
from nightpress.pipelines.models.files import ModelFiles


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("models")
    sources = {name: tiny_models.save(name, folder / name) for name in ("sd", "lcm", "sdxl")}
    return {name: ModelSpec(source=str(source)) for name, source in sources.items()}


def identity(spec: ModelSpec) -> str:
    return ModelFiles.locate(spec, {}).describe(spec).identity


def use(models: HeldModels, specs: dict[str, ModelSpec], *names: str) -> None:
    for name in names:
        models.use(name, identity(specs[name]), 2)


def test_what_fits_is_kept_and_not_loaded_again(specs: dict[str, ModelSpec]) -> None:
    models = HeldModels(specs, {}, "cpu")
    use(models, specs, "sd", "lcm", "sd", "lcm", "sd")
    assert models.num_loaded == 2
    assert models.names == ("lcm", "sd")


def test_the_least_recently_used_is_dropped_where_memory_is_short(
    specs: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = HeldModels(specs, {}, "cpu")
    monkeypatch.setattr(models, "_has_room_for", lambda num_bytes: len(models.names) < 2)
    use(models, specs, "sd", "lcm", "sd", "sdxl")
    assert models.names == ("sd", "sdxl")
    use(models, specs, "lcm")
    assert models.names == ("sdxl", "lcm")
    assert models.num_loaded == 4


def test_a_process_with_a_small_share_of_the_memory_holds_one(specs: dict[str, ModelSpec]) -> None:
    models = HeldModels(specs, {}, "cpu", share=1e-9)
    use(models, specs, "sd", "lcm", "sd")
    assert models.names == ("sd",)
    assert models.num_loaded == 3


def test_other_weights_than_those_of_the_run_are_refused(specs: dict[str, ModelSpec]) -> None:
    models = HeldModels(specs, {}, "cpu")
    with pytest.raises(ModelError, match=r"its fingerprint on .* but the run needs aaaaaaaaaaaa"):
        models.use("sd", "a" * 64, 2)
    assert models.names == ()


def test_a_model_is_held_in_the_precision_of_its_run(specs: dict[str, ModelSpec]) -> None:
    """Another GPU than the first actor's may stand for another one."""
    models = HeldModels(specs, {}, "cpu")
    use(models, specs, "sd", "lcm")
    models.settle("sd", "float32", SpeedSpec())
    models.settle("lcm", "bfloat16", SpeedSpec())
    assert models.names == ("sd",)
    held = models.use("lcm", identity(specs["lcm"]), 2)
    assert (held.model.dtype, models.num_loaded) == ("bfloat16", 3)
    assert models.use("sd", identity(specs["sd"]), 2).model.dtype == "float32"
    assert models.num_loaded == 3


def test_a_description_says_the_precision_on_the_device(specs: dict[str, ModelSpec]) -> None:
    infos = HeldModels(specs, {}, "cpu").describe()
    assert isinstance(infos, dict)
    assert {info.dtype for info in infos.values()} == {"float32"}
    assert "dtype" not in infos["sd"].as_dict()


def test_all_models_are_described_and_the_largest_counts(specs: dict[str, ModelSpec]) -> None:
    models = HeldModels(specs, {}, "cpu")
    infos = models.describe()
    assert isinstance(infos, dict)
    assert {name: info.identity for name, info in infos.items()} == {
        name: identity(spec) for name, spec in specs.items()
    }
    files = [ModelFiles.locate(each, {}).weight_sizes(each)["float32"] for each in specs.values()]
    assert models.footprint(0).weight_bytes == max(each.total_bytes for each in files)
    one = HeldModels(specs["sd"], {}, "cpu")
    assert one.describe() == infos["sd"]


@pytest.fixture
def num_described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the models that were described from their folders."""
    sources: list[str] = []
    describe = ModelFiles.describe

    def noted(self: ModelFiles, spec: ModelSpec, *rest: Any, **named: Any) -> ModelInfo:
        sources.append(spec.source)
        return describe(self, spec, *rest, **named)

    monkeypatch.setattr(ModelFiles, "describe", noted)
    return sources


def test_a_model_that_was_described_is_loaded_without_describing_it_again(
    specs: dict[str, ModelSpec], num_described: list[str]
) -> None:
    models = HeldModels(specs["sd"], {}, "cpu")
    info = models.describe()
    assert isinstance(info, ModelInfo)
    models.use(None, info.identity, 2)
    assert num_described == [specs["sd"].source]
    other = SpeedSpec(channels_last=True)
    models.use(None, info.identity, 2, other)  # may not be possible, which a description says
    assert len(num_described) == 2


def test_weights_that_change_between_description_and_loading_are_refused(
    specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    folder = shutil.copytree(specs["sd"].source, tmp_path / "sd")
    models = HeldModels(ModelSpec(source=str(folder)), {}, "cpu")
    info = models.describe()
    assert isinstance(info, ModelInfo)
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ModelError, match="its fingerprint on"):
        models.use(None, info.identity, 2)


def test_the_built_in_model_is_described_by_what_is_written_down(num_described: list[str]) -> None:
    spec = ModelSpec(source="builtin")
    found = HeldModels(spec, {}, "cpu").describe()
    assert num_described == []
    assert isinstance(found, ModelInfo)
    said = ModelFiles.locate(spec, {}).describe(spec, device="cpu")
    assert (found, found.prompts) == (said, said.prompts)

"""A job trains a LoRA that generation jobs and plain diffusers can load."""

from itertools import count
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support import tiny_models
from support.training_jobs import draw_images

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.loading import load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import Sampler, SamplingParams
from nightpress.pipelines.training.events import CaptionsCut, Finished, LatentsCached, Stopped
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.spec import TrainSpec, train_spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images, and a tiny model to train a LoRA for."""
    draw_images(tmp_path / "pictures", num=4)
    tiny_models.save("sd", tmp_path / "model")
    return tmp_path


def lora_job(root: Path, **values: object) -> TrainSpec:
    return train_spec(
        {
            "name": "discs",
            "recipe": "lora",
            "data": {"source": str(root / "pictures")},
            "output": str(root / "runs"),
            "model": {"source": str(root / "model")},
            "lora": {"rank": 4},
            "training": {
                "resolution": 32,
                "train_batch_size": 2,
                "max_train_steps": 4,
                "learning_rate": 1e-2,
                "checkpointing_steps": 2,
                "logging_steps": 1,
            },
            "samples": {"every_steps": 0, "num_images": 2, "num_inference_steps": 2},
            **values,
        }
    )


def sampled(model: ModelSpec, root: Path, loras: tuple[Path, ...] = ()) -> torch.Tensor:
    loaded = load(root / "model", model, "cpu", loras)
    params = SamplingParams(width=32, height=32, num_inference_steps=2, guidance_scale=2.0)
    batch = Sampler(loaded, batch_size=1).sample([ImageRequest("a red disc", "", 1)], params)
    return torch.from_numpy(batch.pixels[0].astype("int16"))


def test_a_trained_lora_changes_the_images_of_the_model(root: Path) -> None:
    spec = lora_job(root)
    events = list(train(spec, cache=root / "cache"))
    assert LatentsCached(4, 4) in events
    assert isinstance(events[-1], Finished)
    weights = Path(spec.url) / "model/pytorch_lora_weights.safetensors"
    source = str(root / "model")
    plain = sampled(ModelSpec(source=source), root)
    with_lora = ModelSpec.model_validate({"source": source, "loras": [{"source": str(weights)}]})
    assert not torch.equal(plain, sampled(with_lora, root, (weights,)))


def test_plain_diffusers_loads_the_lora(root: Path) -> None:
    from diffusers import DiffusionPipeline

    spec = lora_job(root)
    list(train(spec, cache=root / "cache"))
    pipeline = DiffusionPipeline.from_pretrained(root / "model")
    pipeline.load_lora_weights(f"{spec.url}/model")
    assert pipeline.get_active_adapters() == ["default_0"]


@pytest.mark.slow
def test_a_stopped_lora_training_resumes_to_the_same_bits(root: Path) -> None:
    whole, parts = lora_job(root, name="whole"), lora_job(root, name="parts")
    list(train(whole, cache=root / "cache"))
    calls = count(1)

    def after_two() -> bool:
        return next(calls) >= 2

    assert isinstance(list(train(parts, should_stop=after_two, cache=root / "cache"))[-1], Stopped)
    list(train(parts, cache=root / "cache"))
    one, other = (
        safetensors.torch.load_file(f"{spec.url}/model/pytorch_lora_weights.safetensors")
        for spec in (whole, parts)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_that_has_a_lora_already_is_refused(root: Path) -> None:
    spec = lora_job(root, model={"source": str(root / "model"), "loras": ["x.safetensors"]})
    message = (
        r"model\.loras and model\.row_loras are not allowed: a LoRA is trained on a model without"
    )
    with pytest.raises(SettingsError, match=message):
        list(train(spec, cache=root / "cache"))
    assert not Path(spec.url).exists()


def test_a_model_with_adapters_is_refused(root: Path) -> None:
    model = {"source": str(root / "model"), "references": [{"source": "x.safetensors"}]}
    with pytest.raises(SettingsError, match=r"model\.references are not allowed: a LoRA is"):
        list(train(lora_job(root, model=model), cache=root / "cache"))


@pytest.mark.slow
def test_captions_that_the_model_does_not_read_to_the_end_are_counted(root: Path) -> None:
    (root / "pictures" / "000.txt").write_text("a red disc " * 40 + "and a dog")
    cut = [event for event in train(lora_job(root)) if isinstance(event, CaptionsCut)]
    assert [event.num_images for event in cut] == [1]
    assert cut[0].example.endswith("and a dog")


@pytest.mark.parametrize("prompts", [{"long": "refuse"}, {"long": "cut"}, {"weights": "refuse"}])
def test_what_training_does_with_long_captions_cannot_be_chosen(
    root: Path, prompts: dict[str, str]
) -> None:
    spec = lora_job(root, model={"source": str(root / "model"), "prompts": prompts})
    sent = train_spec(spec.as_dict())  # as a worker gets it
    with pytest.raises(SettingsError, match=r"model\.prompts is not allowed: a caption that is"):
        list(train(sent, cache=root / "cache"))
    assert not Path(spec.url).exists()


def test_a_lora_job_is_the_same_one_after_it_was_sent_to_a_worker(root: Path) -> None:
    spec = lora_job(root)
    sent = train_spec(spec.as_dict())
    assert sent.as_dict() == spec.as_dict()
    assert "prompts" not in sent.model.model_fields_set


def test_a_lora_training_of_an_older_version_resumes(root: Path) -> None:
    spec = lora_job(root)
    values = spec.as_dict()
    values["model"]["prompts"] = {"long": "refuse", "weights": "refuse"}
    assert train_spec(values).changes(spec) == spec.changes(train_spec(values)) == []

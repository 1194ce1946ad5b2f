"""A job trains a ControlNet that plain diffusers loads."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support import tiny_models
from support.training_jobs import draw_images

from nightpress.diffusion_core.errors import SettingsError
from nightpress.pipelines.errors import ChangedRunError, DataError, SpecError
from nightpress.pipelines.training.events import Finished, LatentsCached, SamplesWritten, Stopped
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.spec import TrainSpec, train_spec

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("sd", tmp_path_factory.mktemp("model"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_images(tmp_path / "pictures", num=4)
    return tmp_path


def job(root: Path, base: Path, **values: object) -> TrainSpec:
    return train_spec(
        {
            "name": "discs",
            "recipe": "controlnet",
            "data": {"source": str(root / "pictures")},
            "output": str(root / "runs"),
            "model": {"source": str(base)},
            "controlnet": {"control": "patches", "patches": 4},
            "training": {
                "resolution": 32,
                "train_batch_size": 2,
                "max_train_steps": 4,
                "learning_rate": 1e-2,
                "checkpointing_steps": 2,
                "logging_steps": 1,
                "ema_decay": 0.5,
            },
            "samples": {"every_steps": 0, "num_images": 2, "num_inference_steps": 2},
            **values,
        }
    )


def weights_of(spec: TrainSpec) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(f"{spec.url}/model/{WEIGHTS}")


def test_plain_diffusers_loads_what_a_job_trains(root: Path, model: Path) -> None:
    from diffusers import ControlNetModel

    spec = job(root, model)
    events = list(train(spec, cache=root / "cache"))
    assert LatentsCached(4, 4) in events
    assert isinstance(events[-1], Finished)
    sheets = [event.path for event in events if isinstance(event, SamplesWritten)]
    with Image.open(f"{spec.url}/{sheets[-1]}") as sheet:
        assert sheet.width > sheet.height  # two images, each beside its control picture
    loaded = ControlNetModel.from_pretrained(f"{spec.url}/model")
    assert loaded.controlnet_mid_block.weight.abs().sum() > 0


@pytest.mark.slow
def test_a_stopped_training_resumes_to_the_same_bits(root: Path, model: Path) -> None:
    whole, parts = job(root, model, name="whole"), job(root, model, name="parts")
    list(train(whole, cache=root / "cache"))
    calls = count(1)

    def after_two() -> bool:
        return next(calls) >= 2

    assert isinstance(list(train(parts, should_stop=after_two, cache=root / "cache"))[-1], Stopped)
    list(train(parts, cache=root / "cache"))
    one, other = weights_of(whole), weights_of(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_control_pictures_may_come_with_the_data(root: Path, model: Path) -> None:
    """The same pictures from a folder train the same weights as those made from the images."""
    (root / "patches").mkdir()
    for path in (root / "pictures").glob("*.png"):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((4, 4), Image.Resampling.BOX)
        small.resize((32, 32), Image.Resampling.NEAREST).save(root / "patches" / path.name)
    given = {"control": "data", "source": str(root / "patches")}
    made, read = job(root, model, name="made"), job(root, model, name="read", controlnet=given)
    for spec in (made, read):
        list(train(spec, cache=root / "cache"))
    one, other = weights_of(made), weights_of(read)
    assert all(torch.equal(one[key], other[key]) for key in one)
    Image.new("RGB", (32, 32), "red").save(root / "patches" / "000.png")
    with pytest.raises(ChangedRunError, match="base_weights"):
        list(train(read, cache=root / "cache"))


def test_an_image_without_its_control_picture_is_named(root: Path, model: Path) -> None:
    (root / "patches").mkdir()
    for name in ("000.png", "001.jpg", "003.png"):
        Image.new("RGB", (32, 32)).save(root / "patches" / name)
    given = {"control": "data", "source": str(root / "patches")}
    spec = job(root, model, controlnet=given)
    message = r"1 of 4 images have no control picture of their name: 002\.png"
    with pytest.raises(DataError, match=message):
        list(train(spec, cache=root / "cache"))
    assert not Path(spec.url).exists()


def test_a_control_picture_of_another_shape_is_refused(root: Path, model: Path) -> None:
    (root / "patches").mkdir()
    for i in range(4):
        Image.new("RGB", (64, 48 if i == 2 else 64)).save(root / "patches" / f"{i:03d}.png")
    spec = job(root, model, controlnet={"control": "data", "source": str(root / "patches")})
    message = r"002\.png: the control picture has 64 x 48 pixels, which is another aspect ratio"
    with pytest.raises(DataError, match=message):
        list(train(spec, cache=root / "cache"))


def test_model_settings_that_change_the_model_are_refused(root: Path, model: Path) -> None:
    spec = job(root, model, model={"source": str(model), "loras": ["x.safetensors"]})
    message = r"not allowed: a ControlNet is trained on a model without LoRAs"
    with pytest.raises(SettingsError, match=message):
        list(train(spec, cache=root / "cache"))
    assert not Path(spec.url).exists()


@pytest.mark.parametrize(
    ("controlnet", "message"),
    [
        ({"control": "canny", "patches": 4}, "patches has no effect without control: patches"),
        ({"control": "patches", "image": "edge"}, "image has no effect without control: data"),
        ({"control": "data"}, "control: data needs image, the column or the extension of the"),
        ({"control": "canny", "low_threshold": 300}, "low_threshold 300 must not be above high"),
        ({"control": "patches", "patches": 33}, "controlnet.patches 33 is larger than training."),
        ({"control": "depth"}, "'canny', 'patches' or 'data'"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(
    root: Path, model: Path, controlnet: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        job(root, model, controlnet=controlnet)


def test_mirroring_is_refused(root: Path, model: Path) -> None:
    with pytest.raises(SpecError, match=r"training\.random_flip: control pictures cannot be"):
        job(root, model, training={"resolution": 32, "random_flip": True})


def test_edges_are_those_that_a_job_makes_of_pictures(root: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    from nightpress.pipelines.training.control_pictures import ControlPictures
    from nightpress.pipelines.training.data import DataSpec, pack
    from nightpress.pipelines.training.sections import ControlNetSettingsSpec

    images = pack(DataSpec(source=str(root / "pictures")), 32, True, cache=root / "cache")
    controls = ControlPictures(ControlNetSettingsSpec(high_threshold=150), images, 32)
    expected = cv2.Canny(images.pixels(1, 32), 100, 150)
    assert np.array_equal(controls.pixels(1), np.repeat(expected[..., None], 3, axis=2))

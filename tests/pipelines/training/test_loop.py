"""A training depends only on its job and its images, however often it is interrupted."""

import io
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from support import tiny_models
from support.servers import Server
from support.slow_cases import slow_except
from support.training_jobs import SIDE, autoencoder_job, denoiser_job, draw_images, save_parts

from nightpress.diffusion_core.errors import SettingsError
from nightpress.pipelines.errors import (
    ChangedRunError,
    CheckpointError,
    LeaseLost,
    RunHeld,
    SpecError,
    StoreError,
    TrainingDiverged,
)
from nightpress.pipelines.run_directory.lease import held, require_free
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training import loop
from nightpress.pipelines.training.data import pack
from nightpress.pipelines.training.events import (
    CaptionsCut,
    CheckpointSaved,
    Finished,
    LatentsCached,
    Resumed,
    SamplesWritten,
    StepDone,
    Stopped,
)
from nightpress.pipelines.training.layout import checkpoint_path, checkpoint_steps
from nightpress.pipelines.training.loop import Training, train
from nightpress.pipelines.training.metrics import read_metrics
from nightpress.pipelines.training.registry import new_recipe
from nightpress.pipelines.training.sample_order import SampleOrder
from nightpress.pipelines.training.spec import TrainSpec
from nightpress.pipelines.training.stepping import WorkerRank


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Fix the order in which sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with images and the parts of a denoiser."""
    draw_images(tmp_path / "pictures")
    save_parts(tmp_path / "parts")
    return tmp_path


class Stream:
    """Stands for a stream of a GPU; knows what was prepared on it."""

    current = threading.local()

    def __init__(self, device: str) -> None:
        self.device = device

    @contextmanager
    def as_current(self) -> Iterator[None]:
        self.current.stream = self
        yield
        self.current.stream = None


def test_batches_are_prepared_ahead_on_a_stream_of_their_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    prepare = Training._batch

    def watched(training: Training, step: int) -> dict[str, torch.Tensor]:
        seen.append(getattr(Stream.current, "stream", None))
        return prepare(training, step)

    monkeypatch.setattr(loop, "CopyStream", Stream)
    monkeypatch.setattr(Training, "_batch", watched)
    run(denoiser_job(root), stop_after=2)
    assert len(seen) == 3
    assert len({id(stream) for stream in seen}) == 1
    assert {stream.device for stream in seen} == {"cpu"}
    assert getattr(Stream.current, "stream", None) is None


def run(spec: TrainSpec, stop_after: int | None = None, **options: Any) -> list[Any]:
    """Train, and request a stop after `stop_after` steps."""
    events: list[Any] = []

    def should_stop() -> bool:
        steps = sum(isinstance(event, StepDone) for event in events)
        return stop_after is not None and steps + 1 >= stop_after

    cache = Path(spec.output).parent / "cache"
    for event in train(spec, should_stop=should_stop, cache=cache, **options):
        events.append(event)
    return events


def weights(spec: TrainSpec) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint."""
    store = Store(spec.url)
    last = checkpoint_steps(store)[-1]
    return safetensors.torch.load(store.read(checkpoint_path(last)))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def losses_of(spec: TrainSpec) -> list[float]:
    """The loss of every step."""
    losses: list[float] = read_metrics(Store(spec.url))["loss"].to_pylist()
    return losses


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> TrainSpec:
    """A denoiser's training that was never interrupted; tests must not change it."""
    folder = tmp_path_factory.mktemp("whole")
    draw_images(folder / "pictures")
    save_parts(folder / "parts")
    spec = denoiser_job(folder)
    run(spec)
    return spec


@pytest.fixture(scope="module")
def whole_autoencoder(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> TrainSpec:
    """An autoencoder's training that was never interrupted; tests must not change it."""
    folder = tmp_path_factory.mktemp("whole_autoencoder")
    draw_images(folder / "pictures")
    spec = autoencoder_job(folder)
    run(spec)
    return spec


SLOW_AUTOENCODER_JOB = pytest.param(autoencoder_job, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("job", "uninterrupted"),
    [
        pytest.param(autoencoder_job, "whole_autoencoder", marks=pytest.mark.slow),
        (denoiser_job, "whole"),
    ],
)
def test_a_stopped_training_resumes_to_the_same_bits(
    root: Path, job: Any, uninterrupted: str, request: pytest.FixtureRequest
) -> None:
    whole: TrainSpec = request.getfixturevalue(uninterrupted)
    parts = job(root, name="parts")
    events = run(parts, stop_after=3)
    assert isinstance(events[-1], Stopped)
    assert events[-1].step == 3
    events = run(parts)
    assert Resumed(3) in events
    assert isinstance(events[-1], Finished)
    assert equal(weights(whole), weights(parts))
    assert losses_of(whole) == losses_of(parts)
    assert len(losses_of(whole)) == 6


def test_captions_that_a_new_denoiser_does_not_read_to_the_end_are_counted(root: Path) -> None:
    for number in (3, 7):
        (root / "pictures" / f"{number:03d}.txt").write_text("a gold disc " * 40 + f"and {number}")
    events = run(denoiser_job(root), stop_after=1)
    cut = [event for event in events if isinstance(event, CaptionsCut)]
    assert [event.num_images for event in cut] == [2]
    assert cut[0].example.endswith("and 3")
    (root / "pictures" / "003.txt").write_text("a gold disc")
    (root / "pictures" / "007.txt").write_text("a gold disc")
    events = run(denoiser_job(root, name="short"), stop_after=1)
    assert not any(isinstance(event, CaptionsCut) for event in events)


def test_steps_lost_after_the_last_checkpoint_are_repeated_to_the_same_bits(
    root: Path, whole: TrainSpec
) -> None:
    killed = denoiser_job(root)
    events = train(killed, cache=root / "cache")
    for event in events:
        if isinstance(event, StepDone) and event.metrics.step == 5:
            break
    events.close()
    assert checkpoint_steps(Store(killed.url)) == [2, 4]
    assert Resumed(4) in run(killed)
    assert equal(weights(whole), weights(killed))


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    root: Path, whole: TrainSpec
) -> None:
    hurt = denoiser_job(root)
    run(hurt, stop_after=4)
    store = Store(hurt.url)
    store.put(checkpoint_path(4), store.read(checkpoint_path(4))[:-1])
    assert Resumed(2, (f"{checkpoint_path(4)}.damaged",)) in run(hurt)
    assert equal(weights(whole), weights(hurt))
    assert f"{checkpoint_path(4)}.damaged" in store.list("checkpoints")


def test_training_lowers_the_loss(root: Path) -> None:
    spec = autoencoder_job(root, training={"max_train_steps": 40, "checkpointing_steps": 40})
    losses = [e.metrics.loss for e in run(spec) if isinstance(e, StepDone)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_training_with_muon_resumes_to_the_same_bits(root: Path) -> None:
    optimizer = {"optimizer": "muon"}
    whole = denoiser_job(root, name="whole", training=optimizer)
    parts = denoiser_job(root, name="parts", training=optimizer)
    run(whole)
    run(parts, stop_after=2)
    run(parts)
    assert equal(weights(whole), weights(parts))


@pytest.mark.slow
def test_gradient_accumulation_trains_the_same_weights(root: Path) -> None:
    whole = denoiser_job(root, name="whole")
    parts = denoiser_job(root, name="parts", training={"gradient_accumulation_steps": 2})
    run(whole)
    run(parts)
    one, other = weights(whole), weights(parts)
    # Sums are rounded in another order, which Adam's first steps amplify.
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("job", [SLOW_AUTOENCODER_JOB, denoiser_job])
def test_gradient_checkpointing_trains_the_same_weights(root: Path, job: Any) -> None:
    kept = job(root, name="kept")
    twice = job(root, name="twice", training={"gradient_checkpointing": True})
    run(kept)
    run(twice)
    one, other = weights(kept), weights(twice)
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-5


def paused_training(spec: TrainSpec) -> Iterator[Any]:
    """The events of a training run that is paused after its first step."""
    events = train(spec, cache=Path(spec.output).parent / "cache")
    for event in events:
        if isinstance(event, StepDone):
            break
    return events


def test_a_second_process_that_trains_the_same_run_is_refused(root: Path) -> None:
    spec = denoiser_job(root)
    events = paused_training(spec)
    with pytest.raises(RunHeld, match="--take-over"):
        run(spec)
    assert isinstance(list(events)[-1], Finished)


def test_a_training_that_was_taken_over_writes_nothing_more(root: Path) -> None:
    spec = denoiser_job(root)
    events = paused_training(spec)
    taken = require_free(Store(spec.url), take_over=True)
    assert isinstance(run(spec, hold_lease=partial(held, free=taken))[-1], Finished)
    files = files_of(spec)
    with pytest.raises(LeaseLost, match="taken over"):
        list(events)
    assert files == files_of(spec)


def test_a_checkpoint_written_by_another_process_is_not_replaced(root: Path) -> None:
    spec = denoiser_job(root)
    events = paused_training(spec)
    Store(spec.url).put(checkpoint_path(2), b"another's")
    with pytest.raises(CheckpointError, match="do not start the same training run twice"):
        list(events)


@pytest.mark.slow
def test_a_training_on_s3_resumes_from_its_checkpoint(
    root: Path, moto_s3: Server, whole: TrainSpec
) -> None:
    folder = moto_s3.folder()
    spec = denoiser_job(root, output=folder.url, storage=folder.options)
    cache = {"cache": root / "cache"}
    for event in (events := train(spec, **cache)):
        if isinstance(event, CheckpointSaved):
            break
    events.close()
    assert Resumed(2) in list(train(spec, **cache))
    store = Store(spec.url, spec.storage)
    remote = safetensors.torch.load(store.read(checkpoint_path(6)))
    assert equal(weights(whole), remote)
    assert "model/model_index.json" in store.list("model")


@pytest.mark.parametrize("job", [SLOW_AUTOENCODER_JOB, denoiser_job])
def test_mixed_precision_keeps_float32_weights_and_resumes_to_the_same_bits(
    root: Path, job: Any
) -> None:
    half = {"mixed_precision": "bf16"}
    whole, parts = job(root, name="whole", training=half), job(root, name="parts", training=half)
    run(whole)
    run(parts, stop_after=3)
    run(parts)
    assert equal(weights(whole), weights(parts))
    assert {tensor.dtype for tensor in weights(whole).values()} == {torch.float32}


@pytest.mark.slow
def test_the_largest_seed_is_accepted(root: Path) -> None:
    assert isinstance(run(denoiser_job(root, seed=2**53 - 1))[-1], Finished)


@pytest.mark.slow
def test_model_parts_may_be_moved_before_a_training_resumes(root: Path) -> None:
    run(denoiser_job(root), stop_after=2)
    shutil.move(root / "parts/vae", root / "moved")
    moved = denoiser_job(root, model=_model(root, autoencoder=str(root / "moved")))
    assert Resumed(2) in run(moved)


def test_a_training_killed_between_its_last_checkpoint_and_its_model_is_completed(
    root: Path,
) -> None:
    spec = denoiser_job(root)
    events = train(spec, cache=root / "cache")
    for event in events:
        if isinstance(event, CheckpointSaved) and event.step == 6:
            break
    events.close()
    store = Store(spec.url)
    assert not store.list("model")
    run(spec)
    assert store.size("samples/step-00000006.png")
    assert store.size("model/model_index.json")


@pytest.mark.slow
def test_a_finished_training_can_be_extended(root: Path) -> None:
    run(denoiser_job(root))
    longer = denoiser_job(root, training={"max_train_steps": 8})
    events = run(longer)
    assert Resumed(6) in events
    assert events[-1].step == 8


def files_of(spec: TrainSpec) -> dict[str, bytes]:
    """All files of the run except its leases, which every start changes."""
    store = Store(spec.url)
    return {path: store.read(path) for path in store.list() if not path.startswith("lease/")}


def test_running_a_finished_training_again_changes_nothing(whole: TrainSpec) -> None:
    files = files_of(whole)
    events = run(whole)
    assert not any(isinstance(event, StepDone) for event in events)
    assert files == files_of(whole)


def test_checkpoints_metrics_and_images_can_be_read(root: Path) -> None:
    spec = denoiser_job(root, samples={"every_steps": 3})
    events = run(spec)
    folder = Path(spec.url)
    assert [e.step for e in events if isinstance(e, SamplesWritten)] == [3, 6]
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [2, 4, 6]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-00000004.safetensors",
        "step-00000006.safetensors",
    ]
    table = pq.read_table(folder / "metrics.parquet")
    assert table["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert table["num_images"].to_pylist()[-1] == 24
    for image_file in ("loss.png", "samples/step-00000003.png"):
        with Image.open(folder / image_file) as image:
            assert image.size[0] > 64
    with Image.open(folder / "samples/film.gif") as gif:
        assert gif.n_frames == 2


def test_plain_diffusers_loads_the_trained_pipeline(whole: TrainSpec) -> None:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(f"{whole.url}/model")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red disc", height=32, width=32, num_inference_steps=2, output_type="np")
    assert image.images.shape == (1, 32, 32, 3)
    assert np.isfinite(image.images).all()
    averaged = {k.removeprefix("ema.denoiser."): v for k, v in weights(whole).items()}
    saved = pipeline.unet.state_dict()
    assert all(torch.equal(saved[key], averaged[key]) for key in saved)


def test_plain_diffusers_loads_the_trained_autoencoder_and_its_latents_are_white(
    root: Path,
) -> None:
    from diffusers import AutoencoderKL

    spec = autoencoder_job(root, training={"max_train_steps": 30, "checkpointing_steps": 30})
    run(spec)
    autoencoder = AutoencoderKL.from_pretrained(f"{spec.url}/model")
    pictures = sorted((root / "pictures").glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in pictures])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = autoencoder.encode(images).latent_dist.mean
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (latents.var(dim=(0, 2, 3)) - 1).abs().max() < 0.05
    assert autoencoder.config.scaling_factor == 1.0


@pytest.mark.slow
def test_a_frozen_text_encoder_does_not_change(root: Path) -> None:
    frozen = denoiser_job(root, model=_model(root, train_text_encoder=False, frozen_parameters=[]))
    run(frozen)
    before = safetensors.torch.load_file(root / "parts/text_encoder/model.safetensors")
    after = safetensors.torch.load_file(f"{frozen.url}/model/text_encoder/model.safetensors")
    assert equal(before, after)
    assert not any("text_encoder" in key for key in weights(frozen))


def test_a_transformer_trains_on_a_frozen_t5_and_its_pipeline_samples(root: Path) -> None:
    from diffusers import DiffusionPipeline

    tiny_models.t5_text().save_pretrained(root / "t5")
    tiny_models.t5_tokenizer().save_pretrained(root / "t5_tokenizer")
    transformer = {
        "_class_name": "PixArtTransformer2DModel",
        "sample_size": 16,
        "num_layers": 1,
        "patch_size": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_channels": 32,
        "in_channels": 4,
        "out_channels": 8,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
        "use_additional_conditions": False,
    }
    parts = {
        "autoencoder": str(root / "parts/vae"),
        "denoiser": transformer,
        "text_encoder": str(root / "t5"),
        "tokenizer": str(root / "t5_tokenizer"),
    }
    spec = denoiser_job(root, model={**parts, "train_text_encoder": False, "frozen_parameters": []})
    assert isinstance(run(spec)[-1], Finished)
    pipeline = DiffusionPipeline.from_pretrained(f"{spec.url}/model")
    assert type(pipeline).__name__ == "PixArtSigmaPipeline"


def test_cached_caption_embeddings_give_the_same_loss_as_fresh_ones(root: Path) -> None:
    spec = denoiser_job(root, model=_model(root, train_text_encoder=False, frozen_parameters=[]))
    data = pack(spec.data, SIDE, True, {}, root / "cache")
    recipe = new_recipe(spec, data, "cpu")
    store = Store(spec.url)
    list(recipe.prepare(store, 0, 1))
    recipe.load_prepared(store)
    batch = recipe.batch(list(SampleOrder(0, len(data), 4).batch_items(0)))
    with_cached = recipe.module(**batch)["loss"]
    del batch["embeddings"]
    assert torch.allclose(recipe.module(**batch)["loss"], with_cached, atol=1e-6)


def test_frozen_parameters_of_a_trained_text_encoder_do_not_change(whole: TrainSpec) -> None:
    encoder = Path(whole.output).parent / "parts/text_encoder"
    before = safetensors.torch.load_file(encoder / "model.safetensors")
    after = safetensors.torch.load_file(f"{whole.url}/model/text_encoder/model.safetensors")
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if "token_embedding" in key} <= same
    assert len(same) < len(before) / 2


def test_cached_latents_are_not_computed_again_after_a_stop(root: Path) -> None:
    spec = denoiser_job(root)
    assert LatentsCached(12, 12) in run(spec, stop_after=1)
    assert not any(isinstance(event, LatentsCached) for event in run(spec))


@pytest.mark.slow
def test_cached_and_fresh_latents_give_the_same_losses(root: Path) -> None:
    cached, fresh = (
        denoiser_job(root, name=name, cache_latents=kept)
        for name, kept in (("cached", True), ("fresh", False))
    )
    losses = [
        [e.metrics.loss for e in run(spec) if isinstance(e, StepDone)] for spec in (cached, fresh)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # the cache is float16


@pytest.mark.parametrize(
    "schedule",
    slow_except(
        [
            {"prediction_type": "epsilon"},
            {"prediction_type": "sample", "snr_gamma": 5.0},
            {"prediction_type": "flow_prediction", "weighting_scheme": "logit_normal"},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ],
        {"prediction_type": "flow_prediction", "weighting_scheme": "logit_normal"},
    ),
)
def test_every_prediction_target_trains_and_its_pipeline_samples(root: Path, schedule: Any) -> None:
    spec = denoiser_job(root, schedule=schedule)
    events = run(spec)
    assert isinstance(events[-1], Finished)
    sheet = Image.open(io.BytesIO(Store(spec.url).read("samples/step-00000006.png")))
    assert np.asarray(sheet).std() > 0


def test_a_changed_job_is_refused_with_what_changed(root: Path) -> None:
    run(denoiser_job(root), stop_after=2)
    store = Store(denoiser_job(root).url)
    before = {path: store.read(path) for path in store.list()}
    with pytest.raises(ChangedRunError, match=r"training\.train_batch_size: 4 -> 6"):
        run(denoiser_job(root, training={"train_batch_size": 6}))
    (root / "pictures/000.txt").write_text("a crimson disc")
    with pytest.raises(ChangedRunError, match="data_fingerprint"):
        run(denoiser_job(root))
    assert {path: store.read(path) for path in store.list()} == before


def test_the_learning_rate_may_change_on_resume(root: Path) -> None:
    run(denoiser_job(root), stop_after=2)
    events = run(denoiser_job(root, training={"learning_rate": 1e-4, "max_train_steps": 4}))
    assert [e.metrics.learning_rate for e in events if isinstance(e, StepDone)] == [1e-4, 1e-4]


def test_a_diverged_training_stops_and_keeps_the_last_good_checkpoint(root: Path) -> None:
    spec = denoiser_job(root, training={"max_train_steps": 4})
    run(spec, stop_after=2)
    good = weights(spec)
    diverging = denoiser_job(root, training={"max_train_steps": 30, "learning_rate": 1e30})
    with pytest.raises(TrainingDiverged, match=r"step \d+: the loss is (nan|inf).*step-0000000\d"):
        run(diverging)
    assert all(torch.isfinite(tensor).all() for tensor in weights(spec).values())
    assert good.keys() == weights(spec).keys()


def test_a_checkpoint_of_another_model_is_refused(root: Path) -> None:
    spec = denoiser_job(root)
    run(spec, stop_after=2)
    other = autoencoder_job(root, name="other")
    run(other, stop_after=3)
    store = Store(spec.url)
    store.put(checkpoint_path(5), Store(other.url).read(checkpoint_path(3)))
    with pytest.raises(
        CheckpointError, match=r"step-00000005\.safetensors: checkpoint of another model"
    ):
        run(spec)


def test_a_full_disk_stops_training_and_keeps_the_last_good_checkpoint(root: Path) -> None:
    spec = denoiser_job(root)
    run(spec, stop_after=2)
    size = Store(spec.url).size(checkpoint_path(2))
    assert size is not None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(StoreError, match="step-00000004"):
            run(spec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint_steps(Store(spec.url)) == [2]
    assert isinstance(run(spec)[-1], Finished)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {"denoiser": {"_class_name": "Oracle"}}},
            "_class_name 'Oracle': must be one of",
        ),
        (
            {"model": {"denoiser": {"_class_name": "UNet2DConditionModel", "widht": 3}}},
            "UNet2DConditionModel takes no 'widht'",
        ),
        (
            {"model": {"frozen_parameters": ["no_such"]}},
            "no text encoder weight has 'no_such' in its name",
        ),
        ({"training": {"resolution": 33}}, "resolution 33"),
        ({"model": {"autoencoder": "SHIFTED"}}, "has shift_factor"),
    ],
)
def test_a_job_whose_parts_do_not_fit_is_refused_before_anything_is_written(
    root: Path, sections: dict[str, Any], message: str
) -> None:
    if "model" in sections:
        sections = {**sections, "model": _model(root, **sections["model"])}
    if sections.get("model", {}).get("autoencoder") == "SHIFTED":
        config = root / "parts/vae/config.json"
        config.write_text(config.read_text().replace('"shift_factor": null', '"shift_factor": 0.1'))
        sections = {}
    if "training" in sections:
        draw_large = Image.new("RGB", (64, 64), "white")
        for path in (root / "pictures").glob("*.png"):
            draw_large.save(path)
    spec = denoiser_job(root, **sections)
    with pytest.raises(SettingsError, match=message):
        run(spec)
    assert not Path(spec.url).exists()


def test_a_batch_that_the_workers_cannot_split_evenly_is_refused(root: Path) -> None:
    with pytest.raises(
        SpecError, match="train_batch_size 4 cannot be split evenly among 3 workers"
    ):
        list(train(denoiser_job(root), WorkerRank(rank=0, world_size=3)))


def _model(root: Path, **changes: Any) -> dict[str, Any]:
    return {**denoiser_job(root).as_dict()["model"], **changes}

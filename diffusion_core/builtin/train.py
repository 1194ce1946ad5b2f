r"""Train the built-in model's parts from a folder that `dataset` built.

::

    python -m diffusion_core.builtin.train autoencoder --data build/pictures --out build/stages
    python -m diffusion_core.builtin.train denoiser --data build/pictures --out build/stages
    python -m diffusion_core.builtin.train export --data build/pictures --out build/stages \
        --to build/model

Each stage goes on from its last checkpoint in `--out`, whatever stopped it, and stops by itself
after `--minutes`. What is exported are the averaged weights.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Generator, Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffusion_core.builtin import architecture
from diffusion_core.builtin.captions import caption, train_tokenizer
from diffusion_core.builtin.dataset import Concept, read_concepts
from diffusion_core.training import (
    AutoencoderObjective,
    Ema,
    autoencoder_loss,
    denoising_loss,
    drop_text,
    optimizer_step,
    sample_timesteps,
)


@dataclass(frozen=True)
class StageConfig:
    """How long and in what strides one stage trains."""

    minutes: float
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    ema_decay: float = 0.999
    save_every_s: float = 120.0
    seed: int = 0
    workers: int = 1
    cooldown: bool = False


@dataclass(frozen=True)
class Progress:
    """One line of a training log: pictures drawn so far, mean loss of the last, seconds so far."""

    num_images: int
    loss: float
    elapsed_s: float


class Stage:
    """Modules, optimizer and average of one stage, and the checkpoint file that holds them."""

    def __init__(self, modules: nn.ModuleDict, config: StageConfig, checkpoint: Path) -> None:
        self.modules, self.config, self.checkpoint = modules, config, checkpoint
        modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(modules.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=0.01, fused=True
        )
        self.ema = Ema(self.parameters, config.ema_decay)
        self.step, self.trained_s, self.began = 0, 0.0, time.monotonic()
        self.total_steps = torch.zeros(1, dtype=torch.int64)
        self.total_steps.share_memory_()  # type: ignore[no-untyped-call]
        if checkpoint.exists():
            self._load()

    def learning_rate(self) -> float:
        """Rises over the warm-up, then stays; in a cool-down it falls to zero with the minutes.

        Hu et al. 2024, section 4.2: a run need not know its length until it is to end.
        """
        rate = self.config.learning_rate * min(1.0, (self.step + 1) / self.config.warmup_steps)
        if not self.config.cooldown:
            return rate
        return rate * max(0.0, 1 - (time.monotonic() - self.began) / (60 * self.config.minutes))

    def update(self, loss: Tensor) -> float:
        """One optimizer step; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        value = optimizer_step(loss, self.optimizer)
        self.step += 1
        self.total_steps[0] += 1
        return value

    def generator(self, worker: int) -> Generator:
        """The random numbers of the next step, for one of the workers."""
        return Generator().manual_seed((self.config.seed * 97 + worker) * 1_000_003 + self.step)

    def num_images(self) -> int:
        """Pictures drawn so far by all workers, repeats counted."""
        return int(self.total_steps[0]) * self.config.batch_size

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "modules": self.modules.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.shadow,
                "step": self.step,
                "total_steps": self.total_steps.clone(),
                "trained_s": self.trained_s,
            },
            partial,
        )
        partial.replace(self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.shadow, self.ema.num_updates = state["ema"], state["step"]
        self.step, self.trained_s = state["step"], state["trained_s"]
        self.total_steps += state.get("total_steps", state["step"])


def run_stage(stage: Stage, loss_of: Callable[[Generator], Tensor]) -> Iterator[Progress]:
    """Train until the stage's minutes are over; yields about every ten seconds.

    The generator handed to `loss_of` is seeded by (seed, worker, step): a restarted stage of one
    worker draws what it would have drawn.
    """
    config, losses = stage.config, list[float]()
    began = last_log = last_save = stage.began = time.monotonic()
    helpers = start_helpers(stage, loss_of)
    before = stage.trained_s
    while time.monotonic() - began < config.minutes * 60:
        losses.append(stage.update(loss_of(stage.generator(worker=0))))
        stage.ema.update(stage.parameters)
        now = time.monotonic()
        stage.trained_s = before + now - began
        if now - last_log > 10:
            yield Progress(stage.num_images(), sum(losses) / len(losses), now - began)
            losses, last_log = [], now
        if now - last_save > config.save_every_s:
            stage.save()
            last_save = now
    for helper in helpers:
        helper.terminate()
    stage.save()


def start_helpers(stage: Stage, loss_of: Callable[[Generator], Tensor]) -> list[ForkProcess]:
    """Further processes that update the same weights without locks; Niu et al. 2011 (Hogwild).

    Single-threaded workers that wait for nobody lose less than threads do where other programs
    share the cores: threads meet at the end of every operator. They are forked, so this must come
    before any backward pass, and with torch on one thread.
    """
    if stage.config.workers > 1 and torch.get_num_threads() > 1:
        raise ValueError("helpers are forked: call torch.set_num_threads(1) first")
    stage.modules.share_memory()
    context, parent = get_context("fork"), os.getpid()

    def help_along(worker: int) -> None:
        while os.getppid() == parent:
            stage.update(loss_of(stage.generator(worker)))

    helpers = [
        context.Process(target=help_along, args=(worker,), daemon=True)
        for worker in range(1, stage.config.workers)
    ]
    for helper in helpers:
        helper.start()
    return helpers


def load_images(data: Path, concepts: list[Concept]) -> Tensor:
    """(N, 3, H, W) in [-1, 1]."""
    pixels = np.stack([np.asarray(Image.open(data / concept.file)) for concept in concepts])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_crops(images: Tensor, num: int, size: int, generator: Generator) -> Tensor:
    """(num, 3, size, size) windows of randomly chosen pictures."""
    limit = images.shape[-1] - size + 1
    which = torch.randint(len(images), (num,), generator=generator).tolist()
    corners = torch.randint(limit, (num, 2), generator=generator).tolist()
    windows = [
        images[i, :, y : y + size, x : x + size] for i, (y, x) in zip(which, corners, strict=True)
    ]
    return torch.stack(windows)


def bf16() -> AbstractContextManager[Any]:
    """Autocast: bfloat16 products, float32 weights."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def train_autoencoder(data: Path, out: Path, config: StageConfig, crop: int) -> Iterator[Progress]:
    """Stage one, on `crop` x `crop` windows: it is convolutional throughout."""
    images = load_images(data, read_concepts(data))
    torch.manual_seed(config.seed)
    autoencoder = architecture.new_autoencoder()
    modules = nn.ModuleDict({"autoencoder": autoencoder})
    stage = Stage(modules, config, out / "autoencoder.pt")
    objective = AutoencoderObjective()

    def loss_of(generator: Generator) -> Tensor:
        batch = random_crops(images, config.batch_size, crop, generator)
        batch = batch.to(memory_format=torch.channels_last)
        with bf16():
            posterior = autoencoder.encode(batch).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=generator)
            output = autoencoder.decode(mean + (0.5 * logvar).exp() * noise).sample
        return autoencoder_loss(objective, batch, output.float(), mean, logvar)

    yield from run_stage(stage, loss_of)


def averaged(out: Path, name: str, modules: nn.ModuleDict) -> None:
    """Load the averaged weights of stage `name` into `modules`."""
    state = torch.load(out / f"{name}.pt", weights_only=True)
    with torch.no_grad():
        for parameter, average in zip(modules.parameters(), state["ema"], strict=True):
            parameter.copy_(average)


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: Tensor, batch_size: int = 16) -> Tensor:
    """(N, 4, h, w) posterior means of (N, 3, H, W) pictures."""
    means = [
        autoencoder.encode(batch).latent_dist.mean for batch in torch.split(images, batch_size)
    ]
    return torch.cat(means)


def whitened_autoencoder(out: Path, images: Tensor) -> tuple[AutoencoderKL, Tensor]:
    """The trained autoencoder with latents of unit variance, and those latents (N, 4, h, w)."""
    autoencoder = architecture.new_autoencoder()
    averaged(out, "autoencoder", nn.ModuleDict({"autoencoder": autoencoder}))
    autoencoder.eval()
    latents = encode_all(autoencoder, images)
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    architecture.whiten_latents(autoencoder, mean, std)
    return autoencoder, (latents - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def tokenizer_of(out: Path, concepts: list[Concept]) -> CLIPTokenizer:
    """The stage's tokenizer, learnt from captions when it is not there yet."""
    folder = out / "tokenizer"
    if not folder.exists():
        generator = Generator().manual_seed(0)
        texts = [caption(concept, generator) for concept in concepts for _ in range(8)]
        train_tokenizer(texts, folder, architecture.NUM_TOKENS, architecture.VOCABULARY)
    return CLIPTokenizer.from_pretrained(folder)


def encode_text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """(B, n, d) embeddings, padded as diffusers' pipelines pad."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    hidden: Tensor = text_encoder(tokens.input_ids).last_hidden_state
    return hidden


def train_denoiser(data: Path, out: Path, config: StageConfig) -> Iterator[Progress]:
    """Stage two: the denoiser and the text encoder together, on latents computed once."""
    concepts = read_concepts(data)
    latents = whitened_autoencoder(out, load_images(data, concepts))[1]
    tokenizer = tokenizer_of(out, concepts)
    torch.manual_seed(config.seed)
    denoiser = architecture.new_denoiser()
    text_encoder = architecture.new_text_encoder(tokenizer)
    modules = nn.ModuleDict({"denoiser": denoiser, "text_encoder": text_encoder})
    stage = Stage(modules, config, out / "denoiser.pt")
    objective = architecture.OBJECTIVE

    def answer(x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        x_t = x_t.to(memory_format=torch.channels_last)
        output: Tensor = denoiser(x_t, timesteps, text).sample
        return output

    def loss_of(generator: Generator) -> Tensor:
        num = config.batch_size
        which = torch.randint(len(concepts), (num,), generator=generator).tolist()
        texts = [caption(concepts[i], generator) for i in which]
        texts = drop_text(texts, architecture.TEXT_DROPOUT, generator)
        x0 = latents[which]
        noise = torch.randn(x0.shape, generator=generator)
        timesteps = sample_timesteps(num, objective.schedule.num_steps, generator)
        with bf16():
            text = encode_text(tokenizer, text_encoder, texts)
            return denoising_loss(answer, objective, x0, noise, timesteps, text)

    yield from run_stage(stage, loss_of)


def export(data: Path, out: Path, to: Path) -> None:
    """Write the averaged weights as a diffusers pipeline folder, in float16."""
    concepts = read_concepts(data)
    autoencoder, _ = whitened_autoencoder(out, load_images(data, concepts))
    tokenizer = tokenizer_of(out, concepts)
    denoiser = architecture.new_denoiser()
    text_encoder = architecture.new_text_encoder(tokenizer)
    modules = nn.ModuleDict({"denoiser": denoiser, "text_encoder": text_encoder})
    averaged(out, "denoiser", modules)
    architecture.save_pipeline(to, autoencoder, denoiser, text_encoder, tokenizer)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, minutes, batch_size, rate in (
        ("autoencoder", 25.0, 24, 1e-3),
        ("denoiser", 60.0, 32, 8e-4),
    ):
        stage = stages.add_parser(name)
        stage.add_argument("--data", type=Path, required=True, help="what `dataset` built")
        stage.add_argument("--out", type=Path, required=True, help="folder of checkpoints")
        stage.add_argument("--minutes", type=float, default=minutes)
        stage.add_argument("--batch-size", type=int, default=batch_size)
        stage.add_argument("--learning-rate", type=float, default=rate)
        stage.add_argument("--workers", type=int, default=1, help="processes of one thread each")
        stage.add_argument("--ema-decay", type=float, default=0.999)
        stage.add_argument("--cooldown", action="store_true", help="the rate falls to zero")
        if name == "autoencoder":
            stage.add_argument("--crop", type=int, default=64, help="pixels a side of a window")
    exporting = stages.add_parser("export")
    exporting.add_argument("--data", type=Path, required=True)
    exporting.add_argument("--out", type=Path, required=True)
    exporting.add_argument("--to", type=Path, required=True, help="the pipeline folder to write")
    arguments = parser.parse_args()
    if arguments.stage == "export":
        export(arguments.data, arguments.out, arguments.to)
        return
    config = StageConfig(
        minutes=arguments.minutes,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        workers=arguments.workers,
        ema_decay=arguments.ema_decay,
        cooldown=arguments.cooldown,
    )
    if config.workers > 1:
        torch.set_num_threads(1)
    if arguments.stage == "autoencoder":
        events = train_autoencoder(arguments.data, arguments.out, config, arguments.crop)
    else:
        events = train_denoiser(arguments.data, arguments.out, config)
    for progress in events:
        print(json.dumps(asdict(progress)), flush=True)


if __name__ == "__main__":
    main()

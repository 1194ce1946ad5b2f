"""The sizes of the built-in model's parts, and how they make a diffusers pipeline folder.

128 x 128 pixels become 4 x 16 x 16 latents. Wide layers sit where the grid is small: on a CPU the
outermost convolutions would cost more than all the rest.
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusion_core.noise import NoiseSchedule
from diffusion_core.training import Objective

NUM_PIXELS = 128
NUM_TOKENS = 32
WIDTH = 192
"""Of the text: a token's vector, and what cross-attention reads."""
TEXT_DROPOUT = 0.1
NUM_STEPS = 20
GUIDANCE_SCALE = 3.0
OBJECTIVE = Objective(
    schedule=NoiseSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.02),
    prediction_type="v_prediction",
    min_snr_gamma=None,
)
"""A longer beta schedule than Stable Diffusion's: it ends in 99.97% noise, so that sampling, which
starts from pure noise, starts where training ended. Errors in v weigh alike at all times: what a
picture shows is decided in heavy noise, which min-SNR would all but leave out."""


def new_autoencoder() -> AutoencoderKL:
    """Untrained; (B, 3, H, W) in [-1, 1] to (B, 4, H / 8, W / 8)."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False,
        sample_size=NUM_PIXELS,
        scaling_factor=1.0,
        force_upcast=False,
    )


def new_denoiser() -> UNet2DConditionModel:
    """Untrained; the prompt reaches every block as a scale and shift, words only the innermost.

    Pooled text joins the embedding of the timestep: adaptive group normalisation (Dhariwal & Nichol
    2021, section 3). On few pictures that is learnt many times sooner than attention is, and on a
    CPU attention at the outer levels would take a third of the time.
    """
    return UNet2DConditionModel(
        sample_size=NUM_PIXELS // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(128, 160, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def new_text_encoder(tokenizer: CLIPTokenizer, vectors: Tensor) -> CLIPTextModel:
    """Two layers, untrained and seeded, on (V, `WIDTH`) vectors of tokens, which are to stay frozen.

    The vectors carry what words mean; the layers learn what captions do with them.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=NUM_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(config)
        places = text_encoder.embeddings.position_embedding.weight
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.copy_(vectors)
        places.mul_(5)  # to be seen beside vectors of mean square 1
    return text_encoder


def new_scheduler() -> DPMSolverMultistepScheduler:
    """The default sampler of the shipped folder: good pictures in 20 steps."""
    schedule = OBJECTIVE.schedule
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.num_steps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.kind,
        prediction_type=OBJECTIVE.prediction_type,
        timestep_spacing="trailing",
        steps_offset=1,  # without meaning in trailing spacing, but diffusers warns of any other
    )
    # For DDIM and DDPM made from this configuration: their default clips latents to [-1, 1].
    scheduler.register_to_config(clip_sample=False)
    return scheduler


@torch.no_grad()
def whiten_latents(autoencoder: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Give latents zero mean and unit variance per channel by changing the two 1 x 1 convolutions.

    `mean` and `std` (C,) are those of the latents as they are. What is decoded from encoded latents
    stays the same, so any pipeline that knows only a scalar `scaling_factor` gets whitened latents.
    """
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    channels = len(mean)
    quant.bias[:channels] -= mean
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] /= std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(dim=1)
    post.weight *= std.view(1, -1, 1, 1)


def save_pipeline(
    folder: Path,
    autoencoder: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write a folder that plain `DiffusionPipeline.from_pretrained` loads; float16 safetensors.

    `nightpress.json` beside it holds the steps and guidance to use when nobody says otherwise.
    """
    parts: list[nn.Module] = [autoencoder, denoiser, text_encoder]
    for part in parts:
        part.half()
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        unet=denoiser,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    advice = {"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE_SCALE}
    (folder / "nightpress.json").write_text(json.dumps(advice) + "\n", encoding="utf-8")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)

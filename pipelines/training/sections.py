"""The sections of a training job: the name, allowed values and default of each key."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from nightpress.pipelines.job.sections import Auto, Section, Url
from nightpress.pipelines.job.spec import MAX_SEED
from nightpress.pipelines.storage import is_url

LrScheduler = Literal["constant_with_warmup", "cosine", "warmup_stable_decay"]
ModuleConfig = Mapping[str, Any]
"""The contents of a diffusers `config.json`: `_class_name` and the arguments of that class."""


class OptimizationSpec(Section):
    """Batch size, number of steps and optimizer, named as in diffusers' training scripts."""

    resolution: Annotated[
        PositiveInt,
        Field(description="Pixels per side; images are resized and center-cropped to it."),
    ] = 512
    train_batch_size: Annotated[
        PositiveInt, Field(description="Images per step, over all workers.")
    ] = 16
    gradient_accumulation_steps: Annotated[
        PositiveInt,
        Field(
            description="Parts into which each worker splits its share of a batch, to save memory."
        ),
    ] = 1
    gradient_checkpointing: Annotated[
        bool,
        Field(
            description="Save memory: recompute activations in the backward pass, do not store "
            "them."
        ),
    ] = False
    max_train_steps: PositiveInt = 1000
    learning_rate: PositiveFloat = 1e-4
    lr_scheduler: LrScheduler = "constant_with_warmup"
    lr_warmup_steps: NonNegativeInt = 0
    lr_decay_steps: Annotated[
        NonNegativeInt,
        Field(
            description="For warmup_stable_decay: the number of final steps in which the learning "
            "rate decays to 0."
        ),
    ] = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_weight_decay: NonNegativeFloat = 1e-2
    max_grad_norm: Annotated[
        PositiveFloat, Field(description="Gradients with a larger norm are clipped to it.")
    ] = 1.0
    mixed_precision: Annotated[
        Literal["no", "bf16"],
        Field(description="bf16: compute in bfloat16 under autocast, keep weights in float32."),
    ] = "no"
    ema_decay: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay of the moving average of the weights. Samples and the final model "
            "use the average; 0 disables it.",
        ),
    ] = 0.0
    random_flip: Annotated[
        bool,
        Field(
            description="Mirror half of the images at random; do not use it where left and right "
            "differ in meaning."
        ),
    ] = False
    checkpointing_steps: Annotated[
        PositiveInt, Field(description="Steps between two checkpoints.")
    ] = 500
    checkpoints_total_limit: Annotated[
        PositiveInt, Field(description="Checkpoints to keep; older ones are deleted.")
    ] = 2
    logging_steps: Annotated[
        PositiveInt, Field(description="Steps between two rows of metrics.")
    ] = 10
    tensorboard: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Folder on the first worker's machine to which the metrics are also "
            "written for TensorBoard.",
        ),
    ] = None

    @field_validator("tensorboard")
    @classmethod
    def _local_folder(cls, value: str | None) -> str | None:
        if value is not None and is_url(value):
            raise ValueError(
                "a URL is not allowed, only a local folder; the store already has the metrics"
            )
        return value

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.lr_warmup_steps + self.lr_decay_steps > self.max_train_steps:
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} plus lr_decay_steps "
                f"{self.lr_decay_steps} exceeds max_train_steps {self.max_train_steps}"
            )
        return self


class SamplesSpec(Section):
    """Sample sheets that are drawn during training to show its progress."""

    every_steps: Annotated[
        NonNegativeInt,
        Field(description="Steps between two sample sheets; 0 draws one at the end only."),
    ] = 500
    prompts: Annotated[
        Sequence[str],
        Field(max_length=256, description="Prompts to sample; default: captions of the data."),
    ] = ()
    num_images: Annotated[
        int, Field(ge=1, le=256, description="Images per sheet if there are no prompts.")
    ] = 16
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance_scale: NonNegativeFloat = 3.0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0


class TrainClusterSpec(Section):
    """The Ray cluster, and the workers on it."""

    address: Annotated[
        str | None,
        Field(
            description="Address of a Ray cluster, as in ray.init; default: RAY_ADDRESS, "
            "otherwise a local Ray."
        ),
    ] = None
    workers: Annotated[
        PositiveInt | Auto,
        Field(
            description="Number of workers that split each batch. auto: the most that fit on the "
            "cluster and split the batch evenly."
        ),
    ] = "auto"
    gpus_per_worker: Annotated[
        NonNegativeFloat | Auto,
        Field(description="auto: 1 if the cluster has GPUs, otherwise 0."),
    ] = "auto"
    cpus_per_worker: Annotated[
        PositiveInt,
        Field(description="CPUs per worker; also its number of threads when it trains on the CPU."),
    ] = 1
    max_failures: Annotated[
        NonNegativeInt,
        Field(description="How often lost workers are replaced before training stops."),
    ] = 3
    ship_package: Annotated[
        bool,
        Field(
            description="Ship the nightpress package to the nodes; set false if it is installed "
            "there."
        ),
    ] = True


class AutoencoderModel(Section):
    """The autoencoder to train."""

    autoencoder: Annotated[
        ModuleConfig | Url,
        Field(
            description="Configuration of a new AutoencoderKL, or a folder with one to train "
            "further."
        ),
    ]


class AutoencoderLosses(Section):
    """Weights of the loss terms relative to the reconstruction loss, whose weight is 1."""

    gradient_weight: NonNegativeFloat = 1.0
    kl_weight: NonNegativeFloat = 1e-4
    latent_noise: Annotated[
        NonNegativeFloat,
        Field(
            description="Largest noise added to latents before decoding, in units of their "
            "standard deviation."
        ),
    ] = 0.0


class DenoiserModel(Section):
    """The parts of a text-to-image pipeline: the denoiser trains, optionally the text encoder."""

    autoencoder: Annotated[Url, Field(description="Folder of a trained AutoencoderKL.")]
    denoiser: Annotated[
        ModuleConfig | Url,
        Field(
            description="Configuration of a new UNet2DConditionModel or transformer, or a folder "
            "with one to train further."
        ),
    ]
    text_encoder: Annotated[
        Url,
        Field(
            description="Folder of a CLIP text model or a T5 encoder, such as builtin/text_encoder."
        ),
    ]
    tokenizer: Annotated[Url, Field(description="Folder of the text encoder's tokenizer.")]
    train_text_encoder: bool = False
    frozen_parameters: Annotated[
        Sequence[str],
        Field(
            description="Text encoder weights to keep frozen, by part of their name: "
            "[token_embedding]."
        ),
    ] = ()


class ScheduleSpec(Section):
    """The noise schedule and prediction target, named as in diffusers' schedulers."""

    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] = (
        "v_prediction"
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: PositiveFloat = 0.00085
    beta_end: PositiveFloat = 0.012
    num_train_timesteps: PositiveInt = 1000
    rescale_betas_zero_snr: bool = False
    shift: Annotated[
        PositiveFloat,
        Field(description="For flow matching: timestep shift of the scheduler towards noise."),
    ] = 1.0
    weighting_scheme: Annotated[
        Literal["uniform", "logit_normal"],
        Field(description="Distribution from which training timesteps are drawn."),
    ] = "uniform"
    logit_mean: float = 0.0
    logit_std: PositiveFloat = 1.0
    timestep_shift: Annotated[
        PositiveFloat,
        Field(description="Shift of the training timesteps; above 1 towards more noise."),
    ] = 1.0
    snr_gamma: Annotated[
        PositiveFloat | None,
        Field(description="Gamma of min-SNR loss weighting; null weights all timesteps equally."),
    ] = None
    proportion_empty_prompts: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of prompts dropped, so that classifier-free guidance works.",
        ),
    ] = 0.1


class LoraSettingsSpec(Section):
    """The LoRA, named as in peft and diffusers' training scripts."""

    rank: PositiveInt = 8
    lora_alpha: Annotated[
        PositiveFloat | None,
        Field(description="The LoRA is scaled by lora_alpha / rank; default: the rank."),
    ] = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[
        Sequence[str],
        Field(description="Suffixes of the names of layers to adapt; default: attention layers."),
    ] = ()


class LoraScheduleSpec(Section):
    """How timesteps are drawn and weighted; the noise schedule is the model's own."""

    weighting_scheme: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: PositiveFloat = 1.0
    snr_gamma: PositiveFloat | None = None
    proportion_empty_prompts: Annotated[float, Field(ge=0, le=1)] = 0.0


class ControlNetSettingsSpec(Section):
    """The ControlNet, and the control pictures that it is trained with."""

    control: Annotated[
        Literal["canny", "patches", "data"],
        Field(
            description="Control pictures. canny: white edges of the image on black; patches: the "
            "image as squares of their mean colour; data: pictures that come with the data."
        ),
    ] = "canny"
    low_threshold: Annotated[
        int, Field(ge=0, le=1020, description="For canny: weaker edges are dropped.")
    ] = 100
    high_threshold: Annotated[
        int, Field(ge=0, le=1020, description="For canny: stronger edges are kept.")
    ] = 200
    patches: Annotated[
        PositiveInt, Field(description="For patches: the number of squares along a side.")
    ] = 8
    image: Annotated[
        str | None,
        Field(
            min_length=1,
            description="For data: the column of the control picture in Parquet, or its extension "
            "in a tar, such as edges.png.",
        ),
    ] = None
    source: Annotated[
        Url | Annotated[list[Url], Field(min_length=1)] | None,
        Field(
            description="For data: where the control pictures are, if not at data.source. Each has "
            "the name of its image, whatever its extension."
        ),
    ] = None
    conditioning_embedding_out_channels: Annotated[
        Sequence[PositiveInt],
        Field(
            description="Channels of the network that embeds control pictures, from the full "
            "resolution down to that of the latents; default: 16, 32, 96, 256."
        ),
    ] = ()
    embedding_init: Annotated[
        Literal["zero", "kaiming"],
        Field(
            description="How the network that embeds control pictures starts. zero: its last layer "
            "is zero, as in the paper; kaiming: the picture has an effect from the first step on."
        ),
    ] = "zero"
    trained_layers: Annotated[
        Literal["all", "new"],
        Field(
            description="new: only the layers that are not copies of the model's, a few percent of "
            "the weights, which takes less memory."
        ),
    ] = "all"

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Self:
        for key, control in _OF_CONTROL.items():
            if key in self.model_fields_set and self.control != control:
                given = getattr(self, key)
                if given != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no effect without control: {control}")
        if self.control == "data" and self.image is None and self.source is None:
            raise ValueError(
                "control: data needs image, the column or the extension of the control pictures, "
                "or source, the folder that they are in"
            )
        if self.low_threshold > self.high_threshold:
            raise ValueError(
                f"low_threshold {self.low_threshold} must not be above high_threshold "
                f"{self.high_threshold}"
            )
        return self


_OF_CONTROL = {
    "low_threshold": "canny",
    "high_threshold": "canny",
    "patches": "patches",
    "image": "data",
    "source": "data",
}
"""The `control` with which a key has an effect."""


class ControlNetScheduleSpec(LoraScheduleSpec):
    """How timesteps are drawn and weighted; the noise schedule is the model's own."""

    timestep_shift: Annotated[
        PositiveFloat,
        Field(description="Shift of the training timesteps; above 1 towards more noise."),
    ] = 1.0

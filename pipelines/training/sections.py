"""The sections of a training job: what each key is called, allows and defaults to.

Which sections a recipe has, and how jobs are read and compared, `pipelines.training.spec` knows.
"""

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
"""What a diffusers `config.json` holds: `_class_name` and the arguments of that class."""


class OptimizationSpec(Section):
    """How long and in what strides, under the names of diffusers' training scripts."""

    resolution: Annotated[
        PositiveInt, Field(description="Pixels a side; pictures are resized and cropped to it.")
    ] = 512
    train_batch_size: Annotated[
        PositiveInt, Field(description="Pictures in a step, over all workers together.")
    ] = 16
    gradient_accumulation_steps: Annotated[
        PositiveInt,
        Field(description="Parts in which a worker takes its share of a step, to save memory."),
    ] = 1
    gradient_checkpointing: Annotated[
        bool, Field(description="Compute activations twice instead of keeping them.")
    ] = False
    max_train_steps: PositiveInt = 1000
    learning_rate: PositiveFloat = 1e-4
    lr_scheduler: LrScheduler = "constant_with_warmup"
    lr_warmup_steps: NonNegativeInt = 0
    lr_decay_steps: Annotated[
        NonNegativeInt,
        Field(description="The last steps of warmup_stable_decay, in which the rate falls to 0."),
    ] = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_weight_decay: NonNegativeFloat = 1e-2
    max_grad_norm: PositiveFloat = 1.0
    mixed_precision: Annotated[
        Literal["no", "bf16"], Field(description="bf16: products in bfloat16, weights in float32.")
    ] = "no"
    ema_decay: Annotated[
        float,
        Field(
            ge=0, lt=1, description="Of the moving average that is saved at the end; 0 for none."
        ),
    ] = 0.0
    random_flip: Annotated[
        bool, Field(description="Mirror half of the pictures; wrong where left and right matter.")
    ] = False
    checkpointing_steps: PositiveInt = 500
    checkpoints_total_limit: Annotated[
        PositiveInt, Field(description="Older checkpoints than the newest so many are deleted.")
    ] = 2
    logging_steps: Annotated[PositiveInt, Field(description="Steps between rows of metrics.")] = 10
    tensorboard: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Folder of the first worker's machine, for TensorBoard to read as well.",
        ),
    ] = None

    @field_validator("tensorboard")
    @classmethod
    def _local_folder(cls, value: str | None) -> str | None:
        if value is not None and is_url(value):
            raise ValueError("a folder of this machine, not a URL; the run's store has the metrics")
        return value

    @model_validator(mode="after")
    def _decay_fits(self) -> Self:
        if self.lr_warmup_steps + self.lr_decay_steps > self.max_train_steps:
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} and lr_decay_steps {self.lr_decay_steps} "
                f"do not fit into max_train_steps {self.max_train_steps}"
            )
        return self


class SamplesSpec(Section):
    """Pictures drawn while training goes on, to watch them come out of the noise."""

    every_steps: Annotated[
        NonNegativeInt, Field(description="0 for none but those at the end.")
    ] = 500
    prompts: Annotated[
        Sequence[str], Field(max_length=256, description="The first captions of the data if empty.")
    ] = ()
    num_images: Annotated[
        int, Field(ge=1, le=256, description="On a sheet, where no prompts are given.")
    ] = 16
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance_scale: NonNegativeFloat = 3.0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0


class TrainClusterSpec(Section):
    """Where it trains."""

    address: Annotated[
        str | None,
        Field(description="Of a Ray cluster, as in ray.init; RAY_ADDRESS, else a local Ray."),
    ] = None
    workers: Annotated[
        PositiveInt | Auto,
        Field(
            description="Each trains on its share of a step. auto: as many as there is room for "
            "and as share a step evenly."
        ),
    ] = "auto"
    gpus_per_worker: Annotated[
        NonNegativeFloat | Auto, Field(description="auto: 1 where the cluster has GPUs, else 0.")
    ] = "auto"
    cpus_per_worker: Annotated[
        PositiveInt, Field(description="Also the threads of a worker that trains on the CPU.")
    ] = 1
    max_failures: Annotated[
        NonNegativeInt, Field(description="How often lost workers are replaced before it stops.")
    ] = 3
    ship_package: Annotated[
        bool,
        Field(description="Send nightpress itself along; false where the nodes have it installed."),
    ] = True


class AutoencoderModel(Section):
    """The network between pixels and latents."""

    autoencoder: Annotated[
        ModuleConfig | Url,
        Field(description="Configuration of a new AutoencoderKL, or a folder to go on from."),
    ]


class AutoencoderLosses(Section):
    """Weights of the loss terms beside the reconstruction's 1."""

    gradient_weight: NonNegativeFloat = 1.0
    kl_weight: NonNegativeFloat = 1e-4
    latent_noise: Annotated[
        NonNegativeFloat,
        Field(description="Noise on latents before decoding, in units of their spread, at most."),
    ] = 0.0


class DenoiserModel(Section):
    """The parts of a text-to-image pipeline; the denoiser is trained, the text encoder may be."""

    autoencoder: Annotated[Url, Field(description="Folder of a trained AutoencoderKL.")]
    denoiser: Annotated[
        ModuleConfig | Url,
        Field(description="Configuration of a new UNet2DConditionModel or transformer, or folder."),
    ]
    text_encoder: Annotated[
        Url,
        Field(
            description="Folder of a CLIP text model or T5 encoder, such as builtin/text_encoder."
        ),
    ]
    tokenizer: Annotated[Url, Field(description="Folder of the text encoder's tokenizer.")]
    train_text_encoder: bool = False
    frozen_parameters: Annotated[
        Sequence[str],
        Field(description="Parts of names of text encoder weights that stay: [token_embedding]."),
    ] = ()


class ScheduleSpec(Section):
    """The forward process and what is predicted, under the names of diffusers' schedulers."""

    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] = (
        "v_prediction"
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: PositiveFloat = 0.00085
    beta_end: PositiveFloat = 0.012
    num_train_timesteps: PositiveInt = 1000
    rescale_betas_zero_snr: bool = False
    shift: Annotated[
        PositiveFloat, Field(description="Of flow matching's times towards noise.")
    ] = 1.0
    weighting_scheme: Annotated[
        Literal["uniform", "logit_normal"], Field(description="How times are drawn.")
    ] = "uniform"
    logit_mean: float = 0.0
    logit_std: PositiveFloat = 1.0
    timestep_shift: Annotated[
        PositiveFloat, Field(description="Above 1: times drawn are moved towards noise.")
    ] = 1.0
    snr_gamma: Annotated[
        PositiveFloat | None, Field(description="Of min-SNR loss weights; null weighs all alike.")
    ] = None
    proportion_empty_prompts: Annotated[
        float, Field(ge=0, le=1, description="Prompts left out, so that guidance can work.")
    ] = 0.1


class LoraSettingsSpec(Section):
    """The adapter, under the names of peft and diffusers' training scripts."""

    rank: PositiveInt = 8
    lora_alpha: Annotated[PositiveFloat | None, Field(description="The rank unless set.")] = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[
        Sequence[str], Field(description="Ends of layer names; the attention layers if empty.")
    ] = ()


class LoraScheduleSpec(Section):
    """How times are drawn and weighed; the forward process is the model's own."""

    weighting_scheme: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: PositiveFloat = 1.0
    snr_gamma: PositiveFloat | None = None
    proportion_empty_prompts: Annotated[float, Field(ge=0, le=1)] = 0.0

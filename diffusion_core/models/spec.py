"""How a job names a model: `ModelSpec`."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.models.controlnet_spec import NamedControlNet, require_names
from nightpress.diffusion_core.models.embedding_spec import NamedEmbedding, require_tokens
from nightpress.diffusion_core.models.lora_files import LoraSpec, NamedLora
from nightpress.diffusion_core.models.placement import MemorySpec
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.references import NamedReference

DType = Literal["auto", "float32", "bfloat16", "float16"]

SPEED_WITH_MEMORY = frozenset({"channels_last", "force_upcast", "vae_batch_size"})
"""The keys of `speed` that go with networks that are moved between devices."""

SPEED_WITH_REFERENCES = frozenset(
    {"channels_last", "deep_features", "force_upcast", "vae_batch_size"}
)
"""The keys of `speed` that leave the attention processors of the denoiser alone."""


class ModelSpec(BaseModel):
    """A job's choice of model, precision, LoRAs and acceleration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Annotated[
        str,
        Field(
            min_length=1,
            description="`builtin`, a folder, a safetensors or GGUF file, a hub id (`@revision`), "
            "or a URL of a folder or file.",
        ),
    ] = "builtin"
    config: Annotated[
        str | None,
        Field(
            min_length=1,
            description="For a single file: a folder, or its URL, with configurations and "
            "tokenizers, and for a GGUF file with the weights of all else.",
        ),
    ] = None
    revision: Annotated[str | None, Field(description="Branch, tag or commit of a hub id.")] = None
    variant: Annotated[
        str | None, Field(description="Variant of the weight files, such as fp16.")
    ] = None
    dtype: Annotated[
        DType,
        Field(
            description="auto: float32 on a CPU, bfloat16 on a GPU; on one before Ampere float16, "
            "or float32 for models that overflow in it."
        ),
    ] = "auto"
    allow_pickle: Annotated[
        bool, Field(description="Load weights that are not safetensors. Unpickling runs code.")
    ] = False
    loras: Annotated[
        tuple[NamedLora, ...],
        Field(
            strict=False,
            description="LoRAs on every image, each a source or a mapping with scale, name, ...",
        ),
    ] = ()
    row_loras: Annotated[
        tuple[NamedLora, ...],
        Field(
            strict=False,
            description="LoRAs that rows may name in their column `lora`; off for other rows.",
        ),
    ] = ()
    controlnets: Annotated[
        tuple[NamedControlNet, ...],
        Field(
            strict=False,
            description="ControlNets that rows may use, each a source or a mapping with name, ...",
        ),
    ] = ()
    references: Annotated[
        tuple[NamedReference, ...],
        Field(
            strict=False,
            description="IP-Adapters for rows with a `reference_image`, each a source or a mapping "
            "with name, ...; off for other rows.",
        ),
    ] = ()
    embeddings: Annotated[
        tuple[NamedEmbedding, ...],
        Field(
            strict=False,
            description="Textual inversions that prompts may name, each a source or a mapping with "
            "token, ...",
        ),
    ] = ()
    speed: Annotated[
        SpeedSpec | Literal["auto", "exact"],
        Field(
            description="Ways to sample faster. auto: a run that is long enough tries, when it "
            "begins, those that change no more than the last bits; exact: none; or a mapping."
        ),
    ] = "auto"
    memory: Annotated[
        MemorySpec, Field(description="How a model that is larger than its device is held.")
    ] = MemorySpec()
    prompts: Annotated[
        PromptsSpec,
        Field(description="How prompts are read that the model cannot take as they are."),
    ] = PromptsSpec()

    @property
    def ways(self) -> SpeedSpec:
        """The ways to sample faster that are set: none with `exact`, or while `auto` is undecided.

        A run records what `auto` has come to as if it had been set.
        """
        return self.speed if isinstance(self.speed, SpeedSpec) else SpeedSpec()

    @property
    def all_loras(self) -> tuple[LoraSpec, ...]:
        """The LoRAs of every image, then the row LoRAs."""
        return (*self.loras, *self.row_loras)

    @property
    def added_sources(self) -> tuple[str, ...]:
        """The sources of all that is added to the model, and of its configurations."""
        configs = [self.config] if self.config else []
        loras = (lora.source for lora in self.all_loras)
        nets = (each.source for each in self.controlnets)
        words = (each.source for each in self.embeddings)
        return (*configs, *loras, *nets, *words, *self.reference_sources)

    @property
    def labelled_sources(self) -> list[tuple[str, str]]:
        """What each source is of, such as `LoRA`, and the source."""
        return [
            ("model", self.source),
            ("model.config", self.config or ""),
            *(("LoRA", lora.source) for lora in self.all_loras),
            *(("ControlNet", each.source) for each in self.controlnets),
            *(("embedding", each.source) for each in self.embeddings),
            *(("IP-Adapter", source) for source in self.reference_sources),
        ]

    @property
    def reference_sources(self) -> list[str]:
        """Where the IP-Adapters and their image encoders come from."""
        named = ((each.source, each.image_encoder) for each in self.references)
        return [source for pair in named for source in pair if source]

    @model_validator(mode="after")
    def _loras_keep_their_effect(self) -> Self:
        for name in ("fuse_qkv_projections", "quantization"):
            if self.all_loras and getattr(self.ways, name):
                raise ValueError(f"speed.{name} would ignore the loras; use one of the two")
        return self

    @model_validator(mode="after")
    def _controlnets_have_distinct_names(self) -> Self:
        require_names(self.controlnets)
        return self

    @model_validator(mode="after")
    def _row_loras_have_distinct_names(self) -> Self:
        numbers = Counter(lora.label for lora in self.row_loras)
        for label, number in numbers.items():
            if not label or label != label.strip():
                raise ValueError(f"row_loras: no row can name {label!r}; give that LoRA a `name`")
            if number > 1:
                raise ValueError(
                    f"row_loras: {number} are called {label!r}; give each a `name` of its own"
                )
        return self

    @model_validator(mode="after")
    def _embeddings_have_distinct_tokens(self) -> Self:
        require_tokens(self.embeddings)
        return self

    @model_validator(mode="after")
    def _references_have_distinct_names(self) -> Self:
        for label, number in Counter(each.label for each in self.references).items():
            if not label or label != label.strip() or "." in label:
                raise ValueError(f"references: no column can name {label!r}; set a `name`")
            if number > 1:
                raise ValueError(f"references: {number} are called {label!r}; set a `name` each")
        return self

    @model_validator(mode="after")
    def _references_keep_their_processors(self) -> Self:
        chosen = self.ways.chosen() if self.references else {}
        if refused := sorted(set(chosen) - SPEED_WITH_REFERENCES):
            raise ValueError(
                f"speed.{refused[0]} does not go with references; these do: "
                f"{', '.join(sorted(SPEED_WITH_REFERENCES))}"
            )
        return self

    @model_validator(mode="after")
    def _networks_can_be_moved(self) -> Self:
        chosen = self.ways.chosen() if self.memory.moves_networks else {}
        if refused := sorted(set(chosen) - SPEED_WITH_MEMORY):
            raise ValueError(
                f"speed.{refused[0]} does not go with model.memory; these do: "
                f"{', '.join(sorted(SPEED_WITH_MEMORY))}"
            )
        return self

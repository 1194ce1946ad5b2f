"""How a job names a textual inversion: `EmbeddingSpec`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nightpress.diffusion_core.models.lora_files import AdapterSource, by_source

WORD = r"^\S{1,64}$"
"""What a token may be: tokenizers split texts at white space."""


class EmbeddingSpec(BaseModel):
    """One textual inversion, and the word in prompts that stands for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: AdapterSource
    weight_name: Annotated[
        str | None, Field(min_length=1, description="File name, if the source holds several files.")
    ] = None
    token: Annotated[
        str | None,
        Field(
            pattern=WORD,
            json_schema_extra={
                "patternErrorMessage": "must be one word: 1 to 64 characters without white space"
            },
            description="The word that stands for it in prompts; the file's name unless set.",
        ),
    ] = None

    @property
    def label(self) -> str:
        """The word that stands for it in prompts: `token`, or one made from the source."""
        if self.token:
            return self.token
        path = PurePosixPath(self.weight_name or self.source.rstrip("/").partition("@")[0])
        return path.name.rpartition(".")[0] if path.suffix in SUFFIXES else path.name


SUFFIXES = (".safetensors", ".pt", ".bin")

NamedEmbedding = Annotated[
    EmbeddingSpec, BeforeValidator(by_source, json_schema_input_type=str | EmbeddingSpec)
]
"""A textual inversion as a job file writes it: its source alone, or a mapping."""


def require_tokens(embeddings: Sequence[EmbeddingSpec]) -> None:
    """Refuse tokens that no prompt can tell apart; tokenizers of CLIP ignore case.

    Raises:
        ValueError: names the first.
    """
    for token, number in Counter(each.label.lower() for each in embeddings).items():
        if not token or token != "".join(token.split()):
            raise ValueError(f"embeddings: no prompt can name {token!r}; set a `token`")
        if number > 1:
            raise ValueError(f"embeddings: {number} are called {token!r}; set a `token` each")

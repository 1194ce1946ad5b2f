"""IP-Adapters on a model: how a job names them, and what is checked before one is loaded.

Owns which of several files is meant, and which files fit a model: every tensor must have an effect.
The layouts are those of diffusers. Importing this loads no framework; before an adapter is loaded,
only the header of its file is read.

Source: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion
Models", 2023, arXiv 2308.06721.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nightpress.diffusion_core.errors import ModelError, ModelNotFound, UnsafeWeights, naming
from nightpress.diffusion_core.models import networks, reference_layouts, weight_files
from nightpress.diffusion_core.models.adapter_files import ReferenceFiles
from nightpress.diffusion_core.models.lora_files import AdapterSource, LoraInfo, by_source
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.tensor_headers import listed

IMAGE_ENCODER = "image_encoder"
"""diffusers' name for the folder of an image encoder, beside an adapter or in a model's folder."""

_NAME = r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,127}$"
_NAME_IN_WORDS = (
    "must begin with a letter from a to z or A to Z or a digit, and go on with up to 127 such "
    "letters, digits, spaces, underscores and hyphens"
)


class ReferenceSpec(BaseModel):
    """One IP-Adapter and its scale."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    source: AdapterSource
    revision: Annotated[str | None, Field(description="Branch, tag or commit of a hub id.")] = None
    subfolder: Annotated[
        str | None, Field(min_length=1, description="Folder of the weights in the source.")
    ] = None
    weight_name: Annotated[
        str | None, Field(min_length=1, description="File name, if the folder holds several.")
    ] = None
    image_encoder: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Its image encoder: a folder in the source, a folder, a hub id, or a URL; "
            "`image_encoder` beside the weights unless set.",
        ),
    ] = None
    name: Annotated[
        str | None,
        Field(
            pattern=_NAME,
            json_schema_extra={"patternErrorMessage": _NAME_IN_WORDS},
            description="Name in columns and metadata; the weight file's name unless set.",
        ),
    ] = None
    scale: Annotated[
        float, Field(ge=0, description="Weight of its effect for rows without a reference_scale.")
    ] = 1.0

    @property
    def label(self) -> str:
        """The name by which columns and metadata call it: `name`, or one made from the source."""
        if self.name:
            return self.name
        path = PurePosixPath(self.weight_name or self.source.rstrip("/").partition("@")[0])
        return path.name.removesuffix(".safetensors")


NamedReference = Annotated[
    ReferenceSpec, BeforeValidator(by_source, json_schema_input_type=str | ReferenceSpec)
]
"""An IP-Adapter as a job file writes it: its source alone, or a mapping."""


def weight_name(names: Sequence[str], spec: ReferenceSpec, allow_pickle: bool) -> str:
    """Choose the file of a folder or repository that holds the adapter.

    Args:
        names: the files, relative to the source, with `/` between parts.
        spec: the adapter as the job names it.
        allow_pickle: whether the file may be a pickle.

    Returns:
        One of `names`.

    Raises:
        ModelNotFound: the named file is missing, or none is named and there are none or several.
        UnsafeWeights: the file is a pickle, and that is not allowed.
    """
    folder = f"{spec.subfolder.strip('/')}/" if spec.subfolder else ""
    here = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    weights = sorted(n for n in here if "/" not in n and n.endswith(weight_files.WEIGHT_SUFFIXES))
    found = f"found in {folder or 'it'}: {listed(weights)}" if weights else "found none"
    if spec.weight_name is not None and spec.weight_name not in here:
        raise ModelNotFound(
            f"IP-Adapter {spec.source!r}: no file {folder + spec.weight_name!r}; {found}"
        )
    safe = [name for name in weights if name.endswith(".safetensors")]
    candidates = [spec.weight_name] if spec.weight_name else safe or weights
    if len(candidates) != 1:
        wanted = "set `weight_name` to one of them" if candidates else "is `subfolder` right?"
        raise ModelNotFound(
            f"IP-Adapter {spec.source!r}: expected one weight file; {found}; {wanted}"
        )
    require_safe(spec, candidates[0], allow_pickle)
    return folder + candidates[0]


def require_safe(spec: ReferenceSpec, name: str, allow_pickle: bool) -> None:
    """Raise UnsafeWeights if a file is a pickle and that is not allowed."""
    if not name.endswith(".safetensors") and not allow_pickle:
        raise UnsafeWeights(
            f"IP-Adapter {spec.source!r}: {name} is not a safetensors file, and loading a pickle "
            "runs code; set `model.allow_pickle: true` if you trust it"
        )


def check_references(
    specs: Sequence[ReferenceSpec],
    files: Sequence[ReferenceFiles],
    model: PipelineFolder,
    pipeline_class: Any,
    allow_pickle: bool,
) -> list[tuple[ReferenceSpec, ReferenceFiles]]:
    """Pair adapters with their files, each checked against the model without loading a weight.

    Raises:
        UnsafeWeights: a file is a pickle, and that is not allowed.
        UnsupportedModel: the pipeline takes no adapters, or an adapter is for another family.
        ModelError: there are not files for each, one of them is missing or damaged, a tensor has
            no place in the model or is missing, or an image encoder does not fit.
    """
    if len(files) != len(specs):
        raise ModelError(f"files of {len(files)} IP-Adapters for {len(specs)}; expected one each")
    pairs = list(zip(specs, files, strict=True))
    for spec, each in pairs:
        if not each.weights.is_file():
            raise ModelNotFound(f"IP-Adapter {spec.source!r}: no such file: {each.weights}")
        require_safe(spec, each.weights.name, allow_pickle)
    if pairs:
        encoder = _shared_encoder(pairs, model)
        reference_layouts.check_layouts(
            [(spec.label, each.weights) for spec, each in pairs], encoder, model, pipeline_class
        )
    return pairs


def _shared_encoder(
    pairs: Sequence[tuple[ReferenceSpec, ReferenceFiles]], model: PipelineFolder
) -> Path:
    """The folder of the one image encoder; a diffusers pipeline has no more than one.

    Raises:
        ModelError: there is none, or adapters bring different ones.
    """
    hashes, own = {}, model.path / IMAGE_ENCODER
    for spec, files in pairs:
        if files.image_encoder is None and IMAGE_ENCODER not in model.components:
            raise ModelError(
                f"IP-Adapter {spec.label!r}: no image encoder: there is no folder {IMAGE_ENCODER} "
                f"beside {files.weights.name}; name one with `image_encoder`"
            )
        hashes[spec.label] = _encoder_hash(files.image_encoder or own)
    (first, expected), *others = hashes.items()
    for label, found in others:
        if found != expected:
            raise ModelError(
                f"IP-Adapters {first!r} and {label!r} bring different image encoders, and a "
                "pipeline has one; use adapters that share it, or name the same `image_encoder`"
            )
    return pairs[0][1].image_encoder or own


def reference_info(spec: ReferenceSpec, files: ReferenceFiles) -> LoraInfo:
    """What decides an adapter's effect: its hash is over its weights and its image encoder."""
    digest = weight_files.fingerprint_of_file(files.weights)
    if files.image_encoder is not None:
        content = json.dumps([digest, _encoder_hash(files.image_encoder)])
        digest = hashlib.sha256(content.encode()).hexdigest()
    return LoraInfo(spec.label, digest, spec.scale)


def _encoder_hash(folder: Path) -> str:
    """A hash of the configuration and the weights of an image encoder."""
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder}: not a saved image encoder: there is no config.json")
    return weight_files.fingerprint(folder, [folder / "config.json", *encoder_weights(folder)])


def check_encoder_weights(references: Sequence[ReferenceFiles]) -> None:
    """Check, without loading a weight, that the files of an image encoder hold exactly its weights.

    Raises:
        ModelError: they do not, or are damaged; the message names the first such tensors.
    """
    for folder in dict.fromkeys(files.image_encoder for files in references):
        if folder is None:
            continue
        from transformers import CLIPVisionModelWithProjection

        with naming(f"image encoder {folder}"):
            networks.check_network(CLIPVisionModelWithProjection, folder, encoder_weights(folder))


def encoder_weights(folder: Path) -> list[Path]:
    """The weight files of an image encoder; never pickles.

    Raises:
        UnsafeWeights, ModelNotFound: there are only pickles, or none.
    """
    return weight_files.weight_files(folder, None, False)

"""The tensors of a model in one file: what is wrong with the file, and which network each is of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from nightpress.diffusion_core.errors import ModelError, ModelNotFound
from nightpress.diffusion_core.models.single_file.gguf_header import MAGIC, read_gguf_header
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, read_headers
from nightpress.diffusion_core.models.weight_files import GGUF_SUFFIX

Layout = Literal["denoiser", "vae", "clip", "open_clip", "t5"]


@dataclass(frozen=True)
class Part:
    """The tensors of one network in a single file, told by how their names begin."""

    prefix: str
    layout: Layout
    component: str
    """diffusers' name of the network; `denoiser` for a U-Net or a transformer, `t5` for a T5."""


PARTS = (
    Part("model.diffusion_model.", "denoiser", "denoiser"),
    Part("first_stage_model.", "vae", "vae"),
    Part("vae.", "vae", "vae"),
    Part("cond_stage_model.transformer.", "clip", "text_encoder"),
    Part("cond_stage_model.model.", "open_clip", "text_encoder"),
    Part("conditioner.embedders.0.transformer.", "clip", "text_encoder"),
    Part("conditioner.embedders.1.model.", "open_clip", "text_encoder_2"),
    Part("conditioner.embedders.0.model.", "open_clip", "text_encoder_2"),
    Part("text_encoders.clip_l.transformer.", "clip", "text_encoder"),
    Part("text_encoders.clip_g.transformer.", "clip", "text_encoder_2"),
    Part("text_encoders.t5xxl.transformer.", "t5", "t5"),
)

SD2_CLIP = "cond_stage_model.model."

BARE_DENOISER = Part("", "denoiser", "denoiser")
"""The part of a file that holds a denoiser alone, under its own names."""

MARKERS = frozenset({"v_pred", "ztsnr"})
"""Tensors whose presence says what the denoiser predicts, and how its noise schedule ends.

Source: ComfyUI's `supported_models.py`, which reads them from SDXL files."""

UNUSED = {
    "of moving averages (model_ema.)": re.compile(r"^(?:first_stage_model\.)?model_ema\."),
    "of the training's noise schedule": re.compile(
        r"^(?:betas|(?:sqrt_|log_)?(?:one_minus_|recip_|recipm1_)?alphas_cumprod(?:_prev)?|"
        r"posterior_.+|lvlb_weights|logvar|scale_factor|global_step|denoiser\.sigmas)$|"
        r"^(?:sqrt|log)_.*alphas_cumprod$"
    ),
    "of the VAE's training loss": re.compile(r"^first_stage_model\.loss\."),
    "of CLIP that no image needs": re.compile(r"\.(?:position_ids|attn_mask|logit_scale)$"),
}
"""What a tensor is for that no image needs -> what matches its name."""

NOT_TAKEN = {"SanaTransformer2DModel": frozenset({"pos_embed", "y_embedder.y_embedding"})}
"""Class of a denoiser -> tensors of its makers' files that its converter leaves out: what Sana adds
for positions, which are zeros, and the empty caption of its training."""

_LFS = b"version https://git-lfs"
_BEGINNINGS = (
    (b"PK\x03\x04", "a pickle under the name of a {kind} file"),
    (b"\x80\x02", "a pickle under the name of a {kind} file"),
    (b"\x80\x03", "a pickle under the name of a {kind} file"),
    (b"\x80\x04", "a pickle under the name of a {kind} file"),
    (b"GGUF", "a GGUF file under the name of a {kind} file; its name must end in .gguf"),
    (_LFS, "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull"),
    (b"<", "a web page, not a model; the download needs a login or another address"),
    (b"{", "a JSON text, not a model; the download needs a login or another address"),
)
"""How files begin that are called .safetensors or .gguf and are something else."""


@dataclass(frozen=True)
class SingleFile:
    """The tensors in a file, by its own names."""

    path: Path
    name: str
    """As errors call it: a path or a URL."""
    all_headers: Mapping[str, TensorHeader]
    architecture: str | None = None
    """What a GGUF file says it is, such as flux or llama."""

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file, whose tensors may be quantised."""
        return self.path.suffix.lower() == GGUF_SUFFIX

    @cached_property
    def unused(self) -> dict[str, list[str]]:
        """What tensors are for that no image needs -> their names."""
        found = {
            reason: [name for name in self.all_headers if names.search(name)]
            for reason, names in UNUSED.items()
        }
        found["of the last layer of CLIP, which SD 2.x leaves out"] = self._last_layer
        return {reason: names for reason, names in found.items() if names}

    @property
    def _last_layer(self) -> list[str]:
        """The last layer of the whole OpenCLIP that files of SD 2.x hold, and its projection."""
        if f"{SD2_CLIP}text_projection" not in self.all_headers:
            return []
        layers = {name: _layer_of(name) for name in self.all_headers if name.startswith(SD2_CLIP)}
        last = max(layers.values())
        return [
            name
            for name, layer in layers.items()
            if name == f"{SD2_CLIP}text_projection" or layer == last >= 0
        ]

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """Every tensor that a network must have."""
        left_out = MARKERS.union(*self.unused.values())
        return {k: header for k, header in self.all_headers.items() if k not in left_out}

    @cached_property
    def markers(self) -> frozenset[str]:
        """Those of `MARKERS` that the file has."""
        return MARKERS & self.all_headers.keys()

    @cached_property
    def parts(self) -> dict[str, tuple[Part, dict[str, TensorHeader]]]:
        """Component -> its part, and the tensors of the part."""
        found: dict[str, tuple[Part, dict[str, TensorHeader]]] = {}
        rest = {}
        for name, header in self.headers.items():
            part = next((each for each in PARTS if name.startswith(each.prefix)), None)
            if part is None:
                rest[name] = header
            else:
                found.setdefault(part.component, (part, {}))[1][name] = header
        if rest and "denoiser" not in found:
            found["denoiser"] = BARE_DENOISER, rest
        return found

    @cached_property
    def homeless(self) -> list[str]:
        """The tensors of which no name says to which network they belong."""
        held = {name for _, headers in self.parts.values() for name in headers}
        return sorted(self.headers.keys() - held)

    @cached_property
    def denoiser(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the denoiser's tensors, by names without the prefix."""
        part, headers = self.parts.get("denoiser", (BARE_DENOISER, {}))
        return {name.removeprefix(part.prefix): each.shape for name, each in headers.items()}


def _layer_of(name: str) -> int:
    """The number of the layer of an OpenCLIP that a tensor is of; -1 if it is of none."""
    match = re.search(r"\.resblocks\.(\d+)\.", name)
    return -1 if match is None else int(match[1])


def read_single_file(path: Path, name: str | None = None) -> SingleFile:
    """Read the names, shapes and types of a file's tensors; no weight is loaded.

    Args:
        path: a safetensors or GGUF file.
        name: what errors call it; by default its path.

    Raises:
        ModelNotFound: there is no such file.
        ModelError: it is cut short, empty, or no such file; the message says what it is.
    """
    shown = name or str(path)
    if not path.is_file():
        raise ModelNotFound(f"{shown}: no such file")
    architecture = None
    try:
        if path.suffix.lower() == GGUF_SUFFIX:
            held = read_gguf_header(path)
            headers, architecture = dict(held.tensors), held.architecture
        else:
            headers = read_headers(path)
    except ModelError as error:
        raise ModelError(f"{shown}: {_what_is_wrong(path, error)}") from error
    except OSError as error:
        raise ModelError(f"{shown}: {error.strerror or error}") from error
    if not headers:
        raise ModelError(f"{shown}: it holds no tensors")
    return SingleFile(path, shown, headers, architecture)


def _what_is_wrong(path: Path, error: ModelError) -> str:
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        start = file.read(64)
    kind = "GGUF" if path.suffix.lower() == GGUF_SUFFIX else "safetensors"
    if kind == "GGUF" and start.startswith(MAGIC):
        return str(error)
    # A safetensors file begins with the length of its header, and that header with a brace.
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and kind == "GGUF":
        return "it is a safetensors file under the name of a GGUF file"
    if start[8:9] == b"{" and 8 + length > size:
        return f"cut short: its header alone needs {8 + length:,} bytes, and the file has {size:,}"
    if start[8:9] == b"{" and "not fully covered" in str(error):
        return f"cut short: {size:,} bytes are fewer than its header lists; download it again"
    for beginning, what in _BEGINNINGS:
        if start.lstrip().startswith(beginning):
            return f"it is {what.format(kind=kind)}"
    return str(error).removeprefix(f"{path}: ")

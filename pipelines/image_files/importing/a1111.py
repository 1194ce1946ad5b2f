"""Turns the text of A1111 and Forge into the settings of nightpress.

Reference: stable-diffusion-webui 1.10, modules/processing.py (`create_infotext`,
`StableDiffusionProcessingTxt2Img`) and modules/sd_samplers_common.py (`setup_img2img_steps`).
"""

import math
import re
from collections.abc import Callable, Iterable

from nightpress.pipelines.image_files.embedded_metadata import CREATOR
from nightpress.pipelines.image_files.importing.a1111_text import (
    ParametersText,
    parse_parameters,
    quoted_pairs,
)
from nightpress.pipelines.image_files.importing.made_image import (
    MadeImage,
    UsedLora,
    file_stem,
)

_TAG = re.compile(r"<(lora|lyco|hypernet):([^:<>]*)((?::[^:<>]*)*)>", re.I)
_SIZE = re.compile(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*")

IGNORED = frozenset(
    {
        *("Version", "User", "Batch size", "Batch pos", "Created Date", "Civitai resources"),
        *("Civitai metadata", "Lora hashes", "Model hash", "Schedule type"),
    }
)
"""Settings that make no difference to the image, or are read with others."""

EXTENSIONS = (
    "ADetailer",
    "Dynamic thresholding",
    "FreeU",
    "Ultimate SD upscale",
    "Tiled Diffusion",
)
"""Programs whose settings begin with their names, so that one note stands for all of them."""

FLOW_SIGNS = ("Distilled CFG Scale", "Shift")
"""Settings that Forge writes for flow-matching models only."""

HIRES = ("Hires upscale", "Hires resize", "Hires steps", "Hires upscaler")


def made_by_a1111(source: str, text: str) -> MadeImage:
    """How an image was made, by its parameters.

    Args:
        source: URL of its file.
        text: the parameters.

    Raises:
        UnreadableImage: the text is none of A1111's.
    """
    parsed = parse_parameters(text)
    is_own = parsed.settings.get("Version") == CREATOR
    made = MadeImage(source, "A1111", reads_weights=not is_own)
    reader = _Reader(made, parsed)
    reader.read()
    return made


class _Reader:
    """Takes the settings of one text, and notes what is left."""

    def __init__(self, made: MadeImage, parsed: ParametersText) -> None:
        self.made, self.parsed = made, parsed
        self.left = dict(parsed.settings)
        made.is_flow = any(sign in self.left for sign in FLOW_SIGNS)

    def read(self) -> None:
        """Read everything."""
        self._prompts()
        self._sampling()
        self._model()
        if any(key in self.left for key in HIRES):
            self._second_pass()
        elif "Denoising strength" in self.left:
            strength = self.left.pop("Denoising strength")
            detail = f"strength {strength}; the text does not name the picture, so set init_image"
            self.made.leave_out("image to image", detail)
        self._rest()

    def _prompts(self) -> None:
        hashes = quoted_pairs(self.left.get("Lora hashes", ""))
        texts = {"prompt": self.parsed.prompt, "negative_prompt": self.parsed.negative_prompt}
        for column, text in texts.items():
            for tag in _TAG.finditer(text):
                self._tag(tag, hashes)
            kept = re.sub(r"[ \t]{2,}", " ", _TAG.sub("", text)) if _TAG.search(text) else text
            if column == "prompt" or kept.strip(" ,\n"):
                self.made.settings[column] = kept.strip()

    def _tag(self, tag: re.Match[str], hashes: dict[str, str]) -> None:
        """A LoRA, which is written into the prompt: `<lora:name:scale>`."""
        kind, name, scales = tag[1].lower(), tag[2].strip(), tag[3].split(":")[1:]
        if kind == "hypernet":
            self.made.leave_out("hypernetwork", tag[0])
            return
        numbers = [_number(scale) for scale in scales[:1]] or [1.0]
        if numbers[0] is None or not name:
            self.made.leave_out("LoRA", f"{tag[0]} has no scale that is a number")
            return
        if len(scales) > 1:
            self.made.differs("LoRA", f"{tag[0]}: only the first of its settings is taken")
        found = UsedLora(file_stem(name), numbers[0], hashes.get(name))
        if any(each.name == found.name for each in self.made.loras):
            self.made.leave_out("LoRA", f"{tag[0]} comes twice; the first is taken")
        else:
            self.made.loras.append(found)

    def _sampling(self) -> None:
        self._take("Steps", int, "num_inference_steps", lambda steps: 1 <= steps <= 10_000)
        self._take("CFG scale", float, "guidance_scale", lambda scale: scale >= 0)
        if "Distilled CFG Scale" in self.left:
            plain = self.made.settings.pop("guidance_scale", 1.0)
            self._take("Distilled CFG Scale", float, "guidance_scale", lambda scale: scale >= 0)
            if plain != 1:
                self.made.leave_out("CFG scale", f"{plain:g}, beside a distilled scale")
        seed = _number(self.left.pop("Seed", ""))
        if seed is None or not seed.is_integer():
            self.made.leave_out("seed", "there is none; the row gets another")
        else:
            self.made.set_seed(int(seed))
        size = _SIZE.fullmatch(self.left.get("Size", ""))
        if size:
            del self.left["Size"]
            self.made.settings |= {"width": int(size[1]), "height": int(size[2])}
        sampler = self.left.pop("Sampler", None)
        if sampler:
            schedule = self.left.get("Schedule type")
            self.made.set_sampler(sampler, schedule)

    def _take(
        self,
        key: str,
        kind: type[int] | type[float],
        column: str,
        is_valid: Callable[[float], bool],
    ) -> None:
        """Take a number; what is none stays among the rest."""
        number = _number(self.left.get(key, ""))
        if number is not None and is_valid(number) and (kind is float or number.is_integer()):
            del self.left[key]
            self.made.settings[column] = kind(number)

    def _model(self) -> None:
        self.made.model = self.left.pop("Model", None)
        self.made.model_hash = self.left.get("Model hash")
        skip = _number(self.left.pop("Clip skip", ""))
        if skip is not None and skip.is_integer() and skip > 1:
            self.made.clip_skip = int(skip)

    def _second_pass(self) -> None:
        """`Hires. fix`: the steps that A1111 names are taken, whatever the strength."""
        made = self.made
        scale, strength = self._scale(), _number(self.left.pop("Denoising strength", ""))
        steps = _number(self.left.pop("Hires steps", "")) or made.settings.get(
            "num_inference_steps"
        )
        if scale is None or strength is None or not steps:
            made.leave_out("second pass", "Hires. fix without a scale, a strength or steps")
            return
        upscaler = self.left.pop("Hires upscaler", None)
        if not 0 < strength <= 1:
            made.leave_out("second pass", f"strength {strength:g} makes no step")
            return
        made.add_pass(scale, strength, int(steps))
        if upscaler and upscaler != "Lanczos" and made.passes:
            made.differs("upscaler", f"{upscaler} is taken as Lanczos")

    def _scale(self) -> float | None:
        resize = _SIZE.fullmatch(self.left.pop("Hires resize", ""))
        scale = _number(self.left.pop("Hires upscale", ""))
        width, height = (self.made.settings.get(side, 0) for side in ("width", "height"))
        if resize is None or not width or not height:
            return scale
        wide, high = int(resize[1]), int(resize[2])
        if 0 in (wide, high):  # A1111 then keeps the ratio
            return float(wide / width or high / height)
        if not math.isclose(wide / width, high / height, rel_tol=0.01):
            self.made.differs("Hires resize", f"{wide}x{high} has other proportions than the image")
        return float(wide / width)

    def _rest(self) -> None:
        """Note every setting and piece that is left."""
        named = {key: value for key, value in self.left.items() if key not in IGNORED}
        for what, details in _by_extension(named.items()).items():
            self.made.leave_out(what, "; ".join(details))
        for piece in self.parsed.others:
            key, colon, value = piece.partition(":")
            is_named = bool(colon) and len(key) < 40
            self.made.leave_out(key if is_named else "text", value if is_named else piece)


def _by_extension(settings: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The values of settings by their keys, those of an extension together by its name."""
    groups: dict[str, list[str]] = {}
    for key, value in settings:
        owner = next((name for name in EXTENSIONS if key.startswith(name)), None)
        if owner is None:
            groups[key] = [value]
        else:
            name = key.removeprefix(owner).strip() or "value"
            groups.setdefault(owner, []).append(f"{name}: {value}")
    return groups


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

"""The metadata embedded in an image file, as text: A1111 parameters, JSON and XMP.

It holds no time, worker or version, so equal facts give equal text on every machine and in every
attempt. The digest of a file is computed elsewhere; the XMP packet only has a place for it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from nightpress.diffusion_core.conditioning.passes import first_size
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.sampler_spellings import a1111_names
from nightpress.pipelines.records import ImageFacts

CREATOR = "nightpress"
"""Has no version, because the bytes of an image must not depend on it."""

NAMESPACE = "urn:nightpress:1.0#"
"""Namespace of our own XMP property, `nightpress:facts`."""

AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a trained model."""

RESIZE_MODES = {
    "cover": "Crop and Resize",
    "contain": "Resize and Fill",
    "stretch": "Just Resize",
}
"""How a picture is fitted -> what A1111's ControlNet extension calls it; an IP-Adapter's is not
fitted, but resized by its encoder."""

_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "nightpress": NAMESPACE,
}

_ABOUT = '<rdf:Description rdf:about=""'

DIGEST_NAME = ' nightpress:sha256="'
DIGEST_MARK = f"{_ABOUT}{DIGEST_NAME}".encode()
"""Comes right before a file's digest. No text in a packet contains it: there, `<` is `&lt;`."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parameters_text(facts: ImageFacts) -> str:
    """The prompt and settings in the format that A1111 writes.

    The last line is `key: value` pairs; a value that would break the pairs is quoted as JSON.
    """
    sampler, schedule = a1111_names(facts.scheduler)
    settings: dict[str, object] = {
        "Steps": facts.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{facts.guidance_scale:.15g}",
        "Seed": facts.seed,
        "Size": "{}x{}".format(*first_size(facts.passes, facts.width, facts.height)),
        "Model hash": facts.model_fingerprint[:10],
        "Model": facts.model,
        "Clip skip": _clip_skip(facts),
        **_image_settings(facts),
        **_control_settings(facts),
        **_pass_settings(facts),
        **_clip_settings(facts),
        "Version": CREATOR,
    }
    lines = [facts.prompt]
    if facts.negative_prompt:
        lines.append(f"Negative prompt: {facts.negative_prompt}")
    pairs = (f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None)
    return readable("\n".join([*lines, ", ".join(pairs)]))


def _clip_skip(facts: ImageFacts) -> int | None:
    """As A1111 counts: the last layer that is read, from the end; 1 is the last of all."""
    left_out = PromptsSpec.from_text(facts.prompt_reading).clip_skip
    return None if left_out is None else left_out + 1


def _image_settings(facts: ImageFacts) -> dict[str, object]:
    """What A1111 writes about an initial image and a mask; it names no files."""
    settings: dict[str, object] = {}
    if facts.strength is not None:
        settings["Denoising strength"] = f"{facts.strength:.15g}"
    if any(each.role == "mask_image" for each in facts.inputs):
        settings |= {"Mask mode": "Inpaint masked", "Mask blur": 0}
    return settings


def _control_settings(facts: ImageFacts) -> dict[str, object]:
    """ControlNets and IP-Adapters, in the form of A1111's ControlNet extension."""
    fits = {each.role.partition(".")[0]: each.fit for each in facts.inputs}
    units = [("control_image", each) for each in facts.controlnets]
    units += [("reference_image", each) for each in facts.references]
    return {
        f"ControlNet {number}": (
            f"Model: {info.name} [{info.sha256[:8]}], Weight: {info.scale:.15g}, "
            f"Resize Mode: {RESIZE_MODES.get(fits.get(role, ''), 'Just Resize')}"
        )
        for number, (role, info) in enumerate(units)
    }


def _pass_settings(facts: ImageFacts) -> dict[str, object]:
    """Passes as A1111's "Hires. fix"; it knows one, so later ones are numbered.

    Its steps are those that are taken; ours are those at strength 1.
    """
    settings: dict[str, object] = {}
    for number, each in enumerate(facts.passes, start=1):
        name = "Hires" if number == 1 else f"Hires {number}"
        alone = number == 1 and facts.strength is None
        exact = int(each.from_width * each.scale), int(each.from_height * each.scale)
        if exact == (each.width, each.height):
            settings[f"{name} upscale"] = f"{each.scale:.15g}"
        else:
            settings[f"{name} resize"] = f"{each.width}x{each.height}"
        settings[f"{name} steps"] = int(each.num_inference_steps * each.strength)
        settings[f"{name} upscaler"] = "Lanczos"
        strength = "Denoising strength" if alone else f"{name} denoising strength"
        settings[strength] = f"{each.strength:.15g}"
    return settings


def _clip_settings(facts: ImageFacts) -> dict[str, object]:
    """How the image moves; A1111 writes nothing of the kind, so these names are ours."""
    if facts.num_frames is None:
        return {}
    fps = None if facts.fps is None else f"{facts.fps:.15g}"
    ends = {"To prompt": facts.to_prompt, "To seed": facts.to_seed}
    return {"Frames": facts.num_frames, "FPS": fps, **ends}


def readable(text: str) -> str:
    """Replace the control characters that XML and PNG cannot hold with U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def facts_json(facts: ImageFacts) -> str:
    r"""The facts as JSON on one line; characters that XML cannot hold are escaped as `\uXXXX`."""
    text = json.dumps(facts.as_dict(), ensure_ascii=False, separators=(",", ":"))
    return _NOT_XML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


@dataclass(frozen=True)
class SealedFacts:
    """What stands for the facts in an image that does not tell them: `provenance.embed: minimal`.

    Who knows the facts can check that the image is made with them.
    """

    facts_sha256: str
    """SHA-256 of `facts_json`."""
    batch_size: int
    inputs: tuple[str | None, ...] = ()
    """SHA-256 of the pictures that the image was made from, in the order of its facts."""
    frames_sha256: str | None = None
    """Of a clip; see `ImageFacts`."""

    @classmethod
    def of(cls, facts: ImageFacts) -> Self:
        """The seal of some facts."""
        hashed = hashlib.sha256(facts_json(facts).encode()).hexdigest()
        inputs = tuple(each.sha256 for each in facts.inputs)
        return cls(hashed, facts.batch_size, inputs, facts.frames_sha256)

    def opened(self, planned: ImageFacts) -> ImageFacts | None:
        """The facts that are sealed; None if they are not the planned ones.

        Args:
            planned: the facts, of a batch of `batch_size`; hashes of its inputs and of its frames
                may be missing.
        """
        if len(planned.inputs) != len(self.inputs):
            return None
        pairs = zip(planned.inputs, self.inputs, strict=True)
        inputs = tuple(replace(each, sha256=sha256) for each, sha256 in pairs)
        facts = replace(planned, inputs=inputs, frames_sha256=self.frames_sha256)
        return facts if SealedFacts.of(facts) == self else None

    def to_json(self) -> str:
        """The seal as JSON on one line."""
        values = {"facts_sha256": self.facts_sha256, "batch_size": self.batch_size}
        inputs = {"inputs": list(self.inputs)} if self.inputs else {}
        frames = {"frames_sha256": self.frames_sha256} if self.frames_sha256 else {}
        return json.dumps(values | inputs | frames, separators=(",", ":"))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: these are not the values of a seal.
        """
        if not isinstance(values["facts_sha256"], str) or not isinstance(values["batch_size"], int):
            raise TypeError("not a seal of facts")
        inputs = tuple(values.get("inputs", ()))
        frames = values.get("frames_sha256")
        return cls(values["facts_sha256"], values["batch_size"], inputs, frames)


Embedded = ImageFacts | SealedFacts
"""What an image file says about itself."""


def embedded_json(embedded: Embedded) -> str:
    """The facts, or what stands for them, as JSON on one line."""
    return embedded.to_json() if isinstance(embedded, SealedFacts) else facts_json(embedded)


def embedded_from_json(text: str | bytes) -> Embedded | None:
    """The inverse of `embedded_json`; None if the text holds neither."""
    try:
        values = json.loads(text)
        is_sealed = isinstance(values, dict) and "facts_sha256" in values
        return SealedFacts.from_dict(values) if is_sealed else ImageFacts.from_dict(values)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def xmp_packet(facts: Embedded, digest: str | None = None) -> bytes:
    """The XMP packet: the origin of the image, its prompt, and all of its facts.

    Args:
        facts: the facts of the image, or what stands for them.
        digest: digest of the file that holds the packet, so that the file can prove to be intact.
    """
    return _packet([*_origin(facts), *_content(facts)], digest)


def xmp_extension(facts: Embedded) -> bytes:
    """The main content of the packet, for a format that cannot hold the packet in one piece."""
    return _document(_content(facts)).encode()


def xmp_main(facts: Embedded, extension_guid: str, digest: str) -> bytes:
    """The rest of the packet; it names its extension by GUID (the MD5 in 32 hex digits)."""
    pointer = _element("xmpNote:HasExtendedXMP", extension_guid)
    return _packet([*_origin(facts), pointer], digest)


def xmp_of(properties: Iterable[str], namespaces: Mapping[str, str]) -> bytes:
    """An XMP packet of other properties, each an XML element; it has no digest."""
    return _wrapped(_document(properties, None, namespaces))


def embedded_from_xmp(packet: bytes) -> Embedded | None:
    """The facts in an XMP packet, or what stands for them, also if another program rewrote it.

    None if it has neither.
    """
    if b"<!DOCTYPE" in packet:  # XMP has none; entities could expand without bound
        return None
    try:
        root = ElementTree.fromstring(packet)  # noqa: S314 - safe without a DTD
    except (ElementTree.ParseError, LookupError, ValueError):
        return None
    name = f"{{{NAMESPACE}}}facts"
    for element in root.iter():
        text = element.text if element.tag == name else element.get(name)
        if text:
            return embedded_from_json(text)
    return None


def _origin(facts: Embedded) -> list[str]:
    marking = [
        _element("xmp:CreatorTool", CREATOR),
        _element("Iptc4xmpExt:DigitalSourceType", AI_GENERATED),
    ]
    if isinstance(facts, SealedFacts):
        return marking
    return [
        *marking,
        _element("Iptc4xmpExt:AISystemUsed", facts.model),
        _element("Iptc4xmpExt:AISystemVersionUsed", facts.model_fingerprint),
    ]


def _content(facts: Embedded) -> list[str]:
    if isinstance(facts, SealedFacts):
        return [_element("nightpress:facts", facts.to_json())]
    prompt = _text(facts.prompt)
    alternatives = f'<rdf:Alt><rdf:li xml:lang="x-default">{prompt}</rdf:li></rdf:Alt>'
    return [
        f"<dc:description>{alternatives}</dc:description>",
        _element("Iptc4xmpExt:AIPromptInformation", facts.prompt),
        _element("nightpress:facts", facts_json(facts)),
    ]


def _packet(properties: Iterable[str], digest: str | None) -> bytes:
    return _wrapped(_document(properties, digest))


def _wrapped(document: str) -> bytes:
    begin = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return f'{begin}\n{document}\n<?xpacket end="r"?>'.encode()


def _document(
    properties: Iterable[str],
    digest: str | None = None,
    namespaces: Mapping[str, str] = MappingProxyType(_NAMESPACES),
) -> str:
    about = f"{_ABOUT}>" if digest is None else f'{_ABOUT}{DIGEST_NAME}{digest}">'
    names = " ".join(f'xmlns:{prefix}="{url}"' for prefix, url in namespaces.items())
    body = "\n".join(properties)
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {names}>'
        f"{about}\n{body}\n</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def _element(name: str, text: str) -> str:
    return f"<{name}>{_text(text)}</{name}>"


def _text(text: str) -> str:
    return escape(readable(text), {"\r": "&#13;"})


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text

"""Image files as A1111 and ComfyUI write them, and their texts and graphs."""

import io
import json
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

Nodes = dict[str, dict[str, Any]]


def png_with(size: tuple[int, int] = (64, 64), **texts: str) -> bytes:
    """A PNG with text chunks."""
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", size).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def with_user_comment(text: str, kind: str, encoding: str = "utf-16-be") -> bytes:
    """A JPEG or WebP with the user comment of its EXIF, as A1111 writes it through piexif."""
    image, file = Image.new("RGB", (64, 64)), io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(encoding)
    image.save(file, kind, exif=exif)
    return file.getvalue()


def webp_with_graph(graph: Nodes) -> bytes:
    """A WebP with a graph in its EXIF, as ComfyUI writes animations."""
    image, file = Image.new("RGB", (64, 64)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(graph)}"
    exif[0x010F] = 'workflow:{"nodes": [], "links": []}'
    image.save(file, "WEBP", exif=exif)
    return file.getvalue()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node; an input `("4", 0)` is a link."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}
    return {"class_type": kind, "inputs": values, "_meta": {"title": kind}}


def plain_graph(**changes: dict[str, Any] | None) -> Nodes:
    """ComfyUI's default graph, with other nodes under some ids; None takes one out."""
    nodes = {
        "3": node(
            "KSampler",
            **{"seed": 156680208700286, "steps": 20, "cfg": 8.0, "sampler_name": "euler"},
            **{"scheduler": "normal", "denoise": 1.0, "model": ("4", 0), "positive": ("6", 0)},
            **{"negative": ("7", 0), "latent_image": ("5", 0)},
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a glass bottle on a beach", clip=("4", 1)),
        "7": node("CLIPTextEncode", text="text, watermark", clip=("4", 1)),
        "8": node("VAEDecode", samples=("3", 0), vae=("4", 2)),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=("8", 0)),
    }
    nodes |= {name: value for name, value in changes.items() if value is not None}
    return {name: value for name, value in nodes.items() if changes.get(name, value) is not None}


def changed(kind: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """A node with other inputs."""
    return node(kind["class_type"], **{**kind["inputs"], **inputs})

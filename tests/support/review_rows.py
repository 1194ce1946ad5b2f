"""Rows and pictures of made-up runs, as the review page gets them."""

import colorsys
import hashlib
import random
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

SIZES = ((1024, 1024), (832, 1216), (1216, 832))
PRODUCTS = ("boot", "brogue", "clog", "loafer", "mule", "pump", "runner", "sandal", "slipper")
SCENES = ("beach at dawn", "city at night", "forest floor", "marble plinth", "studio grey")
LIGHTS = ("backlit", "hard flash", "overcast", "softbox", "window light")
HTML = (
    '<img src=x onerror="document.title=1"><b>bold</b> & "quoted" '
    "</script><script>alert(1)</script>"
)
RIGHT_TO_LEFT = "حذاء أحمر على الشاطئ عند الفجر, 3 shoes"
LONG = "a very long prompt of a single shoe " * 112  # about 4,000 characters
CELL, COLUMNS = 192, 8


def made_rows(num_images: int, **run: Any) -> dict[str, Any]:
    """What `/api/rows` sends for a run of shoes: four variants of a row, 40 rows of a product."""
    numbers = range(num_images)
    rng = random.Random(num_images)
    prompts = [prompt_of(row) for row in range(-(-num_images // 4))]
    return {
        "format": 1,
        "run": _run(num_images, **run),
        "length": num_images,
        "failed": [
            {
                "image_id": f"9{n:07d}_00",
                "prompt": "a shoe that failed",
                "error_type": "InputMissing",
                "error": f"s3://in/{n}.png is not there",
            }
            for n in range(3)
        ],
        "image_id": [f"{n // 4:08d}_{n % 4:02d}" for n in numbers],
        "sha256": [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers],
        "prompt": {"values": prompts, "codes": [n // 4 for n in numbers]},
        "width": [_size(n)[0] for n in numbers],
        "height": [_size(n)[1] for n in numbers],
        "num_frames": None,
        "constants": {"model": "builtin", "scheduler": "euler", "dtype": "float32"},
        "columns": [
            _category("product", PRODUCTS, [n // 160 % len(PRODUCTS) for n in numbers]),
            _category("scene", SCENES, [n // 4 % len(SCENES) for n in numbers]),
            _category("light", LIGHTS, [n // 20 % 6 - 1 for n in numbers]),
            _number("num_inference_steps", "Steps", [(20, 30)[n // 8 % 2] for n in numbers]),
            _number(
                "guidance_scale", "Guidance", [round(2 + n // 4 % 45 / 10, 1) for n in numbers]
            ),
            _number("score.sharpness", "Sharpness", [rng.gauss(48, 14) for _ in numbers]),
            _number("score.clip", "CLIP", [rng.gauss(0.31, 0.03) for _ in numbers]),
            _category(
                "sku", [f"sku-{n:04d}" for n in range(2000)], [n // 3 % 2000 for n in numbers]
            ),
        ],
        "thumbs": {
            "atlases": [f"atlas/{a:04d}.webp" for a in range(-(-num_images // 64))],
            "atlas": [n // 64 for n in numbers],
            "cell": [n % 64 for n in numbers],
            "columns": COLUMNS,
            "rows": 8,
            "cell_px": CELL,
            "frames": None,
        },
        "strips": None,
        "inputs": [
            {
                "column": "init_image",
                "label": "Initial image",
                "rows": list(range(0, num_images, 4)),
            }
        ],
    }


def _run(num_images: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": "shoes-spring",
        "url": "s3://press/runs/shoes-spring",
        "id": "f" * 16,
        "complete": True,
        "num_images": num_images + 3,
        "num_ok": num_images,
        "num_failed": 3,
        "num_removed": 0,
        "read_only": False,
        "reviewer": "ada",
        "group_by": None,
        "has_inputs": True,
        "notes": [],
        **changes,
    }


def _size(n: int) -> tuple[int, int]:
    return SIZES[n // 4 % 3]


def prompt_of(row: int) -> str:
    """The prompt of a row; a few are odd."""
    odd = {3: HTML, 5: RIGHT_TO_LEFT, 7: LONG}
    if row in odd:
        return odd[row]
    product = PRODUCTS[row // 40 % len(PRODUCTS)]
    scene, light = SCENES[row % len(SCENES)], LIGHTS[row // 5 % len(LIGHTS)]
    return f"a single {product}, {scene}, {light}, product photograph, variation {row}"


def _category(name: str, values: Any, codes: list[int]) -> dict[str, Any]:
    label = name.capitalize() if name != "sku" else "SKU"
    return {
        "name": name,
        "label": label,
        "kind": "category",
        "values": list(values),
        "codes": codes,
    }


def _number(name: str, label: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "number", "values": values}


@cache
def picture(n: int, side: int) -> Image.Image:
    """A shoe-like shape before a horizon, in the proportions of image `n`; `side` in pixels."""
    width, height = _size(n)
    scale = side / max(width, height)
    size = (round(width * scale), round(height * scale))
    rng = random.Random(n)
    hue, ground = rng.random(), rng.uniform(0.55, 0.75)
    image = Image.linear_gradient("L").resize(size)
    sky = Image.composite(
        Image.new("RGB", size, _colour(hue, 0.25, 0.95)),
        Image.new("RGB", size, _colour(hue + 0.08, 0.45, 0.55)),
        image,
    )
    draw = ImageDraw.Draw(sky)
    w, h = size
    draw.rectangle((0, h * ground, w, h), fill=_colour(hue + 0.5, 0.2, 0.4))
    x, y, r = w * rng.uniform(0.3, 0.5), h * ground, min(w, h) * 0.28
    shoe = _colour(hue + 0.35 + 0.1 * (n % 4), 0.7, 0.8)
    draw.ellipse((x - r * 0.9, y - r * 0.55, x + r * 1.5, y + r * 0.25), fill=shoe)
    draw.rectangle((x - r * 0.9, y - r * 1.1, x + r * 0.05, y - r * 0.1), fill=shoe)
    sole = _colour(hue, 0.1, 0.95)
    draw.rounded_rectangle((x - r, y + r * 0.1, x + r * 1.5, y + r * 0.3), r * 0.1, fill=sole)
    return sky


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def atlas_file(first: int) -> bytes:
    """The WebP file of an atlas of 64 thumbnails, from image `first` on."""
    sheet = Image.new("RGB", (CELL * COLUMNS, CELL * 8))
    for cell in range(64):
        thumb = picture(first + cell, CELL)
        left = cell % COLUMNS * CELL + (CELL - thumb.width) // 2
        top = cell // COLUMNS * CELL + (CELL - thumb.height) // 2
        sheet.paste(thumb, (left, top))
    return _encoded(sheet, "WEBP")


@cache
def image_file(n: int, side: int = 512) -> bytes:
    """The PNG file of an image."""
    return _encoded(picture(n, side), "PNG")


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, quality=80)
    return buffer.getvalue()

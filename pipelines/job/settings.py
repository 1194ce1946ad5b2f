"""The columns of a manifest that are settings of its rows."""

SETTING_COLUMNS = (
    "prompt",
    "id",
    "negative_prompt",
    "seed",
    "num_images",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "lora",
    "lora_scale",
    "init_image",
    "strength",
    "mask_image",
    "canvas",
    "control_image",
    "control_scale",
    "reference_image",
    "reference_scale",
    "last_image",
    "num_frames",
    "fps",
    "to_prompt",
    "to_seed",
    "priority",
)
"""Manifest columns that are settings; see also `NAMED_SETTINGS`. Others are carried through."""

PRIORITY = "priority"
"""The setting that decides nothing about an image but when it is made; it is also carried."""

NAMED_SETTINGS = ("control_image", "control_scale", "reference_image", "reference_scale")
"""Settings that may also stand for one ControlNet or IP-Adapter: `control_image.depth`."""


def base_setting(setting: str) -> str:
    """The setting without the name of a ControlNet or IP-Adapter: `control_image`."""
    base, dot, name = setting.partition(".")
    return base if dot and name and base in NAMED_SETTINGS else setting


def is_setting(name: str) -> bool:
    """Whether a manifest column of this name is a setting."""
    return base_setting(name) in SETTING_COLUMNS

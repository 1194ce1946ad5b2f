"""Columns whose names are nearly those of settings."""

from pathlib import Path

import pytest
from support.plans import job, write

from nightpress.pipelines.job.settings import SETTING_COLUMNS
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import ColumnUse, column_uses
from nightpress.pipelines.manifest.files import scan
from nightpress.pipelines.manifest.similar_names import likely_settings
from nightpress.pipelines.storage import find

MEANT = {
    "prompt": "Prompt PROMPT prompts caption Caption text positive_prompt positive promt prmopt",
    "id": "ID Id _id uid UUID image_id",
    "negative_prompt": "Negative_Prompt neg_prompt negativePrompt negative-prompt neg negative uc "
    "negative_promt negatve_prompt",
    "seed": "Seed SEED seeds sede noise_seed rng_seed seed_ seeed",
    "num_images": "n NumImages num_images_per_prompt batch_size n_samples n_iter num_image",
    "width": "W Width wdith w image_width widht",
    "height": "H Height heigth hieght h hight img_height",
    "num_inference_steps": "steps Steps step sampling_steps num_steps ddim_steps "
    "num_inference_step inference-steps",
    "guidance_scale": "cfg cfg_scale CFGScale guidance cfgScale scale guidance_scal guidence_scale",
    "scheduler": "sampler sampler_name Sampler sampling_method Scheduler sheduler schedular",
    "lora": "Lora LORA lora_name loras",
    "lora_scale": "lora_weight loraScale lora_strength strength_model",
    "init_image": "image input_image initImage init-img image_url source_image img2img",
    "mask_image": "mask mask_url inpaint_mask",
    "strength": "denoise denoising_strength Strenght",
    "canvas": "canvass outpaint padding",
    "control_image": "controlnet controlnet_image conditioning_image hint",
    "control_scale": "controlnet_conditioning_scale controlnet_scale control_weight",
    "reference_image": "ip_adapter_image reference ref_image style_image",
    "reference_scale": "ip_adapter_scale ip_adapter_weight reference_strength",
    "control_image.depth": "controlnet.depth controlimage.depth",
}


@pytest.mark.parametrize("setting", MEANT)
def test_other_spellings_and_other_tools_names_are_recognised(setting: str) -> None:
    for name in MEANT[setting].split():
        assert (name, likely_settings(name, SETTING_COLUMNS)) == (name, (setting,))


@pytest.mark.parametrize("name", ["Negative Prompt", " seed", "seed ", "\u00a0seed", "\ufeffseed"])
def test_blanks_and_marks_in_a_name_do_not_hide_a_setting(name: str) -> None:
    assert likely_settings(name, SETTING_COLUMNS) in [("seed",), ("negative_prompt",)]


def test_a_size_is_meant_for_both_sides() -> None:
    assert likely_settings("Size", SETTING_COLUMNS) == ("width", "height")
    assert likely_settings("aspect_ratio", SETTING_COLUMNS) == ("width", "height")


OTHER_WORDS = """product scene category speed weight light model note with eight url sample created
lore price schedule images No 商品 __ x"""


@pytest.mark.parametrize("name", [*OTHER_WORDS.split(), "", "q" * 1_000_000])
def test_other_words_are_no_settings(name: str) -> None:
    assert likely_settings(name, SETTING_COLUMNS) == ()


def test_every_column_has_one_use(tmp_path: Path) -> None:
    row = {"title": "a", "Seed": 1, "W": 8, "width": 8, "product": "p", "file": "f", "steps": 3}
    columns = {"prompt": "title", "id": "title", "num_inference_steps": None}
    spec = job(tmp_path, write(tmp_path / "m.csv", [row]), columns=columns)
    assert uses_in(spec) == (
        ColumnUse("title", ("prompt", "id"), None),
        ColumnUse("Seed", (), "Seed", ("seed",)),
        ColumnUse("W", (), "W"),
        ColumnUse("width", ("width",), None),
        ColumnUse("product", (), "product"),
        ColumnUse("file", (), "manifest_file"),
        ColumnUse("steps", (), "steps"),
    )


def test_a_column_whose_type_differs_between_files_is_told(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", [{"prompt": "a", "price": "7", "note": "x"}])
    two = write(tmp_path / "b.parquet", [{"prompt": "a", "price": 7, "note": "x"}])
    _, price, note = uses_in(job(tmp_path, [one, two]))
    assert (price.note, note.note) == ("string and int64, carried as string", None)


def uses_in(spec: RunSpec) -> tuple[ColumnUse, ...]:
    return column_uses(spec, [scan(source, {}) for source in find(spec.manifests)])

"""Graphs of ComfyUI become settings, whatever their shape, and the rest is noted."""

import json
from typing import Any

import pytest
from support.made_elsewhere import Nodes, changed, node, plain_graph

from nightpress.pipelines.image_files.importing.comfyui import made_by_comfyui
from nightpress.pipelines.image_files.importing.comfyui_graph import MAX_GRAPH_CHARS
from nightpress.pipelines.image_files.importing.made_image import MadeImage, UnreadableImage

PLAIN = plain_graph()
SAMPLER, LATENT = PLAIN["3"], PLAIN["5"]


def made(graph: Nodes, name: str = "ComfyUI_00001_.png") -> MadeImage:
    return made_by_comfyui(name, json.dumps(graph))


def notes(image: MadeImage) -> list[str]:
    return list(map(str, image.notes))


def test_the_default_graph_is_carried_over_whole() -> None:
    image = made(PLAIN)
    assert image.settings == {
        "prompt": "a glass bottle on a beach",
        "negative_prompt": "text, watermark",
        "seed": 156680208700286,
        "num_inference_steps": 20,
        "guidance_scale": 8.0,
        "scheduler": "euler",
        "width": 512,
        "height": 768,
    }
    assert (image.model, image.notes) == ("v1-5-pruned-emaonly.safetensors", [])


def test_sampler_and_schedule_are_one_name() -> None:
    karras = changed(SAMPLER, sampler_name="dpmpp_2m", scheduler="karras")
    assert made(plain_graph(**{"3": karras})).settings["scheduler"] == "dpmsolver++-karras"
    beta = made(plain_graph(**{"3": changed(SAMPLER, scheduler="beta")}))
    assert "scheduler" not in beta.settings
    assert "because Euler is not spaced as Beta; the nearest: euler" in notes(beta)[0]


def test_links_lead_through_reroutes_and_nodes_that_hold_values() -> None:
    graph = plain_graph(
        **{
            "3": changed(SAMPLER, model=("20", 0), seed=("21", 0), steps=("22", 0)),
            "5": changed(LATENT, width=("23", 0)),
            "6": changed(PLAIN["6"], text=("24", 0)),
            "20": node("Reroute", **{"": ("25", 0)}),
            "25": node("Reroute (rgthree)", value=("4", 0)),
            "21": node("Seed (rgthree)", seed=77),
            "22": node("PrimitiveInt", value=31),
            "23": node("PrimitiveNode", value=640),
            "24": node("StringConcatenate", string_a="a", string_b=("26", 0), delimiter=" "),
            "26": node("PrimitiveStringMultiline", value="red fox"),
        }
    )
    image = made(graph)
    assert image.settings["prompt"] == "a red fox"
    assert image.settings["seed"] == 77
    assert image.settings["num_inference_steps"] == 31
    assert image.settings["width"] == 640
    assert (image.model, image.notes) == ("v1-5-pruned-emaonly.safetensors", [])


def test_loras_are_taken_in_their_order_and_switches_count() -> None:
    graph = plain_graph(
        **{
            "3": changed(SAMPLER, model=("12", 0)),
            "10": node(
                "LoraLoader",
                **{"lora_name": "styles\\ink.safetensors", "strength_model": 0.8},
                **{"strength_clip": 1.0, "model": ("4", 0), "clip": ("4", 1)},
            ),
            "11": node(
                "LoraLoaderModelOnly", lora_name="b.pt", strength_model=0.5, model=("10", 0)
            ),
            "12": node(
                "Power Lora Loader (rgthree)",
                lora_1={"on": True, "lora": "c.safetensors", "strength": 0.3},
                lora_2={"on": False, "lora": "d.safetensors", "strength": 1},
                model=("11", 0),
            ),
        }
    )
    image = made(graph)
    found = [(each.name, each.scale) for each in image.loras]
    assert found == [("ink", 0.8), ("b", 0.5), ("c", 0.3)]
    assert notes(image) == [
        "differs: LoRA: styles\\ink.safetensors: 1 on the text encoder, too, is 0.8"
    ]


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"30": node("LatentUpscaleBy", samples=("3", 0), scale_by=1.5)}, 1.5),
        ({"30": node("LatentUpscale", samples=("3", 0), width=1024, height=1536)}, 2.0),
        (
            {
                "30": node("VAEEncode", pixels=("32", 0), vae=("4", 2)),
                "32": node("ImageUpscaleWithModel", image=("33", 0), upscale_model=("34", 0)),
                "33": node("VAEDecode", samples=("3", 0), vae=("4", 2)),
                "34": node("UpscaleModelLoader", model_name="4x-UltraSharp.pth"),
            },
            4.0,
        ),
        (
            {
                "30": node("VAEEncode", pixels=("31", 0), vae=("4", 2)),
                "31": node("ImageScaleBy", image=("32", 0), scale_by=0.5),
                "32": node("ImageUpscaleWithModel", image=("33", 0), upscale_model=("34", 0)),
                "33": node("VAEDecode", samples=("3", 0), vae=("4", 2)),
                "34": node("UpscaleModelLoader", model_name="RealESRGAN_x4.pth"),
            },
            2.0,
        ),
    ],
)
def test_a_second_sampler_of_a_larger_latent_is_a_pass(changes: Nodes, scale: float) -> None:
    second = changed(SAMPLER, latent_image=("30", 0), denoise=0.45, steps=14)
    decode = changed(PLAIN["8"], samples=("13", 0))
    image = made(plain_graph(**{"13": second, "8": decode}, **changes))
    (again,) = image.passes
    assert (again.scale, again.strength) == (scale, 0.45)
    assert int(again.num_inference_steps * again.strength) == 14
    assert image.settings["num_inference_steps"] == 20
    assert {each.what for each in image.notes} == {"upscaler"}


def advanced(start: int, end: int, **links: Any) -> dict[str, Any]:
    return node(
        "KSamplerAdvanced",
        **{"add_noise": "enable", "noise_seed": 9, "steps": 25, "cfg": 7.0},
        **{"sampler_name": "dpmpp_2m", "scheduler": "karras", "start_at_step": start},
        **{"end_at_step": end, "return_with_leftover_noise": "disable", "positive": ("6", 0)},
        **{"negative": ("7", 0), "model": ("4", 0)} | links,
    )


def test_a_base_with_a_refiner_is_the_base_with_all_steps_and_a_note() -> None:
    graph = plain_graph(
        **{
            "3": advanced(0, 20, latent_image=("5", 0)),
            "14": advanced(20, 10000, latent_image=("3", 0), model=("15", 0)),
            "15": node("CheckpointLoaderSimple", ckpt_name="sd_xl_refiner_1.0.safetensors"),
            "8": changed(PLAIN["8"], samples=("14", 0)),
        }
    )
    image = made(graph)
    assert (image.settings["seed"], image.settings["num_inference_steps"]) == (9, 25)
    assert image.passes == []
    assert notes(image) == [
        "left out: second sampler: KSamplerAdvanced (node 14), at the same size"
    ]


def test_sdxls_encoder_has_two_texts_of_which_the_other_is_noted() -> None:
    encoder = node(
        "CLIPTextEncodeSDXL",
        **{"width": 1024, "height": 1024, "text_g": "a fox", "text_l": "ink", "clip": ("4", 1)},
    )
    image = made(plain_graph(**{"6": encoder}))
    assert image.settings["prompt"] == "a fox"
    assert notes(image) == ["left out: prompt of another encoder: text_l: ink"]
    same = made(plain_graph(**{"6": changed(encoder, text_l="a fox")}))
    assert same.notes == []


FLUX: Nodes = {
    "1": node("RandomNoise", noise_seed=42),
    "2": node("BasicGuider", model=("3", 0), conditioning=("4", 0)),
    "3": node("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, model=("10", 0)),
    "4": node("FluxGuidance", guidance=3.5, conditioning=("5", 0)),
    "5": node("CLIPTextEncode", text="a tiny astronaut", clip=("11", 0)),
    "6": node("KSamplerSelect", sampler_name="euler"),
    "7": node("BasicScheduler", scheduler="simple", steps=20, denoise=1, model=("3", 0)),
    "8": node("EmptySD3LatentImage", width=1024, height=768, batch_size=1),
    "9": node(
        "SamplerCustomAdvanced",
        **{"noise": ("1", 0), "guider": ("2", 0), "sampler": ("6", 0), "sigmas": ("7", 0)},
        latent_image=("8", 0),
    ),
    "10": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
    "11": node(
        "DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l", type="flux"
    ),
    "12": node("VAEDecode", samples=("9", 0), vae=("13", 0)),
    "13": node("VAELoader", vae_name="ae.safetensors"),
    "14": node("SaveImage", filename_prefix="flux", images=("12", 0)),
}


def test_a_flux_graph_of_separate_nodes_is_one_row() -> None:
    image = made(FLUX)
    assert image.is_flow
    assert image.settings == {
        "prompt": "a tiny astronaut",
        "seed": 42,
        "num_inference_steps": 20,
        "guidance_scale": 3.5,
        "scheduler": "flow-euler",
        "width": 1024,
        "height": 768,
    }
    assert image.model == "flux1-dev.safetensors"
    assert notes(image) == ["left out: change of the model: ModelSamplingFlux (node 3)"]


def test_a_loaded_picture_is_an_initial_image_at_the_strength_that_takes_the_same_steps() -> None:
    graph = plain_graph(
        **{
            "3": changed(SAMPLER, denoise=0.6, latent_image=("40", 0)),
            "40": node("VAEEncode", pixels=("41", 0), vae=("4", 2)),
            "41": node("ImageScale", image=("42", 0), width=512, height=512, crop="center"),
            "42": node("LoadImage", image="sub\\fox.png [input]"),
        }
    )
    image = made(graph)
    assert (image.settings["init_image"], image.settings["strength"]) == ("sub/fox.png", 0.6)
    assert int(image.settings["num_inference_steps"] * 0.6) == 20
    assert notes(image) == ["left out: change of the picture: ImageScale (node 41)"]


def test_what_conditions_beside_the_text_is_noted_once() -> None:
    net = node(
        "ControlNetApplyAdvanced",
        **{"strength": 0.9, "start_percent": 0, "end_percent": 1, "positive": ("6", 0)},
        **{"negative": ("7", 0), "control_net": ("51", 0), "image": ("52", 0)},
    )
    graph = plain_graph(
        **{
            "3": changed(SAMPLER, positive=("50", 0), negative=("50", 1), model=("53", 0)),
            "50": net,
            "51": node("ControlNetLoader", control_net_name="canny.safetensors"),
            "52": node("LoadImage", image="edges.png"),
            "53": node("IPAdapterAdvanced", model=("4", 0), weight=0.7, image=("52", 0)),
        }
    )
    image = made(graph)
    assert image.settings["prompt"] == "a glass bottle on a beach"
    assert image.settings["negative_prompt"] == "text, watermark"
    assert notes(image) == [
        "left out: change of the model: IPAdapterAdvanced (node 53)",
        "left out: ControlNet: canny.safetensors, strength 0.9: ControlNetApplyAdvanced (node 50)",
    ]


def test_what_happens_to_the_image_afterwards_is_noted() -> None:
    graph = plain_graph(
        **{
            "9": changed(PLAIN["9"], images=("61", 0)),
            "61": node("FaceDetailer", image=("60", 0), steps=20, cfg=8, sampler_name="euler"),
            "60": node("ImageUpscaleWithModel", image=("8", 0), upscale_model=("62", 0)),
            "62": node("UpscaleModelLoader", model_name="4x.pth"),
        }
    )
    assert notes(made(graph)) == [
        "left out: change of the image: ImageUpscaleWithModel (node 60), after the last sampler",
        "left out: change of the image: FaceDetailer (node 61), after the last sampler",
    ]


def test_a_sampler_of_an_extension_with_the_usual_inputs_is_read_as_the_usual_one() -> None:
    loader = node(
        "Efficient Loader",
        **{"ckpt_name": "dream.safetensors", "positive": "a fox", "negative": "blur"},
        **{"empty_latent_width": 512, "empty_latent_height": 640, "batch_size": 1},
    )
    sampler = changed(SAMPLER, model=("4", 0), positive=("4", 1), negative=("4", 2))
    sampler = {**changed(sampler, latent_image=("4", 3)), "class_type": "KSampler (Efficient)"}
    save = changed(PLAIN["9"], images=("3", 5))
    image = made({"3": sampler, "4": loader, "9": save})
    assert (image.settings["prompt"], image.settings["negative_prompt"]) == ("a fox", "blur")
    assert (image.settings["width"], image.settings["height"]) == (512, 640)
    assert image.model == "dream.safetensors"
    assert notes(image) == ["differs: node: KSampler (Efficient) (node 3) is read as a KSampler"]


def test_the_output_is_the_one_that_the_files_name_begins_with() -> None:
    graph = plain_graph(
        **{
            "70": changed(SAMPLER, seed=2),
            "71": node("VAEDecode", samples=("70", 0), vae=("4", 2)),
            "72": node("SaveImage", filename_prefix="foxes/second", images=("71", 0)),
        }
    )
    assert made(graph, "second_00001_.png").settings["seed"] == 2
    assert made(graph, "second_00001_.png").notes == []
    other = made(graph, "renamed.png")
    assert other.settings["seed"] == 156680208700286
    assert notes(other) == [
        "differs: output: SaveImage (node 9) is taken; the graph has others: SaveImage (node 72)"
    ]


def test_clip_skip_batches_and_large_seeds_are_told() -> None:
    graph = plain_graph(
        **{
            "3": changed(SAMPLER, seed=2**64 - 1),
            "5": changed(LATENT, batch_size=4),
            "6": changed(PLAIN["6"], clip=("80", 0)),
            "80": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=("4", 1)),
        }
    )
    image = made(graph)
    assert image.clip_skip == 2
    assert "seed" not in image.settings
    assert notes(image) == [
        f"left out: seed: {2**64 - 1} is not between 0 and 2^53 - 1; the row gets another",
        "differs: batch: the image is one of 4 of one seed, of which the row makes the first",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(PLAIN)[:-9], "its graph is broken JSON"),
        ("", "its graph is broken JSON"),
        ("[" * 100_000, "its graph is broken JSON: it is nested too deeply"),
        ("[1, 2]", "its JSON is no graph of ComfyUI"),
        ('{"a": 1, "3": {"class_type": 3, "inputs": {}}}', "its JSON is no graph of ComfyUI"),
        ('{"nodes": [], "links": []}', "its graph is in the format of ComfyUI's editor"),
        ("x" * (MAX_GRAPH_CHARS + 1), "its graph has 4,000,001 characters"),
        (json.dumps({"4": PLAIN["4"]}), "its graph saves no image"),
        (json.dumps(plain_graph(**{"3": None})), "no sampler leads to SaveImage"),
        (json.dumps(plain_graph(**{"6": None})), "its graph has no prompt that can be read"),
        (
            json.dumps(plain_graph(**{"6": changed(PLAIN["6"], text=("4", 0))})),
            "no prompt that can be read: CLIPTextEncode .node 6. gets it from a node that is not",
        ),
        (
            json.dumps(plain_graph(**{"5": node("Reroute", a=("8", 0))})),
            "its graph has a circle: ",
        ),
        (
            json.dumps({"1": node("Reroute", a=("2", 0)), "2": node("Reroute", a=("1", 0))}),
            "its graph has a circle: ",
        ),
    ],
)
def test_a_graph_that_no_row_can_be_made_of_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why) as caught:
        made_by_comfyui("a.png", text)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_nowhere_is_no_value() -> None:
    image = made(plain_graph(**{"4": None}))
    assert image.model is None
    assert "left out: model: no loader of a model leads to the sampler" in notes(image)


def test_a_long_chain_of_reroutes_is_followed() -> None:
    chain = {f"r{n}": node("Reroute", **{"": (f"r{n + 1}", 0)}) for n in range(20_000)}
    chain["r20000"] = PLAIN["4"]
    image = made(plain_graph(**{"3": changed(SAMPLER, model=("r0", 0))}, **chain))
    assert image.model == "v1-5-pruned-emaonly.safetensors"

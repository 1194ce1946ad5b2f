"""Which setting a column was probably meant to give, judged by its name alone."""

import re
import unicodedata
from collections.abc import Collection, Mapping

from nightpress.pipelines.job.settings import NAMED_SETTINGS, SETTING_COLUMNS, is_setting

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "caption captions text texts txt prompts textprompt promptstext positive positiveprompt "
    "posprompt fullprompt description inputtext sentence": ("prompt",),
    "ids uid uuid guid rowid imageid itemid promptid sampleid key": ("id",),
    "negprompt negative negatives neg nprompt negativetext uc ucprompt uncond unconditional"
    "prompt undesiredcontent": ("negative_prompt",),
    "seeds noiseseed randomseed randseed rngseed rng manualseed initialseed": ("seed",),
    "n nimages nsamples numsamples niter numimagesperprompt imagesperprompt numberofimages "
    "imagecount batchsize batchcount numoutputs numvariants repeats": ("num_images",),
    "w imagewidth imgwidth outputwidth targetwidth pixelwidth": ("width",),
    "h imageheight imgheight outputheight targetheight pixelheight": ("height",),
    "size imagesize imgsize resolution dimensions aspectratio aspect ar": ("width", "height"),
    "steps step numsteps nsteps stepcount samplingsteps samplesteps inferencesteps ddimsteps "
    "diffusionsteps denoisingsteps samplersteps": ("num_inference_steps",),
    "cfg cfgscale cfgguidance cfgweight guidance guidancestrength guidanceweight scale "
    "promptguidance textguidance classifierfreeguidance unconditionalguidancescale "
    "distilledguidance fluxguidance truecfg truecfgscale": ("guidance_scale",),
    "sampler samplername samplertype samplerindex samplermethod samplingmethod sampling "
    "schedulername schedulertype scheduletype noiseschedule": ("scheduler",),
    "loras loraname lorafile loramodel lorapath loraid lycoris adapter adaptername": ("lora",),
    "loraweight loraweights lorastrength loramultiplier lorastrengthmodel strengthmodel "
    "adapterweight adapterscale adapterstrength": ("lora_scale",),
    "image inputimage initimg initialimage startimage startingimage sourceimage srcimage baseimage "
    "imageurl imagepath initimageurl initimagepath initimages imagetoimage img2img image2image "
    "inputimg inputimageurl inputimagepath imageprompt": ("init_image",),
    "mask maskimg maskurl maskpath maskimageurl maskimagepath maskimages inpaintmask "
    "inpaintingmask inputmask maskfile": ("mask_image",),
    "denoise denoising denoisingstrength denoisestrength denoisingfactor img2imgstrength "
    "imagestrength initstrength initimagestrength inpaintstrength inpaintingstrength "
    "promptstrength": ("strength",),
    "outpaint outpainting padding pad expand extend uncrop outpaintcanvas margins": ("canvas",),
    "control controlimg controlnet controlnetimage controlnetimg controlimages controlnetimages "
    "controlimageurl controlimagepath conditioningimage condimage conditionimage hint hintimage "
    "controlhint": ("control_image",),
    "controlscale controlnetscale controlnetconditioningscale controlnetweight controlnetstrength "
    "controlweight controlstrength conditioningscale controlconditioningscale": ("control_scale",),
    "reference referenceimg refimage refimg referenceimages refimages references refs ref "
    "referenceimageurl referenceimagepath ipadapter ipadapterimage ipadapterimages ipimage "
    "styleimage stylereference imagereference": ("reference_image",),
    "referencestrength referenceweight refscale refstrength refweight ipadapterscale "
    "ipadapterweight ipadapterstrength ipscale ipweight": ("reference_scale",),
    "prio priorities prioritylevel jobpriority": ("priority",),
}
"""What other tools call our settings: A1111, ComfyUI, diffusers, Midjourney and others, without
case, blanks and separators."""

_WORDS = """aura eight flora high lore sample sampled samples schedule scheduled schedules sed see
seen sees simple speed with"""
NO_TYPOS = frozenset(_WORDS.split())
"""Words that are a letter or two away from a setting's name, and mean something else."""

MAX_TYPO_CHARS = 200
"""Longer names are not compared with the settings' names."""


def likely_settings(name: str, missing: Collection[str]) -> tuple[str, ...]:
    """The settings among `missing` that a column of this name was probably meant to give.

    Compares without case, blanks and separators, then with the names that other tools use, then
    allows for typing mistakes: one, or two in a name of more than six letters. Of a name with a
    point, what stands before it is compared: `controlnet.depth` may mean `control_image.depth`.
    """
    base, _, adapter = name.partition(".")
    if adapter and not is_setting(name):
        meant = likely_settings(base, NAMED_SETTINGS)
        return tuple(f"{setting}.{adapter}" for setting in meant)
    plain = _plain_name(name)
    known = {_plain_name(setting): (setting,) for setting in SETTING_COLUMNS}
    wanted = {*missing}
    for settings in (known.get(plain, ()), _other_names().get(plain, ())):
        if settings and wanted.issuperset(settings):
            return settings
    if plain in NO_TYPOS or len(plain) > MAX_TYPO_CHARS:
        return ()
    for setting in missing:
        if _is_typo_of(_plain_name(setting), plain, 2):
            return (setting,)
    for other, settings in _other_names().items():
        if len(other) > 5 and wanted.issuperset(settings) and _is_typo_of(other, plain, 1):
            return settings
    return ()


def _other_names() -> dict[str, tuple[str, ...]]:
    return {name: settings for names, settings in OTHER_NAMES.items() for name in names.split()}


def _plain_name(name: str) -> str:
    """A name without case, blanks and separators: `Negative Prompt` is `negativeprompt`."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _is_typo_of(right: str, typed: str, most: int) -> bool:
    """Whether `typed` is `right` with at most `most` mistakes; 1 for up to six letters.

    The first letters must be the same, or swapped: `weight` is not a `height` mistyped.
    """
    if not typed or len(right) < 3 or abs(len(right) - len(typed)) > most:
        return False
    starts_alike = typed[0] == right[0] or sorted(typed[:2]) == sorted(right[:2])
    return starts_alike and _edit_distance(right, typed) <= (most if len(right) > 6 else 1)


def _edit_distance(a: str, b: str) -> int:
    """How many letters were added, left out, replaced, or swapped with their neighbour.

    Optimal string alignment: Damerau 1964, without edits inside a swapped pair.
    """
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]

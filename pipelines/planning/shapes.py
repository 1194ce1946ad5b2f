"""How much of a run's time which settings take, and how many shapes of tensors they make."""

from collections.abc import Sequence

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.planning.batch_sizes import BatchSizes, ImageKind
from nightpress.pipelines.planning.layout import SettingsCount


def relative_cost(settings: SamplingParams) -> int:
    """What an image costs, compared with one of other settings: pixels times steps, twice if
    guidance has it sampled with and without its prompt."""
    return settings.cost * (2 if settings.guidance_scale > 1 else 1)


def costliest(counts: Sequence[SettingsCount]) -> SettingsCount:
    """The settings whose images take most of the time together."""
    return max(counts, key=lambda each: each.num_images * relative_cost(each.settings))


def sampling_s(counts: Sequence[SettingsCount], settings: SamplingParams, image_s: float) -> float:
    """Seconds that one process samples for, estimated from the time of an image of one setting.

    Args:
        counts: how many images have which settings.
        settings: those that were measured.
        image_s: seconds that an image of these takes.
    """
    total = sum(each.num_images * relative_cost(each.settings) for each in counts)
    return image_s * total / relative_cost(settings)


def num_shapes(counts: Sequence[SettingsCount], sizes: BatchSizes) -> int:
    """How many graphs compiling makes of each function: one for all images whose tensors have
    equal shapes and whose LoRA has the same scale.

    Args:
        counts: how many images have which settings.
        sizes: the batch size of each kind of image.
    """
    return len({shape for each in counts for shape in _shapes(each.settings, sizes)})


def _shapes(settings: SamplingParams, sizes: BatchSizes) -> set[tuple[object, ...]]:
    """What tells the graphs apart that images with these settings are sampled with."""
    conditioning = settings.conditioning
    images = (
        *(conditioning.mode, conditioning.controls, conditioning.num_references),
        *(settings.lora, settings.lora_scale, settings.guidance_scale > 1),
        sizes.of(ImageKind.of(settings)),
    )
    return {(width, height, *images) for width, height, _ in settings.work}

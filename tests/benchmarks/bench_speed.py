"""How much each speed setting gains, and how far it changes the images.

All configurations sample every batch in turn, so that they are timed side by side. Before that,
each samples one batch untimed, which encodes its prompts and compiles the model. On a CPU with one
thread the time is that thread's CPU time, so that other programs matter less. PSNR compares each
image with the plain float32 one; its mean is over the images that differ. `nightpress tune` does
the same for a job, and searches for the best combination.

    python tests/benchmarks/bench_speed.py --images 16
    python tests/benchmarks/bench_speed.py --only bfloat16 "deep_features interval 3"
    python tests/benchmarks/bench_speed.py --model sdxl --device cuda --compile
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from nightpress.diffusion_core.errors import ModelError, SamplingError
from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.tuning.benchmark import Candidate, Workload, compare, sample_in_turn
from nightpress.diffusion_core.tuning.candidates import TuningConfig, candidates, unsupported_reason
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.pipelines.models.location import locate

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "examples" / "prompts.txt"

PLAIN = TuningConfig("float32")
NATIVE = TuningConfig.of(attention_backend="native")
COMBINED = [
    TuningConfig.of("bfloat16", channels_last=True),
    TuningConfig.of("bfloat16", deep_features={"interval": 3}),
]
COMPILED_COMBINED = [
    TuningConfig.of(channels_last=True, compile="full"),
    TuningConfig.of("bfloat16", compile="full"),
]


def main() -> None:
    """Sample, compare, print a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    folder = locate(ModelSpec(source=options.model), {})
    work = work_of(options, folder)
    loaded = dict(supported(options, folder, work))
    samples = dict(zip(loaded, sample_in_turn(work, list(loaded.values())), strict=True))
    print(f"\n{options.model}, {options.images} images, batches of {options.batch_size}, ", end="")
    print(f"{options.device}, {options.threads} threads\n")
    print(f"{'':<44}{'images/s':>9}{'ratio':>8}{'PSNR dB':>9}{'lowest':>8}")
    for config in loaded:
        show(compare(work, config, samples[config], samples[PLAIN]))


def show(trial: ConfigTrial) -> None:
    """Print a line of the table."""
    print(f"{trial.config.name:<44}{trial.images_per_s:>9.2f}{trial.ratio:>7.2f}x", end="")
    print(f"{trial.mean_db:>9.1f}{trial.lowest_db:>8.1f}", flush=True)


def supported(
    options: argparse.Namespace, folder: Path, work: Workload
) -> Iterator[tuple[TuningConfig, Candidate]]:
    """Load each supported configuration, plain first; print why the others are left out."""
    for config in configs(options):
        spec = ModelSpec.model_validate(
            config.applied_to({"source": options.model, "dtype": config.dtype or "float32"})
        )
        reason = unsupported_reason(folder, spec, options.device)
        if reason is not None:
            print(f"{config.name}: {reason}", flush=True)
            continue
        try:
            candidate = Candidate(load(folder, spec, options.device), work)
        except (ModelError, SamplingError) as error:
            print(f"{config.name}: {error}", flush=True)
            continue
        print(f"{config.name}: warm after {candidate.warm_s:.1f} s", flush=True)
        yield config, candidate


def configs(options: argparse.Namespace) -> list[TuningConfig]:
    """The plain configuration, then all others or those named by `--only`."""
    single = candidates(options.device, "float32", options.batch_size, options.compile)
    combined = COMBINED + (COMPILED_COMBINED if options.compile else [])
    others = [NATIVE, *single, *combined]
    return [
        PLAIN,
        *(config for config in others if not options.only or config.name in options.only),
    ]


def work_of(options: argparse.Namespace, folder: Path) -> Workload:
    """Full batches of the example prompts, repeated as needed; each image has its own seed."""
    if options.images % options.batch_size:
        raise SystemExit(f"{options.images} images do not fill batches of {options.batch_size}")
    info = describe(folder, ModelSpec(source=options.model))
    params = SamplingParams(
        width=options.size or info.width or 512,
        height=options.size or info.height or 512,
        num_inference_steps=options.steps or info.num_inference_steps,
        guidance_scale=info.guidance_scale,
    )
    prompts = PROMPTS.read_text(encoding="utf-8").split("\n")[:-1]
    images = [ImageRequest(prompts[i % len(prompts)], "", i) for i in range(options.images)]
    return Workload.of(images, params, options.batch_size)


def parse() -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin")
    parser.add_argument(
        "--only", nargs="+", help="names of configurations to measure beside the plain one"
    )
    parser.add_argument(
        "--compile", action="store_true", help="also measure configurations that compile"
    )
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--size", type=int, help="pixels; default: the model's own")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()

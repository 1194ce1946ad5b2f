"""The models that an actor holds: the one that it uses, and others as long as memory allows."""

import gc
import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.builtin_description import builtin_description
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, fingerprint_of
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.spec import DType, ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.device_memory import CudaMemory, HostMemory, resident_bytes
from nightpress.jobs.dispatch.memory_needs import Footprint
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.shards.runner import ShardRunner

LOG = logging.getLogger(__name__)

ModelSpecs = ModelSpec | Mapping[str, ModelSpec]
"""The model of a job, or each of several by its name."""


def each_spec(specs: ModelSpecs) -> dict[str | None, ModelSpec]:
    """The models by name; the only one of a job with the key `model` has none."""
    if isinstance(specs, ModelSpec):
        return {None: specs}
    return dict(specs.items())


HeldKey = tuple[str | None, SpeedSpec]
"""The name of a model, and the ways to sample faster that it was loaded with."""


@dataclass
class HeldModel:
    """A model in memory, and what makes shards with it."""

    model: LoadedModel
    sampler: Sampler
    batch_size: int
    load_s: float
    """Seconds that loading it took."""
    runner: ShardRunner | None = None
    """None until the actor begins a run with it."""


class HeldModels:
    """The models of one process, the least recently used first.

    Args:
        specs: the models that the process may be asked for.
        options: fsspec options of the stores that they may be on.
        device: `cpu` or `cuda`.
        share: this process's share of the device's memory.
    """

    def __init__(
        self, specs: ModelSpecs, options: Mapping[str, Any], device: str, share: float = 1.0
    ) -> None:
        self._specs, self._is_single = each_spec(specs), isinstance(specs, ModelSpec)
        self._options, self._device, self._share = options, device, share
        self._ways = {name: spec.ways for name, spec in self._specs.items()}
        self._held: dict[HeldKey, HeldModel] = {}
        self._found: dict[str | None, tuple[ModelSpec, ModelInfo]] = {}
        """What was described, and as what it was."""
        self.num_loaded = 0
        """How often a model was loaded."""

    @property
    def names(self) -> tuple[str | None, ...]:
        """The names of those in memory, the most recently used last."""
        return tuple(name for name, _ in self._held)

    def spec(self, name: str | None) -> ModelSpec:
        """How the job names a model, with full paths."""
        return self._specs[name]

    def describe(self) -> ModelInfos:
        """Find the models on this node and describe them, without loading them.

        Raises:
            ModelError: one cannot be used, or its files do not hold exactly its weights.
        """
        found = {name: self._described(spec) for name, spec in self._specs.items()}
        self._found = {name: (self._specs[name], info) for name, info in found.items()}
        if self._is_single:
            return found[None]
        return {name: info for name, info in found.items() if name is not None}

    def _described(self, spec: ModelSpec) -> ModelInfo:
        files = ModelFiles.locate(spec, self._options)
        if known := builtin_description(spec):
            return replace(known.info, dtype=files.dtype(spec, self._device))
        info = files.describe(spec, device=self._device)
        files.check_weights(spec)
        return info

    def footprint(self, device_bytes: int, scorer_bytes: int = 0) -> Footprint:
        """What the largest model takes in memory, by its files, with those of the others.

        Args:
            device_bytes: memory of one accelerator; 0 on a CPU.
            scorer_bytes: what the scorers take beside a model.
        """
        found = [self._footprint(name, device_bytes, scorer_bytes) for name in self._specs]
        found.sort(key=lambda each: each.weight_bytes, reverse=True)
        return replace(found[0], others=tuple(found[1:]))

    def _footprint(self, name: str | None, device_bytes: int, scorer_bytes: int) -> Footprint:
        spec = self._specs[name]
        files = ModelFiles.locate(spec, self._options)
        sizes = files.weight_sizes(spec)
        dtype = files.dtype(spec, self._device)
        total = sizes[dtype].total_bytes + scorer_bytes
        return Footprint(total, device_bytes, sizes, dtype, scorer_bytes, name)

    def _weight_bytes(self, spec: ModelSpec, files: ModelFiles) -> int:
        """Bytes of a model's weights that are on the device at a time."""
        sizes = files.weight_sizes(spec)[files.dtype(spec, self._device)]
        return sizes.on_device(spec.memory.offload if self._device == "cuda" else "none")

    def settle(self, name: str | None, dtype: str, ways: SpeedSpec) -> None:
        """Sample with a model as its run has decided, on whatever GPU this is, from now on.

        It is dropped where it is held otherwise.

        Args:
            name: of the model.
            dtype: the precision of its weights.
            ways: those to sample faster.
        """
        decided = self._specs[name].model_copy(update={"dtype": cast("DType", dtype)})
        self._specs[name], self._ways[name] = decided, ways
        for key in [key for key in self._held if key[0] == name]:
            if key[1] != ways or self._held[key].model.dtype != dtype:
                self._drop(key)

    def use(
        self,
        name: str | None,
        fingerprint: str,
        batch_size: int,
        ways: SpeedSpec | None = None,
    ) -> HeldModel:
        """The model of a name, loaded unless it is held already.

        Others are dropped for that, the least recently used first, until its weights fit beside
        those that stay and the memory that work has taken so far.

        Args:
            fingerprint: the `identity` of the run's model.
            batch_size: the largest batch size that will be used.
            ways: those to sample faster, if other ones are tried than those it is used with.

        Raises:
            ModelError: the weights on this node are not those of the run.
        """
        key = name, self._ways[name] if ways is None else ways
        held = self._held.pop(key, None)
        if held is None:
            spec = self._specs[name].model_copy(update={"speed": key[1]})
            files = self._checked_files(name, spec, fingerprint)
            while self._held and not self._has_room_for(self._weight_bytes(spec, files)):
                self._drop(next(iter(self._held)))
            held = self._load(spec, files, batch_size)
        self._held[key] = held
        return held

    def _load(self, spec: ModelSpec, files: ModelFiles, batch_size: int) -> HeldModel:
        began = time.monotonic()
        LOG.info("loading %s on %s", spec.source, self._device)
        model = files.load(spec, self._device)
        self.num_loaded += 1
        load_s = time.monotonic() - began
        LOG.info("loaded after %.1f s", load_s)
        return HeldModel(model, Sampler(model, batch_size), batch_size, load_s)

    def _checked_files(self, name: str | None, spec: ModelSpec, fingerprint: str) -> ModelFiles:
        files = ModelFiles.locate(spec, self._options)
        found = self._identity(name, spec, files)
        if found == fingerprint:
            return files
        keys = ("row_loras", "controlnets", "references", "embeddings")
        names = [key for key in keys if getattr(spec, key)]
        scope = ", including the files of " if names else ""
        scope += " and ".join(f"model.{key}" for key in names)
        raise ModelError(
            f"{spec.source}: its fingerprint on {platform.node()} is {found[:12]}, but "
            f"the run needs {fingerprint[:12]}{scope}"
        )

    def _identity(self, name: str | None, spec: ModelSpec, files: ModelFiles) -> str:
        """The `identity` of a model by its files as they are now."""
        described, info = self._found.get(name, (None, None))
        if described is None or info is None or not _differ_in_speed_only(described, spec):
            return files.describe(spec, device=self._device).identity
        model = PipelineFolder.read(files.folder)  # much faster than to describe all of it again
        return replace(info, fingerprint=fingerprint_of(model, spec, ())).identity

    def drop(self, name: str | None, ways: SpeedSpec) -> None:
        """Drop a model, if it is held in these ways."""
        if (name, ways) in self._held:
            self._drop((name, ways))

    def _drop(self, key: HeldKey) -> None:
        held = self._held.pop(key)
        if held.runner is not None:
            held.runner.close()
        LOG.info("dropped the model %s, in these ways: %s", key[0], key[1].as_text())
        del held
        if key[1].compile is not None:
            torch.compiler.reset()  # otherwise its graphs stay in memory, and its weights with them
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def has_room_for(self, name: str | None) -> bool:
        """Whether a model fits beside what is held."""
        spec = self._specs[name]
        return self._has_room_for(self._weight_bytes(spec, ModelFiles.locate(spec, self._options)))

    def _has_room_for(self, weight_bytes: int) -> bool:
        """Whether weights fit beside what is held, and what work has taken at its peak so far."""
        if self._device == "cuda":
            in_use = torch.cuda.memory_allocated(self._device)
            working = torch.cuda.max_memory_allocated(self._device) - in_use
            limit = CudaMemory(self._device, self._share).limit_bytes
        else:
            memory = HostMemory(self._share)
            in_use = resident_bytes()
            working, limit = memory.peak_bytes() - in_use, memory.limit_bytes
        return in_use + weight_bytes + max(0, working) <= limit


def _differ_in_speed_only(described: ModelSpec, spec: ModelSpec) -> bool:
    """Whether a model that is to be loaded was described so, with no files but those of its folder.

    `spec.speed` is the ways that a job's `auto` stands for, which the description had as well.
    """
    plain = not (described.added_sources or spec.added_sources)
    same_ways = described.ways == spec.ways
    return plain and same_ways and described == spec.model_copy(update={"speed": described.speed})

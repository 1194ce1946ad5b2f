"""A night whose gates reject half of the draws: it must end with the draws of a quiet night."""

from collections import Counter
from statistics import median
from typing import Any

from environment import Environment
from night import GIVE_UP_S, Fault, Night, cost_of

from nightpress.pipelines import open_run
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.verify import orphan_images, verify

HELD = 3
"""How many times as many draws a process of a gated run holds as one without gates holds images:
those that are not judged, the winners that are not stored, and the best draw of each open place."""


class GatedNight(Night):
    """A night with gates; without poison and with a store that works, as other nights have them."""

    def __init__(
        self, environment: Environment, seed: int, num_faults: int, num_healthy: int
    ) -> None:
        self.gates: GatesSpec | None = None
        super().__init__(environment, seed, num_faults, (), num_healthy)
        self.gates = gates_that_reject_half(environment, num_healthy)
        self.spec = self.spec_for(f"gated-{seed}", environment.storage)

    def spec_for(self, name: str, storage: dict[str, Any]) -> RunSpec:
        return super().spec_for(name, storage).model_copy(update={"gates": self.gates})

    @property
    def _store_faults(self) -> dict[str, Fault]:
        return {}

    def check(self) -> None:
        """Compare every image, its draw and its bytes with those of a run without faults."""
        found, quiet = self.taken(self.spec), self._quiet()
        self.tally.images = len(quiet)
        self.tally.lost = len(quiet.keys() - found.keys())
        self.tally.different = sum(found[image_id] != quiet[image_id] for image_id in found)
        run = open_run(self.spec.url, self.environment.bucket.options)
        ids = Counter(run.metadata.to_table(columns=["image_id"]).column("image_id").to_pylist())
        self.tally.doubled = ids.total() - len(ids) + len(orphan_images(run))
        findings = [str(finding) for shard in verify(run) for finding in shard.findings]
        assert findings == [], f"{findings}; {self.report()}"
        log = [line.split() for line in self.environment.log.read_text().splitlines()]
        drawn = [words[1] for words in log if words[0] == "sampled"]
        self.tally.resampled = len(drawn) - len(set(drawn))
        most = HELD * (self.may_resample + sum(cost_of(*words) for words in log))
        assert self.tally.resampled <= most, f"{self.tally.resampled} > {most}; {self.report()}"

    def taken(self, spec: RunSpec) -> dict[str, tuple[Any, ...]]:
        """Image id -> the draw that was taken, how many were considered, and the image's bytes."""
        run = open_run(spec.url, self.environment.bucket.options)
        columns = ["image_id", "file", "draw", "draws", "gate", "seed", "sha256"]
        rows = run.metadata.to_table(columns=columns).to_pylist()
        return {
            row["image_id"]: (*(row[name] for name in columns[2:]), run.store.read(row["file"]))
            for row in rows
        }

    def _quiet(self) -> dict[str, tuple[Any, ...]]:
        """What is taken in a run without faults, with other shards."""
        log = self.environment.log.read_text()
        spec = self.spec_for(f"gated-quiet-{self.seed}", self.environment.bucket.options)
        batch = spec.batch.model_copy(update={"shard_size": 5})
        faulty, self.spec = self.spec, spec.model_copy(update={"batch": batch})
        self.start()
        assert self.await_end(GIVE_UP_S) == 0, self.report()
        taken, self.spec = self.taken(self.spec), faulty
        self.environment.log.write_text(log)
        return taken


def gates_that_reject_half(environment: Environment, num_healthy: int) -> GatesSpec:
    """Gates that half of the images of a run without gates pass."""
    log = environment.log.read_text() if environment.log.exists() else ""
    with Night(environment, -1000 - num_healthy, 0, (), num_healthy) as plain:
        name = f"ungated-{num_healthy}"
        plain.spec = plain.spec_for(name, environment.bucket.options)
        plain.start()
        assert plain.await_end(GIVE_UP_S) == 0, plain.report()
    environment.log.write_text(log)
    run = open_run(plain.spec.url, environment.bucket.options)
    scores = map(dict, run.metadata.to_table(columns=["scores"]).column("scores").to_pylist())
    middle = median(each["sharpness"] for each in scores)
    return GatesSpec(
        require=(f"sharpness > {middle}",),
        best_of=2,
        rank_by="contrast",
        max_draws=8,
        exhausted="keep",
    )

"""A night that signs its images: each must have the bytes, and the credential, of a quiet night."""

from typing import Any, Literal

from environment import Environment
from fault_tally import Tally
from night import GIVE_UP_S, Night
from support.signers import Studio

from nightpress.pipelines import open_run
from nightpress.pipelines.job.provenance_section import ProvenanceSpec
from nightpress.pipelines.job.spec import RunSpec


class SignedNight(Night):
    """A night whose commands find the key of a studio in the environment, as the caller set it."""

    def __init__(
        self,
        environment: Environment,
        seed: int,
        num_faults: int,
        num_healthy: int,
        studio: Studio,
        embed: Literal["full", "minimal"],
    ) -> None:
        self.studio = studio
        self.provenance = ProvenanceSpec.model_validate(studio.job(embed=embed))
        super().__init__(environment, seed, num_faults, (), num_healthy)

    def spec_for(self, name: str, storage: dict[str, Any]) -> RunSpec:
        spec = super().spec_for(name, storage)
        return spec.model_copy(update={"provenance": self.provenance})

    def run_to_end(self) -> Tally:
        """As of any night; then every reader must trust the images, and no file hold the key."""
        tally = super().run_to_end()
        for data in self.images_of(self.spec).values():
            judged = self.studio.judged(data, "png")
            assert (judged.state, judged.failures) == ("Trusted", set()), judged
        self._check_secrecy()
        return tally

    def images_of(self, spec: RunSpec) -> dict[str, bytes]:
        """Image id -> bytes of each image of a run."""
        run = open_run(spec.url, self.environment.bucket.options)
        rows = run.metadata.to_table(columns=["image_id", "file"]).to_pylist()
        return {row["image_id"]: run.store.read(row["file"]) for row in rows}

    def undisturbed(self) -> dict[str, bytes]:
        """Image id -> bytes of every image in a signed run without faults, with other shards."""
        log = self.environment.log.read_text()
        spec = self.spec_for(f"signed-quiet-{self.seed}", self.environment.bucket.options)
        batch = spec.batch.model_copy(update={"shard_size": 5})
        faulty, self.spec = self.spec, spec.model_copy(update={"batch": batch})
        self.start()
        assert self.await_end(GIVE_UP_S) == 0, self.report()
        quiet, self.spec = self.images_of(self.spec), faulty
        self.environment.log.write_text(log)
        return quiet

    def _check_secrecy(self) -> None:
        """Check that no object of the run, and nothing that was printed, has a line of the key."""
        secrets = [line for line in self.studio.signer.key_pem.splitlines()[1:-1] if len(line) > 20]
        assert secrets
        said = "\n".join(self.said)
        store = open_run(self.spec.url, self.environment.bucket.options).store
        for secret in secrets:
            assert secret not in said
            for path in store.list(""):
                assert secret.encode() not in store.read(path), path

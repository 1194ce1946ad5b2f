"""Settings of a dispatch: number of actors, attempts, timeouts and deadline."""

from dataclasses import dataclass

from nightpress.pipelines.image_files.content_credentials.setup import signing_key_of
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import FencingToken, Lease
from nightpress.pipelines.shards.input_history import InputSession

ASKED_TO_STOP = "asked to stop"
"""The reason to stop that is no trouble: a person or a scheduler wants it."""


GO_ON = "run the same command again to resume"
"""How messages about an early stop end."""


@dataclass(frozen=True)
class Budget:
    """What the actors of this start may cost."""

    actor_s: float
    """Seconds of all actors together."""
    text: str
    """The budget of the whole run, such as `40.00 EUR`."""

    @property
    def go_on(self) -> str:
        """How a run that has spent it goes on."""
        return "run the same command again with a larger --budget to resume"


@dataclass(frozen=True)
class DispatchConfig:
    """Settings of a dispatch."""

    min_actors: int
    max_actors: int | None
    max_attempts: int
    """A shard is made in parts once it has crashed `max_attempts - 1` processes, but at least one;
    see `ShardQueue`."""
    look_first: bool
    """Whether earlier starts may have stored images of uncommitted shards."""
    watchdog_s: float | None = None
    """Seconds of silence before an actor counts as hung; None: derived from the slowest batch."""
    load_timeout_s: float = 1800.0
    """Seconds that a placed actor may take to load its model."""
    drain_s: float = 60.0
    """Seconds that the current batches may take to finish when a run is asked to stop."""
    fence: FencingToken | None = None
    deadline_at: float | None = None
    """Seconds since the epoch, by when the last batch must be stored."""
    inputs: InputSession | None = None
    """What the actors share about the pictures of rows; None if the run uses none."""
    budget: Budget | None = None
    key: SigningKey | None = None
    """Signs the images; None if they are not signed."""


def dispatch_config_of(
    spec: RunSpec,
    lease: Lease,
    look_first: bool,
    deadline_at: float | None = None,
    inputs: InputSession | None = None,
    budget: Budget | None = None,
) -> DispatchConfig:
    """The settings that a job asks for, under a lease.

    Raises:
        SpecError: the job has its images signed, and the environment has no key for that.
    """
    cluster = spec.cluster
    # The first batch of each shape is compiled, which can take as long as loading a model.
    compiles = any(model.ways.compile for model in spec.every_model)
    watchdog_s = cluster.load_timeout_s if compiles else None
    return DispatchConfig(
        min_actors=cluster.min_actors,
        max_actors=cluster.max_actors,
        max_attempts=cluster.max_attempts,
        look_first=look_first,
        watchdog_s=cluster.watchdog_s or watchdog_s,
        load_timeout_s=cluster.load_timeout_s,
        drain_s=cluster.drain_s,
        deadline_at=deadline_at,
        fence=lease.fence,
        inputs=inputs,
        budget=budget,
        key=signing_key_of(spec),
    )

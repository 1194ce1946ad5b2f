"""How an image fails that the sampler finds a fault in."""

from nightpress.diffusion_core.sampling.faults import Fault
from nightpress.pipelines.records import FailureType

FAILURES = {
    Fault.NON_FINITE: FailureType.NON_FINITE,
    Fault.BLANK: FailureType.BLANK,
    Fault.STILL: FailureType.STILL,
    Fault.FLAGGED: FailureType.FLAGGED,
}

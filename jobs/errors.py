"""The errors of `jobs`.

::

    JobError
    ├── ClusterError     no such cluster, or one that cannot do what the job asks
    ├── RunStopped       stopped early; the same command goes on from here
    └── IncompleteRun    the totals do not add up; never expected
"""


class JobError(Exception):
    """The base: anything `jobs` raises on purpose."""


class ClusterError(JobError):
    """The Ray cluster cannot be joined, or cannot run this job."""


class RunStopped(JobError):
    """The run stopped before its end; what is committed stays, and it can be resumed."""


class IncompleteRun(JobError):
    """Every shard is committed and yet the counts differ from the plan."""

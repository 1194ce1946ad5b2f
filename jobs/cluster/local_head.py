"""The Ray that nightpress starts on this machine: without processes that no run uses.

Read against ray 2.60.0. Relies on `ray.init` making `ray._private.parameter.RayParams` and, from
them, `ray._private.node.Node`, whose `start_api_server` starts the dashboard's process and sets
`_webui_url`; and on the parameters `no_monitor`, `include_log_monitor` and `worker_path`. Where one
of them is missing, Ray starts as it always does, and a warning says so.
"""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nightpress.diffusion_core.errors import IncompatibleLibrary
from nightpress.diffusion_core.patching import require
from nightpress.jobs.cluster import forked_worker
from nightpress.jobs.cluster.worker_template import PROGRAM, WorkerTemplate

LOG = logging.getLogger(__name__)

PARAMETERS, NODE = "ray._private.parameter", "ray._private.node"

PURPOSE = "start Ray without processes that no run uses, and with workers that start sooner"

WITHOUT = {"no_monitor": True, "include_log_monitor": False}
"""What the autoscaler and the printing of workers' logs need; neither exists on one machine here.
"""


SYSTEM_CONFIG = {"prestart_worker_first_driver": False, "worker_register_timeout_seconds": 600}
"""Settings of Ray: `ray.init` does not wait for workers that no task has asked for; and a worker
that waits for the template to import, from a slow disk, is not given up for lost."""


@contextmanager
def lean_head(template: WorkerTemplate | None) -> Iterator[None]:
    """Have a `ray.init` inside start only what a run needs, with workers forked from a template."""
    try:
        parameters, of_node = _private_parts()
    except IncompatibleLibrary as error:
        LOG.warning("%s; Ray starts as it always does, and the first image comes later", error)
        yield
        return
    workers = {} if template is None else {"worker_path": PROGRAM}

    class LeanParams(parameters):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            for name, value in (WITHOUT | workers).items():
                setattr(self, name, value)

    class LeanNode(of_node):  # type: ignore[misc, valid-type]
        def start_api_server(self, **_: Any) -> None:
            self._webui_url = ""

    if template is not None:
        os.environ[forked_worker.ADDRESS] = template.address
    parameter, node = importlib.import_module(PARAMETERS), importlib.import_module(NODE)
    parameter.RayParams, node.Node = LeanParams, LeanNode  # type: ignore[attr-defined]
    try:
        yield
    finally:
        parameter.RayParams, node.Node = parameters, of_node  # type: ignore[attr-defined]
        os.environ.pop(forked_worker.ADDRESS, None)


def _private_parts() -> tuple[Any, Any]:
    """Ray's parameters and node, which have what is replaced in them.

    Raises:
        IncompatibleLibrary: one of them is not there any more.
    """
    parameters, of_node = require(PARAMETERS, "RayParams", PURPOSE), require(NODE, "Node", PURPOSE)
    require(of_node, "start_api_server", PURPOSE)
    made = parameters()
    for name in (*WITHOUT, "worker_path"):
        require(made, name, PURPOSE)
    return parameters, of_node

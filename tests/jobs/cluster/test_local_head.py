"""What the Ray that nightpress starts leaves out, and that other starts of Ray are as before."""

import os
from typing import Any

import pytest
from ray._private import node, parameter

from nightpress.jobs.cluster.forked_worker import ADDRESS
from nightpress.jobs.cluster.local_head import lean_head
from nightpress.jobs.cluster.worker_template import PROGRAM, WorkerTemplate


def test_ray_starts_without_monitor_log_monitor_and_dashboard_only_inside() -> None:
    before: tuple[Any, Any] = parameter.RayParams, node.Node
    with lean_head(None):
        made = parameter.RayParams(include_dashboard=False)
        assert (made.no_monitor, made.include_log_monitor) == (True, False)
        assert made.worker_path is None
        assert node.Node.start_api_server is not before[1].start_api_server
    assert (parameter.RayParams, node.Node) == before
    assert before[0]().no_monitor is not True


def test_workers_are_asked_for_from_the_template() -> None:
    template = WorkerTemplate(modules=())
    try:
        with lean_head(template):
            assert parameter.RayParams().worker_path == PROGRAM
            assert os.environ[ADDRESS] == template.address
        assert ADDRESS not in os.environ
    finally:
        template.close()


def test_a_ray_without_these_parts_starts_as_it_always_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Other:
        """Parameters of a Ray that has other processes."""

    monkeypatch.setattr(parameter, "RayParams", Other)
    with lean_head(None):
        assert parameter.RayParams is Other

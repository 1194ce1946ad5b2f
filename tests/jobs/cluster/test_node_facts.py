"""What a machine says about itself: where it cannot write or read, and what it does not know."""

from pathlib import Path

import pytest
from support.servers import Folder

from nightpress.jobs.cluster import node_facts
from nightpress.jobs.cluster.node_facts import Questions, facts_here
from nightpress.pipelines.storage import Store


def test_a_home_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/1")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    facts = facts_here(Questions())
    assert facts.home == "/proc/1"
    assert facts.home_fault


def test_a_home_that_can_be_written_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert facts_here(Questions()).home_fault is None
    assert list(tmp_path.iterdir()) == []


def test_an_output_and_inputs_out_of_reach_are_said_in_the_stores_words(tmp_path: Path) -> None:
    closed = {"s3": {"endpoint_url": "http://127.0.0.1:9"}}
    urls = ("s3://press/rows.csv",)
    facts = facts_here(Questions(Store("s3://press/run", closed), urls=urls, options=closed))
    assert facts.output_fault
    assert "127.0.0.1:9" in facts.output_fault
    assert facts.input_fault
    assert facts_here(Questions(Store(str(tmp_path / "run")))).output_fault is None
    assert not (tmp_path / "run").exists()


def test_inputs_that_a_node_may_not_read_are_said(bucket: Folder, tmp_path: Path) -> None:
    rows = f"{bucket.url}/rows.csv"
    Store(bucket.url, bucket.options).put("rows.csv", b"prompt\na cat\n")
    options = bucket.options["s3"]

    def fault(url: str, **changed: str) -> str | None:
        urls, own = (url,), {"s3": options | changed}
        return facts_here(Questions(urls=urls, manifests=urls, options=own)).input_fault

    assert fault(rows) is None
    assert "nothing.csv" in (fault(f"{bucket.url}/nothing.csv") or "")
    assert fault(rows, secret="wrong") is not None
    assert "not there" in (facts_here(Questions(paths=(str(tmp_path / "sdxl"),))).input_fault or "")


def test_a_folder_that_is_not_shared_is_recognised_by_its_marker(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    words = "this folder is not shared with the node"
    assert facts_here(Questions(marker=str(marker))).output_fault == words
    marker.touch()
    assert facts_here(Questions(marker=str(marker))).output_fault is None


def test_gpus_are_read_from_nvidia_smi_and_unknown_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts_here(Questions()).gpus is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771'\necho 'NVIDIA H200, 143771'\n")
    program.chmod(0o755)
    assert facts_here(Questions()).gpus == (("NVIDIA H200", 143771 * 2**20),) * 2


def test_nodes_that_share_an_address_are_told_apart_by_their_ids() -> None:
    names = node_facts._names({"0123456789": "10.0.0.2", "abcdefghij": "10.0.0.2", "c": "10.0.0.3"})
    assert list(names.values()) == ["10.0.0.2 01234567", "10.0.0.2 abcdefgh", "10.0.0.3"]

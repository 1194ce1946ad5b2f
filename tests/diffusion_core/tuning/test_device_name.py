"""The name of a device, by which what was measured on it is found again."""

import pytest

from nightpress.diffusion_core.tuning.device_name import device_name


def test_a_cpu_has_a_name_and_a_gpu_that_is_not_there_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert device_name("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_name("cuda") is None

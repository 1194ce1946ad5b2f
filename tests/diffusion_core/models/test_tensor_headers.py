"""The headers of weight files are read, or the file is refused in words."""

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, read_pickle

TENSORS = {"a": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.int64)}


def test_a_pickle_has_the_headers_of_its_tensors(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.bin")
    expected = {"a": TensorHeader((3, 4), "F"), "b": TensorHeader((2,), "I")}
    assert read_pickle(tmp_path / "a.bin") == expected


@pytest.mark.parametrize("values", [[1, 2], torch.ones(2), None, 5])
def test_a_pickle_of_something_else_is_refused_by_name(tmp_path: Path, values: Any) -> None:
    torch.save(values, tmp_path / "a.bin")
    message = rf"a\.bin: it holds a {type(values).__name__}, not tensors by name$"
    with pytest.raises(ModelError, match=message):
        read_pickle(tmp_path / "a.bin")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_damaged_pickle_is_read_or_refused_in_one_line(tmp_path: Path, is_zip: bool) -> None:
    file = tmp_path / "a.bin"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=is_zip)
    whole = file.read_bytes()
    chance = random.Random(0)
    refusals: list[str] = []
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged[: chance.choice((None, chance.randrange(len(damaged))))])
        with warnings.catch_warnings(record=True) as caught:
            refusals += refusal(file)
        assert not caught
    assert len(refusals) > 150
    for message in refusals:
        assert message.startswith(f"{file}: ")
        assert not message.endswith(": ")
        assert "\n" not in message


def refusal(file: Path) -> list[str]:
    try:
        read_pickle(file)
    except ModelError as error:
        return [str(error)]
    return []

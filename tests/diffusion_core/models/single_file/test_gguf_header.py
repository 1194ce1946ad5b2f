"""The header of a GGUF file says what its tensors are, and a damaged one what is wrong with it."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from support.transformer_checkpoints import write_gguf

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.single_file import gguf_header
from nightpress.diffusion_core.models.single_file.gguf_header import read_gguf_header
from nightpress.diffusion_core.models.single_file.reading import read_single_file
from nightpress.diffusion_core.models.tensor_headers import TensorHeader

START = b"GGUF" + struct.pack("<I", 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file with a matrix in Q8_0."""
    tensors = {"a.weight": torch.rand(3, 64), "a.bias": torch.rand(5), "b": torch.rand(2, 3, 1, 1)}
    return write_gguf(tensors, tmp_path / "x.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_names_shapes_and_types_are_those_that_were_written(file: Path) -> None:
    header = read_gguf_header(file)
    assert header.architecture == "flux"
    assert header.tensors == {
        "a.weight": TensorHeader((3, 64), "Q8_0", 3 * 2 * 34),
        "a.bias": TensorHeader((5,), "F32"),
        "b": TensorHeader((2, 3, 1, 1), "F16"),
    }
    assert header.tensors["a.weight"].is_quantized
    assert not header.tensors["a.bias"].is_quantized


def test_the_sizes_of_blocks_are_those_of_the_package() -> None:
    for number, (name, block, num_bytes) in gguf_header.BLOCKS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, num_bytes))


def test_the_types_that_are_read_are_those_of_diffusers() -> None:
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    names = {kind.name for kind in SUPPORTED_GGUF_QUANT_TYPES}
    assert names - {"BF16"} == gguf_header.DEQUANTIZED


def test_values_of_every_type_are_passed_over(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    for bits in (8, 16, 32, 64):
        getattr(writer, f"add_uint{bits}")(f"u{bits}", 200)
        getattr(writer, f"add_int{bits}")(f"i{bits}", -100)
    writer.add_float32("f", 0.5)
    writer.add_float64("d", 0.25)
    writer.add_bool("yes", True)
    writer.add_string("name", "Ünïcode")
    writer.add_array("lists", [[1, 2], [3]])
    writer.add_array("words", ["a", "b"])
    writer.add_tensor("t", np.zeros((2, 2), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf_header(tmp_path / "x.gguf")
    assert header.tensors == {"t": TensorHeader((2, 2), "F32")}
    assert header.metadata["i64"] == -100
    assert header.metadata["u16"] == 200
    assert header.metadata["name"] == "Ünïcode"
    assert header.metadata["lists"] == [[1, 2], [3]]
    assert header.metadata["words"] == ["a", "b"]
    assert (header.metadata["f"], header.metadata["d"]) == (0.5, 0.25)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(share: float, file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"x\.gguf: cut short: ") as caught:
        read_single_file(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"GGML" + bytes(40), "it is no GGUF file: it begins with b'GGML'"),
        (b"<!DOCTYPE html>", "it is a web page, not a model"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(40), "it is a pickle under the name of a GGUF file"),
        (struct.pack("<Q", 2) + b"{}", "it is a safetensors file under the name of a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "its GGUF version is 1; 2 and 3 are"),
        (START + struct.pack("<QQ", 0, 0), "it holds no tensors"),
        (START + struct.pack("<QQ", 0, 2**60), "cut short: the file ends in its header"),
        (START + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<I", 77), "unknown type 77"),
        (
            START + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**40),
            r"damaged: its header has a list of 1,099,511,627,776 values",
        ),
        (
            START + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<I", 9),
            "damaged: its tensor t has 9 dimensions",
        ),
        (
            START + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 99, 0),
            "its tensor t has a type that is not known, ggml's number 99",
        ),
        (
            START + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<IQIQ", 1, 31, 8, 0),
            "damaged: the rows of t are no whole blocks of 32 numbers",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_what_is_wrong(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_single_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def flattened(file: Path, shape: list[int]) -> Path:
    writer = gguf.GGUFWriter(file, "sdxl")
    writer.add_array("comfy.gguf.orig_shape.t", shape)
    writer.add_tensor("t", np.zeros((2, 9), "float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_flattened_tensor_has_the_shape_that_it_had(tmp_path: Path) -> None:
    header = read_gguf_header(flattened(tmp_path / "x.gguf", [2, 1, 3, 3]))
    assert header.tensors["t"].shape == (2, 1, 3, 3)
    with pytest.raises(ModelError, match=r"orig_shape\.t is \[2, 2, 3, 3\], of 18 numbers"):
        read_gguf_header(flattened(tmp_path / "y.gguf", [2, 2, 3, 3]))

"""The bounded GGUF reader: what it reads, and that damage is always a ModelLoadError."""

import io
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import ModelLoadError
from pyllama_mtp.gguf.format import MAX_STRINGS, Entry, Writer, read_header
from pyllama_mtp.gguf.random_weights import synthetic_tokenizer

METADATA = {
    "general.architecture": Entry("string", "test"),
    "a.number": Entry("u32", 7),
    "a.real": Entry("f32", 0.5),
    "a.flag": Entry("bool", True),
    "a.list": Entry("[i32]", [1, -2, 3]),
    "a.words": Entry("[string]", ["eins", "zwei", "drei \u00e4"]),
}


def small_file() -> bytes:
    file = io.BytesIO()
    writer = Writer(file, METADATA, [("first", (32, 3), "q8_0"), ("second", (5,), "f32")])
    writer.write_tensor("first", bytes(range(102)))
    writer.write_tensor("second", np.arange(5, dtype="<f4"))
    return file.getvalue()


def read(tmp_path: Path, data: bytes):
    path = tmp_path / "file.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_what_is_written_is_read(tmp_path: Path):
    gguf = read(tmp_path, small_file())
    assert gguf.metadata["a.number"] == 7 and gguf.metadata["a.real"] == 0.5 and gguf.metadata["a.flag"] is True
    assert gguf.metadata["a.list"].tolist() == [1, -2, 3]
    assert list(gguf.metadata["a.words"]) == ["eins", "zwei", "drei \u00e4"]
    assert gguf.metadata["a.words"][-1] == "drei \u00e4"
    first = gguf.tensors["first"]
    assert (first.shape, first.type, first.n_bytes) == ((32, 3), "q8_0", 102)
    assert small_file()[first.offset : first.offset + 102] == bytes(range(102))


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path):
    file = io.BytesIO()
    Writer(file, synthetic_tokenizer(262144), [])
    begin = time.perf_counter()
    assert len(read(tmp_path, file.getvalue()).metadata["tokenizer.ggml.tokens"]) == 262144
    assert time.perf_counter() - begin < 5


def test_every_truncation_is_refused(tmp_path: Path):
    data = small_file()
    end_of_tensors = len(data) - len(data) % 32  # the padding behind the last tensor is not needed
    for size in range(end_of_tensors - 12):
        with pytest.raises(ModelLoadError, match="file.gguf"):
            read(tmp_path, data[:size])


@pytest.mark.parametrize("at", [8, 16])
@pytest.mark.parametrize("count", [1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_huge_counts_are_refused(tmp_path: Path, at: int, count: int):
    data = bytearray(small_file())
    data[at : at + 8] = struct.pack("<Q", count)
    with pytest.raises(ModelLoadError, match="more than fit"):
        read(tmp_path, bytes(data))


def test_more_strings_than_any_vocabulary_has_are_refused_at_once(tmp_path: Path):
    n = MAX_STRINGS + 1
    path = tmp_path / "file.gguf"
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, n))
        file.truncate(file.tell() + 8 * n)  # sparse: n empty strings
    with pytest.raises(ModelLoadError, match="strings"):
        read_header(path)


def test_flipped_bits_give_an_error_or_a_header(tmp_path: Path):
    data = small_file()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for at in random.integers(0, 400, random.integers(1, 4)):
            damaged[at] ^= 1 << random.integers(8)
        try:
            read(tmp_path, bytes(damaged))
        except ModelLoadError:
            refused += 1
    assert refused > 500


def patched(old: bytes, new: bytes) -> bytes:
    data = small_file()
    assert data.count(old) == 1 and len(old) == len(new)
    return data.replace(old, new)


NAME = struct.pack("<Q", 6) + b"second"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF", b"GGML", "begins with"),
        (b"GGUF\x03", b"GGUF\x04", "version 4"),
        (b"a.number", b"\xff" * 8, "no UTF-8"),
        (NAME + struct.pack("<IQ", 1, 5), NAME + struct.pack("<IQ", 0, 5), "0 dimensions"),
        (NAME + struct.pack("<IQ", 1, 5), NAME + struct.pack("<IQ", 5, 5), "5 dimensions"),
        (NAME + struct.pack("<IQ", 1, 5), NAME + struct.pack("<IQ", 1, 0), "impossible shape"),
        (NAME + struct.pack("<IQ", 1, 5), NAME + struct.pack("<IQ", 1, 1 << 61), "ends at|impossible shape"),
        (NAME + struct.pack("<IQI", 1, 5, 0), NAME + struct.pack("<IQI", 1, 5, 99), "unknown type 99"),
        (NAME + struct.pack("<IQI", 1, 5, 0), NAME + struct.pack("<IQI", 1, 5, 8), "whole blocks"),
        (struct.pack("<IQIQ", 1, 5, 0, 128), struct.pack("<IQIQ", 1, 5, 0, 64), "overlaps"),
        (struct.pack("<IQIQ", 1, 5, 0, 128), struct.pack("<IQIQ", 1, 5, 0, 130), "aligned"),
        (struct.pack("<IQIQ", 1, 5, 0, 128), struct.pack("<IQIQ", 1, 5, 0, 1 << 40), "ends at"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, old: bytes, new: bytes, message: str):
    with pytest.raises(ModelLoadError, match=message):
        read(tmp_path, patched(old, new))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path):
    file = io.BytesIO()
    writer = Writer(file, {}, [("same", (4,), "f32"), ("same", (4,), "f32")])
    writer.write_tensor("same", bytes(16))
    writer.write_tensor("same", bytes(16))
    with pytest.raises(ModelLoadError, match="same is there twice"):
        read(tmp_path, file.getvalue())


def test_what_is_no_file_is_refused(tmp_path: Path):
    """Opening a pipe would wait for its other end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing.gguf", tmp_path / "pipe", "/dev/zero", "nul\0", "\ud800", ""):
        with pytest.raises(ModelLoadError, match="cannot read"):
            read_header(path)


@pytest.mark.parametrize("path", [5, None, b"x.gguf"])
def test_what_is_no_path_is_refused(path: object):
    with pytest.raises(ModelLoadError, match="the path of a model is"):
        read_header(path)

"""GGUF files whose header lies about the file. What stops them: pyllama_mtp.gguf checks every count, length and span
against the file's size, in integers that cannot overflow, before anything is allocated and before llama.cpp opens it.
"""

import struct
from pathlib import Path

import pytest

from pyllama_mtp import Model, ModelLoadError
from pyllama_mtp.gguf.format import read_header
from support.gguf_damage import fields
from support.tiny_pairs import TinyPair, write_tiny_pair

WRAPPING = (1 << 31, 1 << 32, 1 << 61, (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return write_tiny_pair("e2b", tmp_path_factory.mktemp("pair"))


def refuse(pair: TinyPair, path: Path, data: bytes, message: str) -> None:
    """As a target and as a head."""
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=message):
        Model(path, n_ctx=64)
    with pytest.raises(ModelLoadError, match=message):
        Model(pair.target, mtp_head=path, n_ctx=64)


def with_number(data: bytes, kind: str, index: int, value: int) -> bytes:
    """The file with another number in the index-th field of a kind."""
    field = [f for f in fields(data) if f.kind == kind][index]
    return data[: field.at] + value.to_bytes(field.size, "little") + data[field.at + field.size :]


@pytest.mark.parametrize("value", WRAPPING)
@pytest.mark.parametrize(("kind", "index"), [("count", 0), ("count", 1), ("length", 0), ("length", 5), ("length", -1)])
def test_overflowing_counts_and_lengths(pair: TinyPair, tmp_path: Path, kind: str, index: int, value: int):
    """CVE-2025-53630 and CVE-2026-27940 are sums and products of such numbers that wrap around."""
    data = with_number(pair.target.read_bytes(), kind, index, value)
    refuse(pair, tmp_path / "x.gguf", data, "more than fit|the length of|needs|ends past")


@pytest.mark.parametrize("value", WRAPPING)
def test_overflowing_dimensions(pair: TinyPair, tmp_path: Path, value: int):
    data = with_number(pair.target.read_bytes(), "dimension", 0, value)
    refuse(pair, tmp_path / "x.gguf", data, "impossible shape|ends at|whole blocks")


@pytest.mark.parametrize("value", [v - v % 32 for v in WRAPPING])
def test_a_span_past_the_end(pair: TinyPair, tmp_path: Path, value: int):
    """CVE-2026-7482: what lies behind the file in memory is read as weights."""
    data = with_number(pair.target.read_bytes(), "offset", 1, value)
    refuse(pair, tmp_path / "x.gguf", data, "ends at")


def test_truncation_at_every_boundary_and_inside_every_field(pair: TinyPair, tmp_path: Path):
    path = tmp_path / "x.gguf"
    for source in (pair.target, pair.head):
        data = source.read_bytes()
        tensors = read_header(source).tensors.values()
        ends = {f.at + part for f in fields(data) for part in (0, f.size // 2)}
        ends |= {t.offset + part for t in tensors for part in (0, t.n_bytes // 2)}
        path.write_bytes(data)
        for end in sorted(ends, reverse=True):
            with open(path, "r+b") as file:
                file.truncate(end)
            with pytest.raises(ModelLoadError):
                read_header(path)


def test_a_type_that_a_key_does_not_have(pair: TinyPair, tmp_path: Path):
    """llama.cpp asserts the types of keys, and an assertion ends the process."""
    data = pair.target.read_bytes()
    key = b"gemma4.block_count"
    assert data.count(key + struct.pack("<I", 4)) == 1
    path = tmp_path / "x.gguf"
    path.write_bytes(data.replace(key + struct.pack("<I", 4), key + struct.pack("<I", 6)))
    with pytest.raises(ModelLoadError, match="of type f32, expected type u32"):
        Model(path, n_ctx=64)

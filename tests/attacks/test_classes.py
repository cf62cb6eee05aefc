"""One attack of each class on files: what stops it is in its docstring. mutations.py has them by the thousand, and
test_template_injection.py those on templates.
"""

import json
import logging
import os
import pickle
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import ConversionError, IncompatibleHeadError, Model, ModelLoadError
from pyllama_mtp.cli import main
from pyllama_mtp.convert import convert_assistant
from pyllama_mtp.gguf.format import Entry, read_header
from pyllama_mtp.gguf.random_weights import write_assistant
from support.checkpoints import config_json, random_tensors, write_checkpoint
from support.gguf_edit import rewrite
from support.tiny_pairs import SHAPES, TinyPair, write_tiny_pair

U64_MAX = (1 << 64) - 1


@pytest.fixture(autouse=True)
def within_seconds() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 10


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return write_tiny_pair("e2b", tmp_path_factory.mktemp("pair"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config), shards=2)


def patched(source: Path, out: Path, at: int, new: bytes) -> Path:
    data = bytearray(source.read_bytes())
    data[at : at + len(new)] = new
    out.write_bytes(data)
    return out


def offset_field(path: Path, name: str) -> int:
    """Where the header of a GGUF holds the offset of a tensor."""
    at = path.read_bytes().index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    n_dimensions = len(read_header(path).tensors[name].shape)
    return at + 4 + 8 * n_dimensions + 4


def test_a_count_of_tensors_that_overflows(pair: TinyPair, tmp_path: Path):
    """_Reader.count: no more items than the bytes that are left can hold, in integers that cannot overflow."""
    with pytest.raises(ModelLoadError, match="number of tensors is 18446744073709551615, more than fit"):
        Model(patched(pair.target, tmp_path / "bad.gguf", 8, struct.pack("<Q", U64_MAX)))


def test_an_array_length_that_overflows(pair: TinyPair, tmp_path: Path):
    """_Reader.count, too: nothing is allocated by a length that was not compared with the file's size."""
    key = b"tokenizer.ggml.scores"
    at = pair.target.read_bytes().index(key) + len(key) + 8  # behind the types of value and element
    with pytest.raises(ModelLoadError, match="more than fit"):
        Model(patched(pair.target, tmp_path / "bad.gguf", at, struct.pack("<Q", U64_MAX)))


def test_a_tensor_that_ends_behind_the_file(pair: TinyPair, tmp_path: Path):
    """_Reader.tensors: each span ends within the file."""
    at = offset_field(pair.target, "output_norm.weight")
    with pytest.raises(ModelLoadError, match="ends at"):
        Model(patched(pair.target, tmp_path / "bad.gguf", at, struct.pack("<Q", 1 << 62)))


def test_tensors_that_overlap(pair: TinyPair, tmp_path: Path):
    """_Reader.tensors: each span begins behind the one before it."""
    tensors = read_header(pair.target).tensors
    name = max(tensors, key=lambda name: tensors[name].offset)
    with pytest.raises(ModelLoadError, match="overlaps"):
        Model(patched(pair.target, tmp_path / "bad.gguf", offset_field(pair.target, name), struct.pack("<Q", 0)))


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "/tmp/outside.safetensors", "a/../b"])
def test_an_index_that_names_files_elsewhere(checkpoint: Path, tmp_path: Path, shard: str):
    """_open_shards: the index names .safetensors files of its own folder, nothing with a path."""
    index = checkpoint / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weights | {next(iter(weights)): shard}}))
    with pytest.raises(ConversionError, match="expected a .safetensors file in the same folder"):
        convert_assistant(checkpoint, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_shard_that_links_to_a_private_file(checkpoint: Path, tmp_path: Path):
    """Links are followed, since download caches consist of them; what they lead to must be safetensors all the same,
    and the message quotes nothing of it.
    """
    secret = tmp_path / "secret"
    secret.write_bytes(struct.pack("<Q", 16) + b'{"password": 42,' + bytes(64))
    shard = sorted(checkpoint.glob("*.safetensors"))[0]
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(ConversionError, match="not a valid safetensors file") as refused:
        convert_assistant(checkpoint, tmp_path / "out.gguf")
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer.json"])
def test_a_json_file_of_a_tebibyte(checkpoint: Path, tmp_path: Path, name: str):
    """read_json: the size is limited before anything is read; a sparse file costs its maker nothing."""
    os.truncate(checkpoint / name, 1 << 40)
    with pytest.raises(ConversionError, match="has more than 268435456 bytes"):
        convert_assistant(checkpoint, tmp_path / "out.gguf")


class _TouchesAFile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_pickle_that_runs_code(checkpoint: Path, tmp_path: Path, name: str):
    """open_checkpoint: safetensors only, and nothing in the package unpickles."""
    for path in checkpoint.glob("model*"):
        path.unlink()
    (checkpoint / name).write_bytes(pickle.dumps(_TouchesAFile(tmp_path / "touched")))
    with pytest.raises(ConversionError, match="pickle checkpoint|not a valid safetensors"):
        convert_assistant(checkpoint, tmp_path / "out.gguf")
    assert not (tmp_path / "touched").exists()
    pickle.loads((checkpoint / name).read_bytes())
    assert (tmp_path / "touched").exists()  # the payload works


def test_a_name_that_controls_a_terminal(pair: TinyPair, tmp_path: Path, capsys, caplog: pytest.LogCaptureFixture):
    """Its line end forged a line of the log, and `pyllama-mtp info` printed it as it was."""
    forged = "\x1b[2J\r\nERROR: forged\u202e"
    edits = {f"general.{key}": Entry("string", forged * n) for key, n in (("name", 1), ("license", 3), ("author", 50))}
    named = rewrite(pair.target, tmp_path / "named.gguf", edits)
    assert main(["info", str(named)]) == 0
    with caplog.at_level(logging.DEBUG, logger="pyllama_mtp"):
        Model(named, n_ctx=64, n_threads=1).close()
    out = capsys.readouterr().out
    assert "ERROR: forged" in out and all(line.isprintable() for line in out.splitlines())
    assert any("ERROR: forged" in record.getMessage() for record in caplog.records)
    for record in caplog.records:
        assert record.getMessage().isprintable() and not record.getMessage().startswith("ERROR")


def test_a_head_of_another_model(pair: TinyPair, tmp_path: Path):
    """csrc/drafters/gemma4/mtp_head.cpp: its sizes are those of the target whose hidden states and cache it reads."""
    shape = replace(SHAPES["e2b"], n_embd=64)
    with pytest.raises(IncompatibleHeadError):
        Model(pair.target, mtp_head=write_assistant(tmp_path / "head.gguf", shape, weights="q8_0"))


def test_a_head_with_another_vocabulary(pair: TinyPair, tmp_path: Path):
    """gguf_checks._check_same_vocabulary: drafted token ids mean the same text to both."""
    tokens = read_header(pair.target).metadata["tokenizer.ggml.tokens"]
    other = Entry("[string]", [f"other {i}" for i in range(len(tokens))])
    with pytest.raises(IncompatibleHeadError, match="made for another target"):
        Model(pair.target, mtp_head=rewrite(pair.head, tmp_path / "head.gguf", {"tokenizer.ggml.tokens": other}))


def with_nan_scale(path: Path, out: Path, name: str) -> Path:
    tensor = read_header(path).tensors[name]
    assert tensor.type == "q8_0"
    return patched(path, out, tensor.offset, np.float16(np.nan).tobytes())  # a block begins with its scale


def test_nan_scales_in_a_head(pair: TinyPair, tmp_path: Path):
    """csrc/drafters/gemma4/mtp_head.cpp: every value of the head is a finite number."""
    name = next(n for n, t in read_header(pair.head).tensors.items() if t.type == "q8_0")
    with pytest.raises(ModelLoadError, match="not finite"):
        Model(pair.target, mtp_head=with_nan_scale(pair.head, tmp_path / "head.gguf", name))


def test_nan_scales_in_a_target(pair: TinyPair, tmp_path: Path):
    """llama.cpp's check_tensors, always on: block scales and values are finite numbers."""
    with pytest.raises(ModelLoadError, match="blk.0.attn_q.weight.*invalid data"):
        Model(with_nan_scale(pair.target, tmp_path / "target.gguf", "blk.0.attn_q.weight"))

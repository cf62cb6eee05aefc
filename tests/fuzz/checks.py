"""The target of headers.py behind the headers: what gguf/checks.py and gemma4_checks say of a whole target or head.

An input is a header and the data of its first tensor. The file is made longer, by a hole: its tensors end inside it.
"""

import functools
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from pyllama_mtp.errors import IncompatibleHeadError, ModelLoadError
from pyllama_mtp.gguf import checks as gguf_checks
from pyllama_mtp.gguf import format as gguf
from pyllama_mtp.gguf.gemma4_checks import ROPE_FACTORS
from support.gguf_damage import MEANING
from support.gguf_edit import Parts, Tensor
from support.old_layouts import KEYS, in_old_layout
from support.tiny_pairs import SHAPES

DEMO = Path(gguf.__file__).parent.with_name("demo")
FILE_BYTES = 8 << 20
MAX_BYTES = 16384
MAX_MESSAGE = 1000  # characters
N_VOCAB = 32  # of the seeds
N_CENTROIDS = 2
_METADATA = [
    *("value", "hyper-parameter", "two hyper-parameters", "tokenizer", "value of another type"),
    *("added hyper-parameter", "added key", "missing key", "other architecture"),
]


def read_checks(path: Path) -> None:
    """A file is refused with the documented exceptions, or is what llama.cpp and mtp_head.cpp rely on."""
    os.truncate(path, FILE_BYTES)
    try:
        header = gguf_checks.check_target(path)
    except ModelLoadError as error:
        _promises_of_a_message(error)
    else:
        _promises_of_a_tokenizer(header)
        if header.architecture == "gemma4":
            _promises_of_a_target(header)
    try:
        header = gguf_checks.check_head(path, _seed_target())
    except (ModelLoadError, IncompatibleHeadError) as error:
        return _promises_of_a_message(error)
    assert header.architecture in gguf_checks.HEAD_ARCHITECTURES
    if header.architecture == "gemma4-assistant" or ROPE_FACTORS in header.tensors:
        _promises_of_factors(header)


def _promises_of_a_message(error: Exception) -> None:
    """It is short, and what a file holds cannot end its line or steer a terminal."""
    assert len(str(error)) < MAX_MESSAGE and str(error).isprintable(), error


def _promises_of_a_tokenizer(header: gguf.GGUFFile) -> None:
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) > 0
    texts = [text for i in range(len(tokens)) if (text := tokens.raw(i).split(b"\0")[0])]  # empty ones get names
    assert len(set(texts)) == len(texts), texts
    types = header.metadata.get("tokenizer.ggml.token_type", [0] * len(tokens))
    assert len(types) == len(tokens) and set(types) <= set(range(7)), types
    for key in ("bos", "eos", "eot", "unknown", "padding", "mask"):
        assert 0 <= header.metadata.get(f"tokenizer.ggml.{key}_token_id", 0) < len(tokens), key


def _promises_of_a_target(header: gguf.GGUFFile) -> None:
    def number(key: str) -> int:
        value = header.metadata[f"gemma4.{key}"]
        assert type(value) is int and value > 0, (key, value)
        return value

    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert header.tensors["token_embd.weight"].shape[:2] == (number("embedding_length"), len(tokens))
    layers = range(number("block_count"))
    window = np.broadcast_to(header.metadata["gemma4.attention.sliding_window_pattern"], len(layers))
    assert window.any() and not window.all()
    for layer in layers:
        head_size = number("attention.key_length_swa" if window[layer] else "attention.key_length")
        assert head_size % 2 == 0 and header.tensors[f"blk.{layer}.attn_q_norm.weight"].shape[0] == head_size
        assert header.tensors[f"blk.{layer}.attn_output.weight"].shape[0] % head_size == 0
    _promises_of_factors(header)


def _promises_of_factors(header: gguf.GGUFFile) -> None:
    tensor = header.tensors[ROPE_FACTORS]
    assert (
        tensor.type == "f32" and tensor.shape[0] == header.metadata[f"{header.architecture}.attention.key_length"] // 2
    )
    factors = np.fromfile(tensor.path, "<f4", tensor.shape[0], offset=tensor.offset)
    assert np.isfinite(factors).all() and (factors > 0).all()


@functools.cache
def _seed_target() -> gguf.GGUFFile:
    """Whose vocabulary a head must have."""
    return _header(next(iter(checks_seeds())))


def _header(data: bytes) -> gguf.GGUFFile:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.truncate(FILE_BYTES)
        return gguf.read_header(file.name)


def _to_bytes(parts: Parts) -> bytes:
    """The header, and the data of its first tensor."""
    file = BytesIO()
    writer = gguf.Writer(file, parts.metadata, [tensor[:3] for tensor in parts.tensors.values()])
    for name, shape, type_name, data in list(parts.tensors.values())[:1]:
        writer.write_tensor(name, data.ljust(gguf.tensor_bytes(type_name, shape), b"\0"))
    return file.getvalue()


def _shortened(parts: Parts) -> Parts:
    """With N_VOCAB tokens, all in the first few clusters."""
    metadata = dict(parts.metadata)
    for key in ("tokens", "scores", "token_type", "merges"):
        entry = metadata[f"tokenizer.ggml.{key}"]
        metadata[f"tokenizer.ggml.{key}"] = replace(entry, value=list(entry.value)[:N_VOCAB])
    for key, entry in metadata.items():
        if key.endswith((".num_centroids", "n_centroids", "centroid_count")):
            metadata[key] = replace(entry, value=N_CENTROIDS)
        elif key.endswith("top_k"):
            metadata[key] = replace(entry, value=1)
        elif key.endswith(".centroids"):
            metadata[key] = replace(entry, value=entry.value[: N_CENTROIDS * len(entry.value) // 64])
        elif key.endswith(".token_ordering"):
            metadata[key] = replace(entry, value=list(range(N_VOCAB)))
    tensors = {}
    for name, (_, shape, type_name, data) in parts.tensors.items():
        tensors[name] = (name, tuple(N_VOCAB if n == 2048 else n for n in shape), type_name, data[:4096])
    return Parts(metadata, tensors)


def checks_seeds() -> Iterable[bytes]:
    """The embedded pair with a small vocabulary, its head in every layout, and a target with experts."""
    target = _shortened(Parts.read(DEMO / "target.gguf"))
    yield _to_bytes(target)
    yield _to_bytes(_shortened(Parts.read(DEMO / "assistant.gguf")))
    for architecture in KEYS:
        yield _to_bytes(_shortened(in_old_layout(DEMO / "assistant.gguf", architecture)))
    shape = replace(SHAPES["moe"], n_vocab=N_VOCAB)
    tokenizer = {key: entry for key, entry in target.metadata.items() if key.startswith("tokenizer.")}
    factors = np.array(shape.rope_factors(), "<f4").tobytes()
    tensors: dict[str, Tensor] = {ROPE_FACTORS: (ROPE_FACTORS, (len(factors) // 4,), "f32", factors)}
    tensors |= {t.name: (t.name, t.shape, "f32", b"") for t in shape.tensors()}
    yield _to_bytes(Parts(shape.metadata() | tokenizer, tensors))


def _change_tensor(choose: random.Random, parts: Parts) -> None:
    """Another shape, type or name, or none of it."""
    name, shape, type_name, data = parts.tensors.pop(choose.choice(list(parts.tensors)))
    match choose.randrange(4):
        case 0:
            at = choose.randrange(len(shape))
            n = choose.choice((1, 2, shape[at] // 2, shape[at] * 2, shape[at] + 32, *shape))
            shape = (*shape[:at], max(1, n), *shape[at + 1 :])[choose.choice((0, 0, 0, 1)) :] or (1,)
        case 1:
            type_name = choose.choice(list(gguf.TENSOR_TYPES))
        case 2:
            name = choose.choice(
                (name[:-1], name.replace("blk.0", "blk.7"), name.replace("attn_q", "attn_qkv"), ROPE_FACTORS)
            )
        case 3:
            return
    if shape[0] % gguf.TENSOR_TYPES[type_name][1] == 0:
        parts.tensors[name] = (name, shape, type_name, data)


def mutate_checks(other: Callable[[bytearray, random.Random], None]) -> Callable[[bytearray, random.Random], None]:
    """Says something else in a well-formed file, once to three times; `other` changes what is not well-formed."""

    def mutate(data: bytearray, choose: random.Random) -> None:
        try:
            header = _header(bytes(data))
        except ModelLoadError:
            return other(data, choose)
        metadata = {key: gguf.Entry(header.types[key], value) for key, value in header.metadata.items()}
        tensors = {
            t.name: (t.name, t.shape, t.type, bytes(data[t.offset :][: t.n_bytes])) for t in header.tensors.values()
        }
        parts = Parts(metadata, tensors)
        try:
            for _ in range(choose.choice((1, 1, 2, 3))):
                if choose.random() < 0.3:
                    _change_tensor(choose, parts)
                else:
                    MEANING[choose.choice(_METADATA)](choose, parts)
            changed = _to_bytes(parts)
        except (AttributeError, LookupError, ValueError, TypeError, OverflowError, struct.error):  # no such change
            return other(data, choose)
        data[:] = changed

    return mutate

"""Coverage-guided fuzzing of the readers that meet untrusted bytes first, GGUF headers and safetensors headers, and of
the checks of what a target or head says (checks.py).

    python tests/fuzz/headers.py gguf|safetensors|checks [libFuzzer options]
    python tests/fuzz/headers.py gguf -max_total_time=30
    python tests/fuzz/headers.py gguf crash-0123abcd        # one input again

Needs atheris (pip install atheris), not a built library. A finding is an exception other than the documented one, an
accepted header that breaks a promise of its reader, more than ten seconds, or more than 1 GiB of memory; the input is
then left in the working directory and the exit status is not 0.
"""

import contextlib
import json
import math
import os
import random
import struct
import sys
import tempfile
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import atheris
import numpy as np

PROJECT = Path(__file__).resolve().parent.parent.parent
MAX_MESSAGE = 1000  # characters
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}
LIMITS = ("-timeout=10", "-rss_limit_mb=1024")


def _package(name: str, folder: Path) -> None:
    """Makes `name` importable from the checkout without its __init__, which would load the native library."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


_package("pyllama_mtp", PROJECT / "pyllama_mtp")
_package("pyllama_mtp.convert", PROJECT / "convert")
with atheris.instrument_imports(include=["pyllama_mtp"]):
    from pyllama_mtp.convert import checkpoint
    from pyllama_mtp.errors import ConversionError, ModelLoadError
    from pyllama_mtp.gguf import format as gguf

    sys.path.append(str(PROJECT / "tests"))  # for support
    import checks


def read_gguf(path: Path) -> None:
    """A header is refused with ModelLoadError, or every span it names lies inside the file and nothing overlaps."""
    try:
        header = gguf.read_header(path)
    except ModelLoadError:
        return
    size, at = path.stat().st_size, 24
    for tensor in sorted(header.tensors.values(), key=lambda tensor: tensor.offset):
        assert tensor.offset >= at and math.prod(tensor.shape) > 0, tensor
        at = tensor.offset + gguf.tensor_bytes(tensor.type, tensor.shape)
        assert tensor.n_bytes == at - tensor.offset and at <= size, tensor
    for value in header.metadata.values():
        if isinstance(value, gguf.StringArray):
            assert sum(len(text.encode()) for text in value) <= 3 * size  # a bad byte becomes a character of three


def read_safetensors(path: Path) -> None:
    """A file is refused with a ConversionError of one line, or its tensors fill it without holes and can be read."""
    try:
        tensors = checkpoint.open_checkpoint(path.parent).values()
    except ConversionError as error:
        assert len(str(error)) < MAX_MESSAGE and str(error).isprintable(), error
        return
    if all(tensor.dtype in SIZES for tensor in tensors):
        with path.open("rb") as file:
            at = 8 + int.from_bytes(file.read(8), "little")
        assert at + sum(math.prod(t.shape) * SIZES[t.dtype] for t in tensors) == path.stat().st_size
    for tensor in tensors:  # the converter reads those that have a dtype of its own and the shape that it expects
        if tensor.dtype in checkpoint.FLOATS + checkpoint.INTEGERS and 0 not in tensor.shape and len(tensor.shape) <= 2:
            with contextlib.suppress(ConversionError):  # not finite
                values = tensor.read()
                assert values.shape == tensor.shape and np.isfinite(values).all(), tensor


def gguf_seeds() -> Iterable[bytes]:
    metadata = {
        "general.architecture": gguf.Entry("string", "gemma4"),
        "general.alignment": gguf.Entry("u32", 32),
        "a.pattern": gguf.Entry("[bool]", [True, False]),
        "a.eps": gguf.Entry("f32", 1e-6),
        "a.ids": gguf.Entry("[i32]", [0, 2, 1]),
        "tokenizer.ggml.tokens": gguf.Entry("[string]", ["<pad>", "a", "é"]),
    }
    tensors = [("token_embd.weight", (32, 3), "q8_0"), ("blk.0.attn_norm.weight", (8,), "f32"), ("x", (4, 1, 2), "f16")]
    for n_metadata, n_tensors in ((6, 3), (1, 1), (0, 0), (6, 0)):
        file = BytesIO()
        writer = gguf.Writer(file, dict(list(metadata.items())[:n_metadata]), tensors[:n_tensors])
        for name, shape, type_name in tensors[:n_tensors]:
            writer.write_tensor(name, bytes(gguf.tensor_bytes(type_name, shape)))
        yield file.getvalue()


def safetensors_bytes(header: bytes, n_data: int) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(n_data)


def safetensors_seeds() -> Iterable[bytes]:
    tensors = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
        "d": {"dtype": "F16", "shape": [0, 5], "data_offsets": [40, 40]},
        "e": {"dtype": "F64", "shape": [1, 1], "data_offsets": [40, 48]},
        "f": {"dtype": "U8", "shape": [8], "data_offsets": [48, 56]},
    }
    for header in (tensors, {"__metadata__": {"format": "pt"}} | tensors, {"a": tensors["a"]}, {}):
        ends = [entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry]
        yield safetensors_bytes(json.dumps(header).encode(), max(ends, default=0))


NUMBERS = sorted({edge + d for edge in (0, 1 << 7, 1 << 15, 1 << 31, 1 << 32, 1 << 62, 1 << 63) for d in (-1, 0, 1, 7)})


def mutate_gguf(data: bytearray, choose: random.Random) -> None:
    """Overwrites one little-endian integer with a value at some type's edge."""
    width = choose.choice((4, 8))
    at = choose.randrange(max(1, len(data) - width + 1))
    data[at : at + width] = (choose.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")


def mutate_safetensors(data: bytearray, choose: random.Random) -> None:
    """Replaces one number of the JSON header, or makes the length before it and the data's size right again."""
    header = bytes(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if choose.random() < 0.5:
        digits = [i for i, byte in enumerate(header) if byte in b"0123456789"] or [0]
        at = choose.choice(digits)
        header = header[:at] + str(choose.choice(NUMBERS)).encode() + header[at + 1 :]
    data[:] = safetensors_bytes(header, choose.choice((0, 24, 32, 40, len(data) % 64)))


@dataclass(frozen=True, slots=True)
class Target:
    name: str  # of the file that holds an input
    read: Callable[[Path], None]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Callable[[bytearray, random.Random], None]
    max_bytes: int = 4096


TARGETS = {
    "gguf": Target("model.gguf", read_gguf, gguf_seeds, mutate_gguf),
    "safetensors": Target("model.safetensors", read_safetensors, safetensors_seeds, mutate_safetensors),
    "checks": Target(
        "model.gguf", checks.read_checks, checks.checks_seeds, checks.mutate_checks(mutate_gguf), checks.MAX_BYTES
    ),
}


def fuzz(target: Target, folder: Path) -> None:
    """Runs libFuzzer with the options of the command line and does not return. Inputs go to a file in `folder`."""
    corpus, path = folder / "corpus", folder / target.name
    corpus.mkdir()
    for i, seed in enumerate(target.seeds()):
        assert len(seed) <= target.max_bytes, len(seed)
        (corpus / str(i)).write_bytes(seed)

    def test_one(data: bytes) -> None:
        path.write_bytes(data)
        target.read(path)

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        choose = random.Random(seed)
        if choose.random() < 0.5:
            return atheris.Mutate(data, max_size)
        changed = bytearray(data)
        target.mutate(changed, choose)
        return bytes(changed[:max_size])

    inputs = [a for a in sys.argv[2:] if not a.startswith("-")]
    options = [a for a in sys.argv[2:] if a.startswith("-")]
    command = [sys.argv[0], *LIMITS, f"-max_len={target.max_bytes}", *options, *(inputs or [str(corpus)])]
    atheris.Setup(command, test_one, custom_mutator=custom_mutator)
    atheris.Fuzz()


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder:
        child = os.fork()  # libFuzzer ends its process, which could not tidy up then
        if child == 0:
            fuzz(TARGETS[sys.argv[1]], Path(folder))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()

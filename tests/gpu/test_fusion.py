"""Other weights than the embedded pair's: Q4_0, whose products have kernels of their own, and some that share only
quantised activations.
"""

from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model, _native
from pyllama_mtp.gguf import Entry, Writer, read_header
from pyllama_mtp.quantize import decode, encode
from support.devices import acceptance_over_equal_texts


def rewrite(source: Path, out: Path, weights: str) -> Path:
    """The model with its matrices in another type."""
    header = read_header(source)
    types = {name: weights if tensor.type == "q8_0" else tensor.type for name, tensor in header.tensors.items()}
    metadata = {key: Entry(header.types[key], value) for key, value in header.metadata.items()}
    with open(out, "wb") as file:
        writer = Writer(file, metadata, [(name, tensor.shape, types[name]) for name, tensor in header.tensors.items()])
        for name, tensor in header.tensors.items():
            data = np.fromfile(source, np.uint8, tensor.n_bytes, offset=tensor.offset)
            if tensor.type == "q8_0":
                data = encode(decode(data, tensor.type).reshape(tensor.shape[::-1]), weights)
            writer.write_tensor(name, data)
    return out


@pytest.fixture(scope="module", params=["q4_0", "q4_k_m", "q6_k"])
def target(request, demo, device, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    if request.param == "q4_0":
        return rewrite(demo.target, folder / "target.gguf", "q4_0")
    out = folder / "target.gguf"
    _native.quantize(rewrite(demo.target, folder / "f16.gguf", "f16"), out, request.param, 2)
    return out


@pytest.mark.parametrize("k", [1, 3, 7])
def test_text_and_acceptance_are_the_cpus(target, demo, k):
    options = {"mtp_head": demo.head, "n_ctx": 512, "n_threads": 2}
    with Model(target, n_gpu_layers=0, **options) as cpu, Model(target, **options) as gpu:
        ours, theirs = acceptance_over_equal_texts(cpu, gpu, k)
    assert theirs == pytest.approx(ours, abs=0.02)

"""Other weights than the embedded pair's."""

from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model, _native
from pyllama_mtp.convert.quants import decode, encode
from support.devices import acceptance_over_equal_texts
from support.gguf_edit import Parts, rewrite


def with_matrices(weights: str, source: Path, out: Path) -> Path:
    """The model with its matrices in another type."""
    changed = {}
    for name, shape, kind, data in Parts.read(source).tensors.values():
        if kind == "q8_0":
            values = decode(np.frombuffer(data, np.uint8), kind).reshape(shape[::-1])
            changed[name] = (name, shape, weights, encode(values, weights))
    return rewrite(source, out, tensors=changed)


@pytest.fixture(scope="module", params=["q4_0", "f16", "q4_k_m", "q5_k_m", "q6_k"])
def target(request, demo, device, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    if request.param in ("q4_0", "f16"):
        return with_matrices(request.param, demo.target, folder / "target.gguf")
    out = folder / "target.gguf"
    _native.quantize(with_matrices("f16", demo.target, folder / "f16.gguf"), out, request.param, 2)
    return out


@pytest.mark.parametrize("k", [1, 3, 7])
def test_text_and_acceptance_are_the_cpus(target, demo, k):
    options = {"mtp_head": demo.head, "n_ctx": 512, "n_threads": 2}
    with Model(target, n_gpu_layers=0, **options) as cpu, Model(target, **options) as gpu:
        ours, theirs = acceptance_over_equal_texts(cpu, gpu, k)
    assert theirs == pytest.approx(ours, abs=0.02)

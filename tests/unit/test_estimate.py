"""What Model.estimate tells before loading is what Model.info says after it."""

from dataclasses import replace
from pathlib import Path

import pytest

from pyllama_mtp import InvalidRequestError, Model
from pyllama_mtp import model as model_module
from pyllama_mtp.gguf.random_weights import write_target
from support.tiny_pairs import SHAPES, write_tiny_pair


@pytest.mark.parametrize("n_ctx, max_num_seqs", [(512, 1), (512, 4), (1000, 1), (4096, 2), (100, 8)])
@pytest.mark.parametrize(
    "types", [("f16", "f16", None, None), ("q8_0", "turbo4", "f16", "turbo3"), ("f32", "bf16", None, "q4_0")]
)
def test_cache_and_weights_are_exact(demo, n_ctx: int, max_num_seqs: int, types):
    names = ("cache_type_k", "cache_type_v", "cache_type_k_swa", "cache_type_v_swa")
    options = {"n_ctx": n_ctx, "max_num_seqs": max_num_seqs, "n_gpu_layers": 0} | dict(zip(names, types, strict=True))
    estimate = Model.estimate(demo.target, mtp_head=demo.head, **options)
    with Model(demo.target, mtp_head=demo.head, n_threads=1, **options) as model:
        info = model.info
    assert estimate.n_ctx == info.n_ctx and estimate.cache_bytes == info.cache_bytes
    assert estimate.target_bytes == info.target_bytes and estimate.embedding_bytes == info.embedding_bytes
    assert 0.8 < estimate.head_bytes / info.head_bytes < 1.3
    assert 0.3 < estimate.compute_bytes / info.compute_bytes < 3
    weights = estimate.target_bytes + estimate.embedding_bytes + estimate.head_bytes
    rest = estimate.cache_bytes + estimate.prefix_cache_bytes + estimate.compute_bytes
    assert estimate.total_bytes == weights + rest


@pytest.mark.parametrize("kind", ["e2b", "moe"])
def test_cache_of_other_shapes_is_exact(tmp_path: Path, kind: str):
    target = write_tiny_pair(kind, tmp_path).target
    with Model(target, n_ctx=700, n_threads=1, max_num_seqs=3) as model:
        assert Model.estimate(target, n_ctx=700, max_num_seqs=3).cache_bytes == model.info.cache_bytes


@pytest.mark.parametrize("weights", ["q4_0", "q4_k", "iq4_nl", "q6_k", "q8_0", "f16"])
@pytest.mark.parametrize("kind", ["e2b", "moe"])
def test_weights_are_exact(tmp_path: Path, kind: str, weights: str):
    """The output matrix was left out where it is a copy of the embedding: repacked, or on a device."""
    shape = replace(SHAPES[kind], n_embd=256, n_vocab=512)
    target = write_target(tmp_path / "target.gguf", shape, weights=weights)
    estimate = Model.estimate(target, n_gpu_layers=0)
    with Model(target, n_threads=1, n_gpu_layers=0) as model:
        info = model.info
    assert (estimate.target_bytes, estimate.embedding_bytes) == (info.target_bytes, info.embedding_bytes)
    assert 0.3 < estimate.compute_bytes / info.compute_bytes < 3


def test_max_is_what_fits(demo, monkeypatch: pytest.MonkeyPatch):
    estimate = Model.estimate(demo.target, n_ctx="max")
    assert estimate.n_ctx == 4096  # as trained
    whole = Model.estimate(demo.target, n_ctx=1024).total_bytes
    monkeypatch.setattr(model_module, "free_bytes", lambda: int(whole / 0.9) + 1000)
    with Model(demo.target, n_ctx="max", n_threads=1) as model:
        assert model.info.n_ctx == 1024
    monkeypatch.setattr(model_module, "free_bytes", lambda: 1000)
    with pytest.raises(InvalidRequestError, match="1000 bytes are free"):
        Model(demo.target, n_ctx="max")


def test_nonsense_is_refused(demo):
    for n_ctx in ("most", 0, -1, 1.5):
        with pytest.raises(InvalidRequestError):
            Model.estimate(demo.target, n_ctx=n_ctx)
    for name in ("q9_9", "q4_k", "Q8_0"):  # it was a KeyError, and Q4_K, which no cache can have, was estimated
        with pytest.raises(InvalidRequestError, match="expected one of f32, f16"):
            Model.estimate(demo.target, cache_type_k=name)
    with pytest.raises(TypeError):
        Model.estimate(demo.target, n_contexts=5)

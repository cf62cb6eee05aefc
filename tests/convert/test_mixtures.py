"""--outtype q4_k_m and the like: llama.cpp's own quantiser over what the converter writes."""

from pathlib import Path

import pytest

from pyllama_mtp import InvalidRequestError, Model, ModelLoadError, _native
from pyllama_mtp.convert import convert_assistant
from pyllama_mtp.convert.assistant import MIXTURES
from pyllama_mtp.errors import ConversionError
from pyllama_mtp.gemma4_layout import SHAPES
from pyllama_mtp.gguf import read_header
from pyllama_mtp.random_weights import write_assistant
from support.checkpoints import config_json, random_tensors, write_checkpoint
from support.llama_cpp_peer import complete

CENTROIDS = "gemma4-assistant.masked_embedding."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path_factory.mktemp("mixtures") / "assistant", config, random_tensors(config))


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_checkpoint_becomes_a_mixture(checkpoint: Path, tmp_path: Path, mixture: str):
    plain = read_header(convert_assistant(checkpoint, tmp_path / "plain.gguf", outtype="f32"))
    out = convert_assistant(checkpoint, tmp_path / "out.gguf", outtype=mixture)
    gguf = read_header(out)
    assert {n: t.shape for n, t in gguf.tensors.items()} == {n: t.shape for n, t in plain.tensors.items()}
    types = {name: info.type for name, info in gguf.tensors.items()}
    assert types["blk.0.ffn_up.weight"] not in ("f32", "f16")
    assert all(kind == "f32" for name, kind in types.items() if "norm" in name or "scale" in name or "freqs" in name)
    for key in ("centroids", "token_ordering"):
        assert list(gguf.metadata[CENTROIDS + key]) == list(plain.metadata[CENTROIDS + key])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "plain.gguf"]  # no scratch file


def test_released_shapes_get_the_mixtures_types(tmp_path: Path):
    head = write_assistant(tmp_path / "head.gguf", SHAPES["e2b"], weights="f16")
    _native.quantize(head, tmp_path / "out.gguf", "q4_k_m", 2)
    types = {name: info.type for name, info in read_header(tmp_path / "out.gguf").tensors.items()}
    assert types["blk.0.ffn_up.weight"] == types["blk.0.attn_q.weight"] == "q4_k"
    assert (tmp_path / "out.gguf").stat().st_size < 0.45 * head.stat().st_size


@pytest.mark.parametrize("mixture", ["q6_k", "q4_k_m"])
def test_a_quantised_head_drafts_nearly_as_well(demo, demo_model, tmp_path: Path, mixture: str):
    """Here and in unmodified llama.cpp."""
    head = tmp_path / "head.gguf"
    _native.quantize(demo.head, head, mixture, 1)

    def rate(model: Model) -> float:
        options = {"max_tokens": 150, "temperature": 0, "ignore_eos": True, "num_speculative_tokens": 3}
        stream = model.generate("def main():\n", **options)
        stream.text()
        return stream.stats.acceptance_rate

    with Model(demo.target, mtp_head=head, n_ctx=512, n_threads=1) as model:
        assert rate(model) > rate(demo_model) - 0.08
        prompt = model.tokenize("def main():\n")
    peer = complete(demo.target, head, [prompt], max_tokens=24, n_ctx=256)
    assert peer[0].drafted > 0


def test_bad_requests_are_refused(demo, tmp_path: Path, checkpoint: Path):
    with pytest.raises(InvalidRequestError, match="q4_q, expected q2_k"):
        _native.quantize(demo.head, tmp_path / "out.gguf", "q4_q", 1)
    with pytest.raises(ModelLoadError, match="could not quantise"):
        _native.quantize(tmp_path / "none.gguf", tmp_path / "out.gguf", "q6_k", 1)
    with pytest.raises(ConversionError, match="writable folder that has room"):
        convert_assistant(checkpoint, tmp_path / "missing" / "out.gguf", outtype="q6_k")
    assert list(tmp_path.iterdir()) == []

"""TurboQuant KV caches end to end, on the embedded pair: text, acceptance, memory, refusals, quality."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model, ModelLoadError
from pyllama_mtp.gguf.format import read_header
from support import statistics
from support.repeats import check_texts_repeat

BITS = {"f16": 16, "q8_0": 8.5, "q4_0": 4.5, "turbo4": 4.25, "turbo3": 3.25, "turbo2": 2.25}
PROMPTS = ("def main():\n", "class Stack:\n    def __init__(self):\n", "import os\nimport sys\n")
PAIRS = [("turbo4", "turbo4"), ("turbo4", "turbo3"), ("turbo3", "turbo3"), ("turbo2", "turbo2"), ("q8_0", "turbo4")]


def load(demo, k: str, v: str, **options) -> Model:
    options = {"n_ctx": 1024, "n_threads": 1} | options
    return Model(demo.target, mtp_head=demo.head, cache_type_k=k, cache_type_v=v, **options)


@pytest.mark.parametrize("k, v", PAIRS)
def test_drafting_does_not_change_greedy_text(demo, k: str, v: str):
    with load(demo, k, v) as model:
        for text in PROMPTS:
            prompt = model.tokenize(text)
            texts = {}
            for n in (0, 3):
                stream = model.generate(
                    prompt, max_tokens=150, temperature=0, num_speculative_tokens=n, ignore_eos=True
                )
                stream.text()
                texts[n] = stream.token_ids
            assert texts[0] == texts[3]


def test_a_prompt_gives_the_same_text_after_others(demo):
    """A quantised cache, rolled back and with its prefix reused."""
    with load(demo, "turbo4", "turbo3") as model:
        check_texts_repeat(model, PROMPTS[:2])


@pytest.mark.parametrize(
    "types",
    [("turbo4", "turbo3", None, None), ("turbo2", "turbo4", "f16", "q8_0"), ("f16", "q8_0", "turbo3", "turbo2")],
)
def test_memory_is_exact_to_the_byte(demo, types):
    k, v, k_swa, v_swa = types
    metadata = read_header(demo.target).metadata
    size = {kind: metadata[f"gemma4.attention.key_length{kind}"] for kind in ("", "_swa")}
    pattern = list(metadata["gemma4.attention.sliding_window_pattern"])
    owners = pattern[: len(pattern) - int(metadata["gemma4.attention.shared_kv_layers"])]
    heads = metadata["gemma4.attention.head_count_kv"]
    heads = list(heads) if isinstance(heads, np.ndarray) else [heads] * len(pattern)
    with load(demo, k, v, cache_type_k_swa=k_swa, cache_type_v_swa=v_swa, n_batch=64, max_num_seqs=1) as model:
        cells = {False: 1024, True: 192}  # a window of 64 and a batch of 64, each of which may begin within a page
        expected = 0
        for layer, sliding in enumerate(owners):
            bits = BITS[(k_swa if sliding else None) or k] + BITS[(v_swa if sliding else None) or v]
            expected += cells[bool(sliding)] * heads[layer] * size["_swa" if sliding else ""] * bits / 8
        assert model.info.cache_bytes == expected
        assert (model.info.cache_type_k_swa, model.info.cache_type_v_swa) == (k_swa or k, v_swa or v)
        stream = model.generate(PROMPTS[0], max_tokens=60, temperature=0, num_speculative_tokens=3, ignore_eos=True)
        stream.text()
        assert stream.stats.acceptance_rate > 0.5


def test_flash_attention_off_is_refused(demo):
    with pytest.raises(InvalidRequestError, match="flash attention"):
        load(demo, "f16", "turbo3", flash_attention=False)
    with pytest.raises(InvalidRequestError, match="flash attention"):
        load(demo, "f16", "f16", cache_type_v_swa="turbo3", flash_attention=False)


def test_an_unknown_type_is_refused(demo):
    with pytest.raises(InvalidRequestError, match="turbo5.*turbo4"):
        load(demo, "turbo5", "f16")


def test_without_the_rotation_loading_fails(demo):
    """llama.cpp switches it off silently on request; the formats are nothing without it."""
    code = (
        "import sys; from pyllama_mtp import Model, ModelLoadError\n"
        "Model(sys.argv[1], n_ctx=256, cache_type_k='q4_0', n_threads=1).close()\n"
        "try: Model(sys.argv[1], n_ctx=256, cache_type_k='turbo4', n_threads=1)\n"
        "except ModelLoadError as error: print(error)"
    )
    environment = os.environ | {"LLAMA_ATTN_ROT_DISABLE": "1"}
    command = [sys.executable, "-P", "-c", code, str(demo.target)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "turbo4" in done.stdout and "LLAMA_ATTN_ROT_DISABLE" in done.stdout


@pytest.mark.parametrize("number", [43, 44, 45])
def test_a_model_file_cannot_have_these_types(demo, tmp_path: Path, number: int):
    """They are types of memory: a file's tensor of that number is refused before llama.cpp sees it."""
    path = tmp_path / "turbo.gguf"
    shutil.copyfile(demo.target, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    assert int.from_bytes(data[at : at + 4], "little") == 8  # q8_0
    data[at : at + 4] = number.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=str(number)):
        Model(path, n_ctx=256)


@pytest.fixture(scope="module")
def divergence(demo):
    """KL divergence of the next-token distribution from the f16 cache's over 1,536 tokens, by types of K and V."""
    text = Path(pytest.__file__).with_name("__init__.py").read_text() + Path(np.__file__).read_text()

    def log_p(k: str, v: str) -> np.ndarray:
        with load(demo, k, v) as model:
            ids = model.tokenize(text)[:1536]
            x = np.concatenate([model.logits(ids[i : i + 512]) for i in range(0, 1536, 512)])
        return statistics.log_probabilities(x)

    reference = log_p("f16", "f16")
    return {t: statistics.divergence(reference, log_p(*t)) for t in [("q4_0", "q4_0"), *PAIRS[:4]]}


def test_turbo4_diverges_less_than_q4_0_at_fewer_bits(divergence):
    assert divergence["turbo4", "turbo4"] < 0.92 * divergence["q4_0", "q4_0"]


def test_fewer_bits_diverge_more_and_none_collapses(divergence):
    """Four times the error for a bit less; a mis-scaled codebook or a missing sign is far off."""
    four, mixed, three, two = (divergence[pair] for pair in PAIRS[:4])
    assert 0.002 < four < mixed < three < two < 0.35
    assert three < 5.5 * four

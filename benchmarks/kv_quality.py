"""What KV cache types cost in quality, on the embedded pair: divergence from f16, agreement, acceptance, memory.

KL: of the next-token distribution from that with an f16 cache, mean over tokens ± standard error. top-1: share of
tokens whose most probable successor is the same. acceptance: k = 3, temperature 0.8, completions of up to 30 files'
beginnings. n_q: the largest difference of a
logit, over the logits' standard deviation, between evaluating one token and four tokens at a time, at the end of
contexts of 60, 600 and 2,300 tokens.

    python benchmarks/kv_quality.py
"""

import argparse
import sysconfig
from importlib import resources
from pathlib import Path

import numpy as np

from pyllama_mtp import Model

TYPES = (
    ("f16", "f16"),
    ("q8_0", "q8_0"),
    ("q4_0", "q4_0"),
    ("turbo4", "turbo4"),
    ("turbo4", "turbo3"),
    ("turbo3", "turbo3"),
    ("turbo2", "turbo2"),
    ("q4_0", "q4_0", "q8_0", "q8_0"),
    ("turbo4", "turbo4", "q8_0", "q8_0"),
    ("turbo4", "turbo3", "q8_0", "q8_0"),
    ("turbo3", "turbo3", "q8_0", "q8_0"),
)  # K and V; also those of the sliding layers
PIECE = 1024
PROMPT, COMPLETION, N_COMPLETIONS = 200, 100, 30  # tokens, tokens, files
CONTEXTS = (60, 600, 2300)


def log_probabilities(model: Model, ids: list[int]) -> np.ndarray:
    """float64 [len(ids), n_vocab]: of the next token, each piece on its own."""
    pieces = [model.logits(ids[i : i + PIECE]) for i in range(0, len(ids), PIECE)]
    x = np.concatenate(pieces).astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def acceptance(model: Model, texts: list[str]) -> float:
    drafted = accepted = 0
    for seed, text in enumerate(texts):
        prompt = model.tokenize(text)[:PROMPT]
        options = {"temperature": 0.8, "seed": seed, "num_speculative_tokens": 3, "ignore_eos": True}
        stream = model.generate(prompt, max_tokens=COMPLETION, **options)
        stream.text()
        drafted += stream.stats.drafted
        accepted += stream.stats.accepted
    return accepted / drafted


def batch_error(model: Model, ids: list[int]) -> float:
    one, four = (model.logits(ids, n_batch=n)[-4:] for n in (1, 4))
    return float(np.abs(one - four).max() / one.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument(
        "--text", type=Path, nargs="*", help="files to read (default: Python source beside the library)"
    )
    args = parser.parse_args()
    packages = Path(sysconfig.get_paths()["purelib"])
    files = args.text or sorted((packages / "pip" / "_internal").rglob("*.py"))
    texts = [text for path in files if len(text := path.read_text(encoding="utf-8")) > 4 * PROMPT]
    text = "\n".join(texts)
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    print("| K, V (sliding K, V) | KL | to q4_0's | top-1 | acceptance | cache bytes | n_q 1 and 4 at 60, 600, 2300 |")
    print("|---|---|---|---|---|---|---|")
    reference, q4_0 = None, None
    for types in TYPES:
        k, v, k_swa, v_swa = types if len(types) == 4 else (*types, None, None)
        options = {"cache_type_k": k, "cache_type_v": v, "cache_type_k_swa": k_swa, "cache_type_v_swa": v_swa}
        options |= {"n_threads": 1, "n_ctx": 2560}
        with Model(demo / "target.gguf", mtp_head=demo / "assistant.gguf", **options) as model:
            ids = model.tokenize(text)[: args.tokens]
            log_p = log_probabilities(model, ids)
            reference = log_p if reference is None else reference
            kl = (np.exp(reference) * (reference - log_p)).sum(axis=1)
            q4_0 = kl.mean() if types == ("q4_0", "q4_0") else q4_0
            cells = [
                f"{k}, {v}" + (f" ({k_swa}, {v_swa})" if k_swa else ""),
                f"{kl.mean():.4f} ± {kl.std() / np.sqrt(len(kl)):.4f}",
                f"{kl.mean() / q4_0:.2f}" if q4_0 else "",
                f"{(log_p.argmax(axis=1) == reference.argmax(axis=1)).mean():.3f}",
                f"{acceptance(model, texts[:N_COMPLETIONS]):.3f}",
                str(model.info.cache_bytes),
                ", ".join(f"{batch_error(model, ids[:n]):.4f}" for n in CONTEXTS),
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

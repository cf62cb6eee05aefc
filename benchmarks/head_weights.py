"""What quantising the MTP head costs in drafts: the embedded pair, its head through llama.cpp's quantiser.

    python benchmarks/head_weights.py

Acceptance of three greedy drafts after every third token of texts that the target wrote at temperature 0.7, the same
for every head, and its difference from the unquantised head's with a standard error.
"""

import sys
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from pyllama_mtp import Model, _native
from pyllama_mtp.bench.kv import accepted_after
from pyllama_mtp.convert.assistant import MIXTURES
from support.devices import run
from support.prompts import PROMPTS

DRAFTS = 3
STRIDE = 3
TOKENS = 400


def main() -> None:
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    target, head = demo / "target.gguf", demo / "assistant.gguf"
    with Model(target, n_ctx=1024, sampling_defaults="vllm") as model:
        texts = [model.tokenize(p) + run(model, p, 0, n=TOKENS, seed=1, temperature=0.7)[0] for p in PROMPTS]
    print("| weights | bytes | acceptance | less |\n|---|---|---|---|")
    plain = None
    with tempfile.TemporaryDirectory() as folder:
        for mixture in ("f16", *MIXTURES):
            path = head
            if mixture != "f16":
                path = Path(folder) / f"{mixture}.gguf"
                _native.quantize(head, path, mixture, 1)
            with Model(target, mtp_head=path, n_ctx=1024) as model:
                rates = accepted_after(model, texts, DRAFTS, STRIDE) / DRAFTS
            plain = rates if plain is None else plain
            error = np.std(rates - plain) / len(rates) ** 0.5
            less = f"{np.mean(rates - plain):+.3f} ± {error:.3f}" if mixture != "f16" else ""
            print(f"| {mixture} | {path.stat().st_size} | {rates.mean():.3f} | {less} |", flush=True)


if __name__ == "__main__":
    main()

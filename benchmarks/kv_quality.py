"""What KV cache types cost on the embedded pair: `pyllama-mtp bench --kv` with source code that it has not seen.

python benchmarks/kv_quality.py
"""

import sysconfig
from importlib import resources
from pathlib import Path

from pyllama_mtp.bench import kv

TYPES = (
    "q8_0,q4_0,turbo4,turbo4/turbo3,turbo3,turbo2,"
    "q4_0/q4_0/q8_0/q8_0,turbo4/turbo4/q8_0/q8_0,turbo4/turbo3/q8_0/q8_0,turbo3/turbo3/q8_0/q8_0"
)
N_TEXTS, LEAST_CHARACTERS = 30, 800


def main() -> None:
    packages = Path(sysconfig.get_paths()["purelib"])
    files = sorted((packages / "pip" / "_internal").rglob("*.py"))
    texts = [text for text in kv.read_texts(files) if len(text) > LEAST_CHARACTERS][:N_TEXTS]
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    pair = demo / "target.gguf", demo / "assistant.gguf"
    rows = kv.compare(*pair, kv.parse_cache_types(TYPES), texts, 4096, n_threads=1)
    print(kv.table(list(rows)))


if __name__ == "__main__":
    main()

"""What KV cache types cost on the embedded pair: `pyllama-mtp bench --kv` with source code that it has not seen.

python benchmarks/kv_quality.py [--types turbo4,turbo4/turbo3 --tokens 20480 --texts 60]
"""

import argparse
import sysconfig
from importlib import resources
from pathlib import Path

from pyllama_mtp.bench import kv

TYPES = (
    "q8_0,q4_0,turbo4,turbo4/turbo3,turbo3,turbo2,"
    "q4_0/q4_0/q8_0/q8_0,turbo4/turbo4/q8_0/q8_0,turbo4/turbo3/q8_0/q8_0,turbo3/turbo3/q8_0/q8_0"
)
LEAST_CHARACTERS = 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--texts", type=int, default=30, help="files, at most")
    args = parser.parse_args()
    packages = Path(sysconfig.get_paths()["purelib"])
    files = sorted((packages / "pip" / "_internal").rglob("*.py"))
    texts = [text for text in kv.read_texts(files) if len(text) > LEAST_CHARACTERS][: args.texts]
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    pair = demo / "target.gguf", demo / "assistant.gguf"
    rows = kv.compare(*pair, kv.parse_cache_types(args.types), texts, args.tokens, n_threads=1)
    print(kv.table(list(rows)))


if __name__ == "__main__":
    main()

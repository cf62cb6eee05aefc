"""What each acceptance rule accepts, on the embedded pair: tokens a round and first drafts accepted, over temperatures.

Every rule completes the same prompts with its own random texts of the same distribution, three drafts a round.
Prints a Markdown table; the rate "greedy draft, compared" is how often a sampled token is the head's most probable one,
which is what rejection_greedy accepts its first draft with.

    python benchmarks/acceptance.py
"""

import argparse
import math
from importlib import resources
from pathlib import Path

from pyllama_mtp import Model

RULES = ("coupled", "rejection", "rejection_greedy", "block")
PROMPTS = (
    "def read_config(path):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\nimport ",
    "def main():\n    parser = argparse.ArgumentParser(",
    "for line in lines:\n",
    "    try:\n        return self.",
)


def measure(model: Model, rule: str, temperature: float, top_p: float, completions: int) -> dict[str, float]:
    """tokens: a round; error: its standard error over completions; first: share of first drafts accepted; sample_ms
    and round_ms: a round.
    """
    lengths, first, sample, seconds, rounds = [], 0.0, 0.0, 0.0, 0
    for i in range(completions):
        stream = model.generate(
            PROMPTS[i % len(PROMPTS)],
            max_tokens=200,
            temperature=temperature,
            top_p=top_p,
            seed=i,
            num_speculative_tokens=3,
            acceptance=rule,
            ignore_eos=True,
        )
        stream.text()
        stats = stream.stats
        lengths.append((stats.completion_tokens - 1) / stats.rounds)
        first += stats.acceptance_per_position[0] * stats.rounds
        sample += stats.sample_seconds
        seconds += stats.decode_seconds
        rounds += stats.rounds
    mean = sum(lengths) / len(lengths)
    variance = sum((x - mean) ** 2 for x in lengths) / (len(lengths) - 1)
    return {
        "tokens": mean,
        "error": math.sqrt(variance / len(lengths)),
        "first": first / rounds,
        "sample_ms": sample / rounds * 1e3,
        "round_ms": seconds / rounds * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=120, help="a rule and temperature (default: %(default)s)")
    args = parser.parse_args()
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    print("| temperature, top_p | " + " | ".join(RULES) + " |\n|---" + "|---" * len(RULES) + "|")
    with Model(demo / "target.gguf", mtp_head=demo / "assistant.gguf", n_ctx=512, n_threads=1) as model:
        for temperature, top_p in ((0.3, 1), (0.6, 1), (0.6, 0.95), (0.8, 1), (1.0, 1), (1.0, 0.95), (1.2, 1)):
            cells = []
            for rule in RULES:
                m = measure(model, rule, temperature, top_p, args.completions)
                cells.append(f"{m['tokens']:.2f} ± {m['error']:.2f}, {m['first']:.2f}, {m['sample_ms']:.3f} ms")
            print(f"| {temperature}, {top_p} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""num_speculative_tokens="auto" against fixed numbers, in alternating pairs of completions: median ratio of tokens per
second and its 95 % interval (order statistics).

On the embedded pair drafting does not pay; there auto must cost nothing. With --target and --mtp-head (random weights
at a released model's shape will do) acceptance is forced: well predicted and badly predicted text.

    python benchmarks/draft_length.py [--target target.gguf --mtp-head assistant.gguf --n-threads 2]
"""

import argparse
import statistics
from importlib import resources
from pathlib import Path

from pyllama_mtp import Model

GOOD = [0.868, 0.765, 0.687, 0.617, 0.554, 0.497, 0.447, 0.401]  # published for k = 3, continued
BAD = [0.05, 0.002]
PROMPT = list(range(1000, 1060))


def speed(model: Model, prompt: str | list[int], k: int | str, seed: int, max_tokens: int, rates: list[float]) -> float:
    stream = model.generate(
        prompt,
        max_tokens=max_tokens,
        temperature=0,
        seed=seed,
        ignore_eos=True,
        num_speculative_tokens=k,
        synthetic_acceptance=rates,
    )
    stream.text()
    return stream.stats.tokens_per_second


def compare(model, name: str, prompt, k: int | str, pairs: int, max_tokens: int, rates: list[float]) -> None:
    """Prints auto's speed over k's; the first two pairs are not counted."""
    ratios = []
    for seed in range(pairs + 2):
        auto, fixed = (speed(model, prompt, n, seed, max_tokens, rates) for n in ("auto", k))
        ratios.append(auto / fixed)
    ratios = sorted(ratios[2:])
    skip = max(0, int(0.5 * pairs - 0.98 * pairs**0.5))  # ranks of the median's 95 % interval, normal approximation
    low, high = ratios[skip], ratios[-1 - skip]
    print(f"{name}: auto / k={k}: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}), {pairs} pairs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--mtp-head", type=Path)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--fixed", type=int, nargs="+", default=[2, 3, 4, 5, 6], help="compared on well predicted text")
    args = parser.parse_args()
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    with Model(demo / "target.gguf", mtp_head=demo / "assistant.gguf", n_ctx=512, n_threads=1) as model:
        compare(model, "embedded pair", "def main():\n", 0, args.pairs, 400, [])
    if args.target is not None:
        with Model(args.target, mtp_head=args.mtp_head, n_ctx=512, n_threads=args.n_threads) as model:
            for k in args.fixed:
                compare(model, "well predicted", PROMPT, k, args.pairs, args.max_tokens, GOOD)
            compare(model, "badly predicted", PROMPT, 0, args.pairs, args.max_tokens, BAD)


if __name__ == "__main__":
    main()

"""What a round costs at a released model's exact shape, with random weights: plain decode, verify batch, draft,
sampling.

Nothing is accepted with random weights, so every round drafts k tokens, verifies k + 1 rows and emits one token. Plain
and drafted runs alternate; medians of runs, and the median of the pairwise ratios, are printed.

    python benchmarks/round_cost.py --shape e2b --num-speculative-tokens 3 --n-threads 2
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from pyllama_mtp import Model, Stats
from pyllama_mtp.gemma4_layout import SHAPES
from pyllama_mtp.random_weights import WEIGHT_TYPES, write_assistant, write_target


def pair_files(folder: Path, shape: str, weights: str) -> tuple[Path, Path]:
    """The pair of a shape; written once."""
    folder.mkdir(parents=True, exist_ok=True)
    target, head = folder / f"{shape}-{weights}.gguf", folder / f"{shape}-{weights}-assistant.gguf"
    if not target.exists():
        write_target(target, SHAPES[shape], weights=weights)
    if not head.exists():
        write_assistant(head, SHAPES[shape], weights=weights)
    return target, head


def milliseconds_a_round(stats: Stats) -> dict[str, float]:
    parts = {"draft": stats.draft_seconds, "verify": stats.verify_seconds, "sample": stats.sample_seconds}
    parts["rest"] = stats.decode_seconds - sum(parts.values())
    return {name: seconds / stats.rounds * 1e3 for name, seconds in parts.items()}


def run(model: Model, k: int, tokens: int, context: int) -> dict[str, float]:
    prompt = [1000 + i % 5000 for i in range(context)]
    stream = model.generate(prompt, max_tokens=tokens + 1, temperature=0, num_speculative_tokens=k, ignore_eos=True)
    stream.text()
    return milliseconds_a_round(stream.stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="e2b")
    parser.add_argument("--weights", choices=WEIGHT_TYPES, default="q4_0")
    parser.add_argument("--num-speculative-tokens", type=int, default=3, metavar="K")
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=100, help="prompt tokens (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens a run")
    parser.add_argument("--pairs", type=int, default=9, help="counted pairs of runs, after one that is not")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "pyllama-mtp-shapes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    target, head = pair_files(args.folder, args.shape, args.weights)
    n_ctx = args.context + args.tokens + 64
    k = args.num_speculative_tokens
    plain, drafted = [], []
    with Model(target, mtp_head=head, n_ctx=n_ctx, n_threads=args.n_threads) as model:
        for pair in range(args.pairs + 1):
            a, b = run(model, 0, args.tokens, args.context), run(model, k, args.tokens, args.context)
            if pair > 0:
                plain.append(a)
                drafted.append(b)

    def median(runs: list[dict[str, float]], part: str) -> float:
        return statistics.median(r[part] for r in runs)

    result = {
        "shape": args.shape,
        "weights": args.weights,
        "k": k,
        "n_threads": args.n_threads,
        "context": args.context,
        "plain_decode_ms": median(plain, "verify"),
        "verify_ms": median(drafted, "verify"),
        "draft_ms": median(drafted, "draft"),
        "sample_ms": median(drafted, "sample"),
        "rest_ms": median(drafted, "rest"),
        "round_less_verify_ms": statistics.median(sum(d.values()) - d["verify"] for d in drafted),
        "verify_over_decode": statistics.median(d["verify"] / p["verify"] for d, p in zip(drafted, plain, strict=True)),
    }
    for name, value in result.items():
        print(f"{name:22} {value:.2f}" if isinstance(value, float) else f"{name:22} {value}")
    if args.json:
        args.json.write_text(json.dumps(result | {"plain_runs": plain, "drafted_runs": drafted}, indent=1))


if __name__ == "__main__":
    main()

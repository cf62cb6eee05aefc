"""Two builds of this package, each installed in an environment of its own, in alternating completions on one machine:
medians of the ratios new / old and their 95 % intervals (order statistics).

    python benchmarks/builds.py OLD/bin/python NEW/bin/python --target target.gguf --mtp-head assistant.gguf

Both builds keep the pair loaded; while one completes, the other one's threads have gone to sleep. Acceptance is forced
with --rates, the draft length fixed. "around verify" is what a round takes beside its verify batch: drafting, choosing,
and the rest.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROMPT = list(range(1000, 1060))
SETTLE_SECONDS = 0.05


def complete(model, k: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a token and, of rounds that draft, seconds of their parts."""
    stream = model.generate(
        PROMPT,
        max_tokens=args.max_tokens,
        temperature=0,
        ignore_eos=True,
        num_speculative_tokens=k,
        synthetic_acceptance=args.rates[:k],
    )
    stream.text()
    stats = stream.stats
    figures = {"token": stats.decode_seconds / (stats.completion_tokens - 1)}
    if k > 0:
        figures["verify"] = stats.verify_seconds / stats.rounds
        figures["around verify"] = (stats.decode_seconds - stats.verify_seconds) / stats.rounds
    return figures


def work(args: argparse.Namespace) -> None:
    """The process of one build: reads draft lengths, answers with figures."""
    from pyllama_mtp import Model

    with Model(args.target, mtp_head=args.mtp_head, n_ctx=512, n_threads=args.n_threads) as model:
        for line in sys.stdin:
            print(json.dumps(complete(model, int(line), args)), flush=True)


class Build:
    """A process that runs `work` with another interpreter."""

    def __init__(self, python: str) -> None:
        command = [python, "-P", __file__, *sys.argv[1:], "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def complete(self, k: int) -> dict[str, float]:
        self.process.stdin.write(f"{k}\n")
        self.process.stdin.flush()
        figures = json.loads(self.process.stdout.readline())
        time.sleep(SETTLE_SECONDS)
        return figures


def interval(ratios: list[float]) -> str:
    ratios = sorted(ratios)
    skip = max(0, int(0.5 * len(ratios) - 0.98 * len(ratios) ** 0.5))  # ranks of the median's 95 % interval
    return f"{statistics.median(ratios):.3f} ({ratios[skip]:.3f} to {ratios[-1 - skip]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--mtp-head", type=Path, required=True)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--k", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--rates", type=float, nargs="*", default=[0.868, 0.765, 0.687])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    builds = [Build(args.old), Build(args.new)]
    for k in args.k:
        ratios: dict[str, list[float]] = {}
        for pair in range(args.pairs + 1):
            order = builds if pair % 2 == 0 else builds[::-1]
            figures = {build: build.complete(k) for build in order}
            for name, old in figures[builds[0]].items():
                if pair > 0:  # the first warms up
                    ratios.setdefault(name, []).append(figures[builds[1]][name] / old)
        for name, values in ratios.items():
            print(f"k={k} seconds, {name}: {interval(values)} of the old build, {args.pairs} pairs", flush=True)
    for build in builds:
        build.process.stdin.close()
        build.process.wait()


if __name__ == "__main__":
    main()

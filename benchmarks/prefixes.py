"""What the cache of prefixes saves and costs: the time to the first token of a conversation's second turn over that of
a cold one; the time of a single completion with windows being saved over that without; memory of several completions.

    python benchmarks/prefixes.py [--target target.gguf --mtp-head assistant.gguf --pairs 25]

Turns and completions alternate; medians of ratios with their 95 % intervals (order statistics). The second turn comes
after --history tokens and an answer of --answer; the first 64 tokens of that answer are not in the history. Memory is
resident: --sequences completions of 512 tokens together over one, in processes of their own, less their KV cells.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

STRIPPED = 64


def interval(values: list[float]) -> str:
    ordered = sorted(values)
    skip = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return f"{statistics.median(ordered):.3f} ({ordered[skip]:.3f} to {ordered[-1 - skip]:.3f})"


def first_token(model, ids: list[int]) -> tuple[float, int]:
    begin = time.perf_counter()
    with model.generate(ids, max_tokens=1, temperature=0, ignore_eos=True) as stream:
        stream.text()
        return time.perf_counter() - begin, stream.stats.cached_prompt_tokens


def text(n: int, seed: int) -> list[int]:
    """Tokens that a vocabulary of 1024 has, different ones for each seed."""
    generator = random.Random(seed)
    return [2, *(generator.randrange(300, 1000) for _ in range(n - 1))]


def turns(args: argparse.Namespace) -> None:
    from pyllama_mtp import Model

    ratios, cached = [], 0
    with Model(args.target, mtp_head=args.mtp_head, n_ctx=4096, n_threads=2) as model:
        for i in range(args.turns):
            history = text(args.history, i)
            with model.generate(history, max_tokens=args.answer, temperature=0, ignore_eos=True) as stream:
                stream.text()
                answer = stream.token_ids
            warm, cached = first_token(model, [*history, *answer[STRIPPED:], *text(100, i)[1:]])
            cold, _ = first_token(model, [*text(args.history, 1000 + i), *answer[STRIPPED:], *text(100, i)[1:]])
            ratios.append(warm / cold)
    print(f"time to the first token of the second turn, warm over cold: {interval(ratios)}; {cached} tokens cached")


def costs(args: argparse.Namespace) -> None:
    from pyllama_mtp import Model

    def seconds(model, i: int) -> float:
        begin = time.perf_counter()
        options = {"temperature": 0, "ignore_eos": True, "num_speculative_tokens": 3}
        model.generate(text(args.prompt, i), max_tokens=args.max_tokens, **options).text()
        return time.perf_counter() - begin

    load = {"mtp_head": args.mtp_head, "n_ctx": 2048, "n_threads": 2}
    with Model(args.target, **load) as saving, Model(args.target, prefix_cache_bytes=0, **load) as plain:
        seconds(saving, 0), seconds(plain, 0)
        ratios = [seconds(saving, i) / seconds(plain, i) for i in range(1, args.pairs + 1)]
    print(f"a single completion with windows saved over without: {interval(ratios)}")


def resident(n: int, args: argparse.Namespace) -> dict[str, float]:
    """In a process of its own."""
    command = [sys.executable, "-P", __file__, *sys.argv[1:], "--resident", str(n)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def measure_resident(n: int, args: argparse.Namespace) -> None:
    from pyllama_mtp import Model

    with Model(args.target, mtp_head=args.mtp_head, n_ctx=512, n_threads=2, max_num_seqs=8) as model:
        prompts = [text(64, i) for i in range(n)]
        options = {"max_tokens": 448, "temperature": 0, "ignore_eos": True, "num_speculative_tokens": 3}
        for _ in model.generate_all(prompts, **options):
            pass
        status = Path("/proc/self/status").read_text()
        kilobytes = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        print(json.dumps({"resident": kilobytes / 1024, "cache": model.info.cache_bytes / 2**20}))


def main() -> None:
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=str(demo / "target.gguf"))
    parser.add_argument("--mtp-head", default=str(demo / "assistant.gguf"))
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--history", type=int, default=3000)
    parser.add_argument("--answer", type=int, default=650)
    parser.add_argument("--prompt", type=int, default=200, help="tokens of a single completion's prompt")
    parser.add_argument("--max-tokens", type=int, default=100, help="of a single completion")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--resident", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.resident is not None:
        measure_resident(args.resident, args)
        return
    if args.turns:
        turns(args)
    if args.pairs:
        costs(args)
    one, several = resident(1, args), resident(args.sequences, args)
    cells = several["cache"] * (args.sequences - 1) / 8
    more = several["resident"] - one["resident"]
    print(f"{args.sequences} completions take {more:.0f} MiB more than one, their cells {cells:.0f}")


if __name__ == "__main__":
    main()

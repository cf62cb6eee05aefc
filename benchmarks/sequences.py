"""Tokens per second of several completions together, of all of them, beside one; and of llama.cpp's server with as many
slots, with its MTP and without drafts.

    python benchmarks/sequences.py --target target.gguf --mtp-head assistant.gguf [--n 1 2 4 8 --rounds 5 --no-peer]

Every engine is a process of its own that is stopped while another one is measured; they take turns. Prompts are short,
so that nearly all of the time goes into rounds. Acceptance is forced: of the first draft, of the first two ... with
--rates; further ones of "auto" go on falling alike. Ours count the tokens that what was drafted gives on average.
Medians and, in brackets, the ratio to one completion with three drafts.
"""

import argparse
import json
import operator
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PROMPT_TOKENS = 8


def prompt(i: int) -> list[int]:
    return [2, *range(1000 + 50 * i, 1000 + 50 * i + PROMPT_TOKENS - 1)]


def ours(args: argparse.Namespace) -> Callable[[int, str], float]:
    from pyllama_mtp import Model
    from pyllama_mtp.bench.settings import extended_rates

    model = Model(
        args.target, mtp_head=args.mtp_head, n_ctx=args.n_ctx, n_threads=args.n_threads, max_num_seqs=max(args.n)
    )

    def run(n: int, k: str) -> float:
        drafts: Any = k if k == "auto" else int(k)
        rates = extended_rates(args.rates, 16 if k == "auto" else int(k))
        begin = time.perf_counter()
        results = list(
            model.generate_all(
                [prompt(i) for i in range(n)],
                max_tokens=args.max_tokens,
                temperature=0,
                ignore_eos=True,
                num_speculative_tokens=drafts,
                synthetic_acceptance=rates,
            )
        )
        seconds = time.perf_counter() - begin
        # How many drafts some thirty rounds accept is chance: a tenth more or less.
        forced = [s.rounds + sum(map(operator.mul, s.drafted_per_position, rates)) for s in (r.stats for r in results)]
        return sum(forced) / seconds

    return run


def peer(args: argparse.Namespace, mtp: bool) -> Callable[[int, str], float]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args.target
    params.n_parallel = max(args.n)
    params.n_ctx = args.n_ctx * params.n_parallel
    params.fit_params = False
    params.n_ctx_checkpoints = 0
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.n_threads
    if mtp:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        draft = params.speculative.draft
        draft.mparams.path = args.mtp_head
        draft.n_max, draft.n_min, draft.p_min = 3, 0, 0.0
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = args.n_threads
        params.speculative.synth_rates = args.rates
    server = xllamacpp.Server(params)

    def run(n: int, _: str) -> float:
        answers: list[Any] = []

        def complete(i: int) -> None:
            request = {"prompt": prompt(i), "max_tokens": args.max_tokens, "temperature": 0, "ignore_eos": True}
            answers.append(server.handle_completions(request | {"cache_prompt": False}))

        threads = [threading.Thread(target=complete, args=(i,)) for i in range(n)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        passed = time.perf_counter() - begin
        return sum(answer["timings"]["predicted_n"] for answer in answers) / passed

    return run


ENGINES = {
    "ours": ours,
    "llama.cpp MTP": lambda args: peer(args, True),
    "llama.cpp plain": lambda args: peer(args, False),
}


def work(args: argparse.Namespace) -> None:
    """The process of one engine: reads (n, k), answers with tokens a second."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    run = ENGINES[args.engine](args)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), file=answers, flush=True)


class Engine:
    """A process that runs `work`, stopped while it is not asked."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-P", __file__, *sys.argv[1:], "--engine", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, n: int, k: str) -> float:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps([n, k]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.process.send_signal(signal.SIGSTOP)
        return float(answer)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--mtp-head", required=True)
    parser.add_argument("--n", type=int, nargs="+", default=[1, 2, 4, 8], help="completions together")
    parser.add_argument("--k", nargs="+", default=["auto", "3"], help="drafts a round")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.868, 0.765, 0.687])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--n-ctx", type=int, default=512, help="tokens of each; with layers on a GPU, of all together")
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true", help="without llama.cpp")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine is not None:
        work(args)
        return
    names = ["ours"] if args.no_peer else list(ENGINES)
    engines = {name: Engine(name) for name in names}
    runs = [(name, n, k) for n in args.n for name in names for k in (args.k if name == "ours" else ["3"])]
    speeds: dict[tuple[str, int, str], list[float]] = {run: [] for run in runs}
    try:
        for name in names:  # loads, and learns what steps cost
            for k in args.k if name == "ours" else ["3"]:
                engines[name].run(max(args.n), k)
        for _ in range(args.rounds):
            for name, n, k in runs:
                speeds[name, n, k].append(engines[name].run(n, k))
    finally:
        for engine in engines.values():
            engine.end()
    medians = {run: statistics.median(values) for run, values in speeds.items()}
    one = medians.get(("ours", 1, "3"))
    for (name, n, k), speed in medians.items():
        drafts = f", k={k}" if name == "ours" else ""
        print(f"{n} of {name}{drafts}: {speed:.1f} tokens/s" + (f" ({speed / one:.2f})" if one else ""))


if __name__ == "__main__":
    main()

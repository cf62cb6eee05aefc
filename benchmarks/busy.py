"""Tokens per second beside busy processes, with the default number of threads and with fixed ones.

Every run is a new process: it loads the pair, starts a completion, and counts tokens from 50 ms after that start on,
so that what it costs to notice the neighbours counts. Neighbours are busy loops. Runs alternate; medians are printed,
and the ratio to the best fixed number of threads. --cpus confines all of them to that many CPUs, of a larger machine.

    python benchmarks/busy.py [--cpus 2 --neighbours 0 1 2 --threads 1 2 4 --rounds 9]
    python benchmarks/busy.py --python old/bin/python new/bin/python      two installations, alternating
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

SKIPPED = 0.05  # seconds after the start of the completion

Run = tuple[str, int, int | None]  # interpreter, neighbours, threads


def work(target: str, head: str, n_threads: int | None, seconds: float) -> float:
    """Tokens per second of one completion after another, greedy, with three drafts a round."""
    from pyllama_mtp import Model

    tokens, begin = 0, 0.0
    with Model(target, mtp_head=head, n_ctx=2048, n_threads=n_threads, num_speculative_tokens=3) as model:
        begin = time.perf_counter()
        while True:
            for chunk in model.generate("def main():\n", max_tokens=2000, temperature=0, ignore_eos=True):
                passed = time.perf_counter() - begin
                if passed > seconds:
                    return tokens / (passed - SKIPPED)
                if passed > SKIPPED:
                    tokens += len(chunk.token_ids)


def measure(run: Run, arguments: argparse.Namespace) -> float:
    interpreter, n_neighbours, n_threads = run
    with ExitStack() as stack:
        for _ in range(n_neighbours):
            neighbour = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(neighbour.kill)
        time.sleep(0.3)
        request = [arguments.target, arguments.mtp_head, n_threads, arguments.seconds]
        command = [interpreter, "-P", __file__, "--work", json.dumps(request)]
        return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    parser.add_argument("--target", default=str(demo / "target.gguf"))
    parser.add_argument("--mtp-head", default=str(demo / "assistant.gguf"))
    parser.add_argument("--cpus", type=int, help="CPUs for all processes together; default: all")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, 2, 4 ... twice the CPUs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters that have the package")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        print(work(*json.loads(args.work)))
        return
    if args.cpus is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cpus])
    cpus = len(os.sched_getaffinity(0))
    threads = args.threads or sorted({2**i for i in range(20) if 2**i < 2 * cpus} | {2 * cpus})
    runs = [(python, n, t) for n in args.neighbours for python in args.python for t in (None, *threads)]
    speeds: dict[Run, list[float]] = {run: [] for run in runs}
    for _ in range(args.rounds):
        for run in runs:
            speeds[run].append(measure(run, args))
    medians = {run: statistics.median(values) for run, values in speeds.items()}
    print(f"tokens/s on {cpus} CPUs, medians of {args.rounds} runs")
    for n in args.neighbours:
        for python in args.python:
            best = max(medians[python, n, t] for t in threads)
            cells = [f"{t or 'default'}: {(m := medians[python, n, t]):.0f} ({m / best:.2f})" for t in (None, *threads)]
            print(f"{n} busy, {python}: " + ", ".join(cells), flush=True)


if __name__ == "__main__":
    main()

"""How long loads take and what memory they leave in use, of several builds of this package, each installed in an
environment of its own: fresh processes by turns on one machine, medians with their 95 % intervals (order statistics).

    python benchmarks/loading.py OLD/bin/python NEW/bin/python --target target.gguf --mtp-head assistant.gguf

The files are read once before, so that the system holds them. "load" is Model(...), "processor" the seconds that all
threads of the process took for it, "resident" what the process has in memory afterwards, of which "mapped" are pages of
files.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def work(args: argparse.Namespace) -> None:
    """The process of one load."""
    from pyllama_mtp import Model

    processor, wall = processor_seconds(), time.perf_counter()
    with Model(args.target, mtp_head=args.mtp_head, n_threads=args.n_threads):
        figures = {"load": time.perf_counter() - wall, "processor": processor_seconds() - processor}
        rows = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        sizes = {name: int(rows[name].split()[0]) * 1024 / 1e9 for name in ("Rss", "Anonymous")}
    print(json.dumps(figures | {"resident": sizes["Rss"], "mapped": sizes["Rss"] - sizes["Anonymous"]}))


def load(python: str) -> dict[str, float]:
    command = [python, "-P", __file__, *sys.argv[1:], "--worker"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def median(values: list[float]) -> str:
    values = sorted(values)
    skip = max(0, int(0.5 * len(values) - 0.98 * len(values) ** 0.5))  # ranks of the median's 95 % interval
    return f"{statistics.median(values):6.2f} ({values[skip]:.2f} to {values[-1 - skip]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="+", help="their interpreters")
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--mtp-head", type=Path)
    parser.add_argument("--n-threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args)
    for path in filter(None, (args.target, args.mtp_head)):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    runs: dict[str, list[dict[str, float]]] = {build: [] for build in args.builds}
    for number in range(args.rounds):
        for build in args.builds[:: 1 if number % 2 == 0 else -1]:
            runs[build].append(load(build))
    for build, figures in runs.items():
        print(build)
        for name, unit in (("load", "s"), ("processor", "s"), ("resident", "GB"), ("mapped", "GB")):
            print(f"  {name:10}{median([run[name] for run in figures])} {unit}")
    return None


if __name__ == "__main__":
    main()

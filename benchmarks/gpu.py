"""Builds, checks and times everything on a GPU in one call, against plain decoding and llama.cpp's own MTP.

    python benchmarks/gpu.py --archive xllamacpp-2026.10.11549.tar.gz --folder /tmp/gpu
    python benchmarks/gpu.py --folder /tmp/gpu --parts table --shapes e2b,12b --weights q4_0,q4_k_m --no-peer

Random weights at released shapes, greedy, 100 tokens of context. Acceptance is forced on both sides: .868/.765/.687 of
the rounds accept the first draft, the first two, all three. The peer is llama-server of the same source, unmodified,
with its CPU or its backend sampling, whichever is faster. Ours plain, ours drafting, theirs plain and theirs drafting
alternate; figures are medians, ratios are taken run by run. How many tokens a few hundred rounds give is chance, so
rates and ratios use the expected number, 1 + the sum of the forced rates, on both sides; milliseconds are measured.
Drafts and the rows that verify them are queued together, so verify ms hold both; CUDA_LAUNCH_BLOCKING=1 parts them.

The table has a row for each shape, type of weights and number of drafts. A folder with `site`, this package, or with
`peer-build/bin/llama-server` is used as it is; otherwise they are built, which needs nvcc, cmake and ninja, and,
installed in the environment, scikit-build-core, pytest and the package's dependencies: a GPU machine may have no
network. Several completions together are measured by sequences.py.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gpu_ours import PROMPT, our_round, time_caches, time_sampling
from gpu_peer import CMAKE_OPTIONS, build_peer, peer_round_ms, serving

ROOT = Path(__file__).resolve().parent.parent
RATES = (0.868, 0.765, 0.687)
SWEEPS = {"26b-a4b": (1, 2, 3)}  # else k = 3
PARTS = ("checks", "table", "sampling", "caches")


def build_ours(archive: Path, folder: Path, architectures: str) -> None:
    """The package for PYTHONPATH, in folder / site."""
    options = [*CMAKE_OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={architectures}", f"-DLLAMA_CPP_ARCHIVE={archive}"]
    settings = [f"--config-settings=cmake.define.{option[2:]}" for option in options]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--upgrade"]
    subprocess.run([*pip, "--target", folder / "site", *settings, ROOT], check=True)


def copy_bandwidth() -> float:
    """Bytes a second of a copy of 1 GiB on the device, read and written bytes counted; 0 without the CUDA runtime."""
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            cuda = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return 0.0
    size = ctypes.c_size_t(1 << 30)
    a, b = ctypes.c_void_p(), ctypes.c_void_p()
    if cuda.cudaMalloc(ctypes.byref(a), size) or cuda.cudaMalloc(ctypes.byref(b), size):
        return 0.0
    seconds = []
    for _ in range(12):
        begin = time.perf_counter()
        cuda.cudaMemcpy(a, b, size, 3)
        cuda.cudaDeviceSynchronize()
        seconds.append(time.perf_counter() - begin)
    cuda.cudaFree(a)
    cuda.cudaFree(b)
    return 2 * size.value / statistics.median(seconds[2:])


def device_weights(placement: str) -> float:
    """Bytes of the target's weights on GPUs."""
    parts = [part for part in placement.split("; ") if part.startswith("CUDA") and not part.startswith("CUDA_Host")]
    return sum(float(part.split("weights ")[1].split(" MiB")[0]) for part in parts) * 2**20


def write_pair(shape: str, weights: str, folder: Path, layers: int | None) -> tuple[Path, Path]:
    from pyllama_mtp.bench.shapes import random_pair

    return random_pair(shape, weights, folder / "models", n_layers=layers)


def time_pair(shape: str, weights: str, args: argparse.Namespace, server: Path | None) -> list[dict[str, Any]]:
    """One row of the table for each k; server: the peer's, or None."""
    from pyllama_mtp import Model

    target, head = write_pair(shape, weights, args.folder, args.layers)
    rows = []

    def theirs(url: str | None) -> float | None:
        if url is None:
            return None
        return min(peer_round_ms(url, PROMPT, args.tokens, backend) for backend in (False, True))

    with ExitStack() as stack:
        model = stack.enter_context(Model(target, mtp_head=head, n_ctx=1024, n_threads=args.n_threads))
        plain_url = server and stack.enter_context(serving(server, target, None, (), args.folder / "plain.log"))
        for k in args.k or SWEEPS.get(shape, (3,)):
            with ExitStack() as drafting:
                log = args.folder / "mtp.log"
                mtp_url = server and drafting.enter_context(serving(server, target, head, RATES[:k], log))
                runs = []
                for _ in range(args.pairs + 1):
                    plain, mtp = theirs(plain_url), theirs(mtp_url)
                    ours = (our_round(model, rates, args.tokens) for rates in ((), RATES[:k]))
                    runs.append((*ours, plain, mtp))
            gigabytes = device_weights(model.info.placement) / 1e9
            rows.append({"shape": shape, "weights": weights, "k": k, "gb": gigabytes} | summary(k, runs[1:]))
            print(format_row(rows[-1]), flush=True)
    if args.remove:
        target.unlink()
        head.unlink()
    return rows


def summary(k: int, runs: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Medians; times in milliseconds, rates in tokens a second."""
    tokens = 1 + sum(RATES[:k])
    plain, drafted, their_plain, their_mtp = zip(*runs, strict=True)
    round_ms = statistics.median(d["round"] for d in drafted)
    row = {
        "plain_ms": statistics.median(p["round"] for p in plain),
        **{f"{part}_ms": statistics.median(d[part] for d in drafted) for part in ("draft", "verify", "sample")},
        "verify_over_plain": statistics.median(d["verify"] / p["round"] for p, d, _, _ in runs),
        "round_ms": round_ms,
        "rate": tokens / round_ms * 1e3,
        "over_plain": statistics.median(tokens * p["round"] / d["round"] for p, d, _, _ in runs),
    }
    if None in their_plain:
        return row
    return row | {
        "their_plain_ms": statistics.median(their_plain),
        "their_round_ms": statistics.median(their_mtp),
        "plain_over_theirs": statistics.median(t / p["round"] for p, _, t, _ in runs),
        "over_their_plain": statistics.median(tokens * t / d["round"] for _, d, t, _ in runs),
        "over_their_mtp": statistics.median(t / d["round"] for _, d, _, t in runs),
    }


COLUMNS = {
    "shape": "shape",
    "weights": "weights",
    "k": "k",
    "plain_ms": "plain ms",
    "draft_ms": "draft ms",
    "verify_ms": "verify ms",
    "verify_over_plain": "verify / plain",
    "sample_ms": "sample ms",
    "round_ms": "round ms",
    "rate": "tokens/s",
    "over_plain": "times plain",
    "their_plain_ms": "llama.cpp plain ms",
    "their_round_ms": "llama.cpp MTP round ms",
    "plain_over_theirs": "plain times its plain",
    "over_their_plain": "times its plain",
    "over_their_mtp": "times its MTP",
}
HEADER = "| " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * len(COLUMNS) + "|"


def format_row(row: dict[str, Any]) -> str:
    cells = [row.get(c, "-") for c in COLUMNS]
    return "| " + " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells) + " |"


def tell_best(rows: Sequence[dict[str, Any]]) -> None:
    """The best numbers of drafts of a pair, plain decoding among them, of both sides."""
    ours = max([(1e3 / r["plain_ms"], 0) for r in rows] + [(r["rate"], r["k"]) for r in rows])
    theirs = max(
        [(1e3 / r["their_plain_ms"], 0) for r in rows]
        + [((1 + sum(RATES[: r["k"]])) / r["their_round_ms"] * 1e3, r["k"]) for r in rows]
    )
    print(
        f"{rows[0]['shape']} {rows[0]['weights']}: best k = {ours[1]}, {ours[0]:.0f} tokens/s; llama.cpp's k = "
        f"{theirs[1]}, {theirs[0]:.0f}: {ours[0] / theirs[0]:.2f} times",
        flush=True,
    )


def time_table(args: argparse.Namespace, server: Path | None) -> list[dict[str, Any]]:
    pairs = [(shape, weights) for shape in args.shapes for weights in args.weights]
    with ProcessPoolExecutor(args.writers) as pool:
        for pair in [pool.submit(write_pair, *pair, args.folder, args.layers) for pair in pairs]:
            pair.result()
    bandwidth = copy_bandwidth()
    smi = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    print(subprocess.run(smi, capture_output=True, text=True).stdout.strip(), f"copies {bandwidth / 1e12:.2f} TB/s")
    print(HEADER, flush=True)
    rows = []
    for shape, weights in pairs:
        of_pair = time_pair(shape, weights, args, server)
        if server and len(of_pair) > 1:
            tell_best(of_pair)
        rows += of_pair
    for r in rows:
        if bandwidth and "a4b" not in r["shape"]:  # of a mixture's weights a token reads only a part
            bound = r["gb"] / bandwidth * 1e12
            print(f"{r['shape']} {r['weights']}: {r['gb']:.2f} GB on the device, {bound:.2f} ms to read them once")
    return rows


def names(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--archive", type=Path, help="the pinned source distribution, for builds; see csrc/llama/llama.cpp.lock"
    )
    parser.add_argument("--folder", type=Path, required=True, help="for builds and models; what is there is used again")
    parser.add_argument("--parts", type=names, default=list(PARTS), help="of %(default)s")
    parser.add_argument("--shapes", type=names, default=["e2b", "e4b", "26b-a4b"])
    parser.add_argument("--weights", type=names, default=["q4_0"], help="types and mixtures, as of pyllama-mtp bench")
    parser.add_argument("--layers", type=int, help="fewer than the shapes have")
    parser.add_argument("--k", type=lambda text: [int(k) for k in text.split(",")], help="numbers of drafts, up to 3")
    parser.add_argument("--no-peer", action="store_true", help="without llama.cpp")
    parser.add_argument("--remove", action="store_true", help="remove a pair's files after its rows")
    parser.add_argument("--writers", type=int, default=8, help="processes that write models (default: %(default)s)")
    parser.add_argument("--architectures", default="native", help="CMAKE_CUDA_ARCHITECTURES (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens a run")
    parser.add_argument("--pairs", type=int, default=5, help="counted runs of each kind, after one that is not")
    parser.add_argument("--n-threads", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not set(args.parts) <= set(PARTS):
        parser.error(f"--parts is {','.join(args.parts)}, expected some of {','.join(PARTS)}")
    if args.k and not all(1 <= k <= len(RATES) for k in args.k):
        parser.error(f"--k is {args.k}, expected numbers from 1 to {len(RATES)}")
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)

    site, server = args.folder / "site", args.folder / "peer-build" / "bin" / "llama-server"
    built = [(site / "pyllama_mtp", build_ours)] + [(server, build_peer)] * (not args.no_peer)
    for path, build in built:
        if not path.exists():
            if args.archive is None:
                parser.error(f"without --archive there must be {path}")
            build(args.archive.resolve(), args.folder, args.architectures)
    sys.path.insert(0, str(site))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONPATH"] = path  # of the processes that write models, too
    if "checks" in args.parts:
        tests = [sys.executable, "-P", "-m", "pytest", "-q", "-rs", ROOT / "tests" / "gpu"]
        if subprocess.run(tests, cwd=args.folder).returncode != 0:
            sys.exit("the checks failed: nothing was timed")
    rows = time_table(args, None if args.no_peer else server) if "table" in args.parts else []
    if {"sampling", "caches"} & set(args.parts):
        pair = write_pair("e2b", "q4_0", args.folder, None)
    if "sampling" in args.parts:
        time_sampling(*pair, args.tokens, args.n_threads)
    if "caches" in args.parts:
        time_caches(*pair, args.n_threads)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Builds, checks and times everything on a GPU in one call, against plain decoding and llama.cpp's own MTP; one table.

    python benchmarks/gpu.py --archive xllamacpp-2026.10.11549.tar.gz --folder /tmp/gpu

Random weights at released shapes, greedy, 100 tokens of context. Acceptance is forced on both sides: .868/.765/.687 of
the rounds accept the first draft, the first two, all three. The peer is llama-server of the same source, unmodified,
with its CPU or its backend sampling, whichever is faster. Ours plain, ours drafting, theirs plain and theirs drafting
alternate; figures are medians, ratios are taken run by run. How many tokens a few hundred rounds give is chance, so
rates and ratios use the expected number, 1 + the sum of the forced rates, on both sides; milliseconds are measured.

Needs nvcc, cmake and ninja, and, installed in the environment, scikit-build-core, pytest and the package's
dependencies: a GPU machine may have no network.
"""

import argparse
import ctypes
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATES = (0.868, 0.765, 0.687)
PROMPT = [1000 + i % 5000 for i in range(100)]
SWEEPS = {"26b-a4b": (1, 2, 3)}  # else k = 3
CMAKE_OPTIONS = ["-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON"]


def build_ours(archive: Path, folder: Path, architectures: str) -> Path:
    """The package for PYTHONPATH."""
    site = folder / "site"
    options = [*CMAKE_OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={architectures}", f"-DLLAMA_CPP_ARCHIVE={archive}"]
    settings = [f"--config-settings=cmake.define.{option[2:]}" for option in options]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--upgrade"]
    subprocess.run([*pip, "--target", site, *settings, ROOT], check=True)
    return site


def build_peer(archive: Path, folder: Path, architectures: str) -> Path:
    """llama-server of the unmodified source."""
    source = folder / "peer-source"
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    (tree,) = source.glob("*/thirdparty/llama.cpp")
    off = ["BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL"]
    options = [*CMAKE_OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={architectures}", *(f"-D{name}=OFF" for name in off)]
    build = folder / "peer-build"
    subprocess.run(
        ["cmake", "-S", tree, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(["cmake", "--build", build, "--target", "llama-server"], check=True, stdout=subprocess.DEVNULL)
    return build / "bin" / "llama-server"


@contextmanager
def serving(server: Path, target: Path, head: Path | None, k: int, log: Path) -> Iterator[str]:
    """URL of a running llama-server, with its own MTP if there is a head."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        server,
        "-m",
        target,
        "-ngl",
        "99",
        "-c",
        "1024",
        "-np",
        "1",
        "--port",
        str(port),
        "-fa",
        "on",
        "--no-warmup",
    ]
    if head is not None:
        rates = ",".join(map(str, RATES[:k]))
        command += [
            "-md",
            head,
            "-ngld",
            "99",
            "--spec-type",
            "draft-mtp",
            "--spec-draft-n-max",
            str(k),
            "--spec-synth-rates",
            rates,
        ]
    with open(log, "w") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)
        try:
            for _ in range(600):
                time.sleep(0.2)
                if process.poll() is not None:
                    sys.exit(f"llama-server ended: {log.read_text()[-2000:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                    break
                except OSError:
                    pass
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def peer_round_ms(url: str, tokens: int, backend_sampling: bool) -> float:
    """Milliseconds a round (a token, without drafts), as the server times them; infinite if it refuses the setting.

    A round gives its accepted drafts and one token more.
    """
    body = {
        "prompt": PROMPT,
        "n_predict": tokens,
        "temperature": 0,
        "top_k": 1,
        "ignore_eos": True,
        "cache_prompt": False,
        "backend_sampling": backend_sampling,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/completion", json.dumps(body).encode(), headers)
    try:
        timings = json.load(urllib.request.urlopen(request))["timings"]
    except urllib.error.HTTPError as error:
        print(
            f"llama-server refuses backend_sampling={backend_sampling}: {error.read().decode()[:200]}", file=sys.stderr
        )
        return math.inf
    return timings["predicted_ms"] / (timings["predicted_n"] - timings.get("draft_n_accepted", 0))


def our_round(model, k: int, tokens: int) -> dict[str, float]:
    """Milliseconds a round by stage and in all."""
    stream = model.generate(
        PROMPT,
        max_tokens=tokens + 1,
        temperature=0,
        num_speculative_tokens=k,
        ignore_eos=True,
        synthetic_acceptance=RATES[:k],
    )
    stream.text()
    s = stream.stats
    seconds = {
        "draft": s.draft_seconds,
        "verify": s.verify_seconds,
        "sample": s.sample_seconds,
        "round": s.decode_seconds,
    }
    return {name: value / s.rounds * 1e3 for name, value in seconds.items()}


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


def time_shape(shape: str, args: argparse.Namespace, server: Path) -> list[dict[str, object]]:
    """One row of the table for each k."""
    from pyllama_mtp import Model
    from pyllama_mtp.bench.shapes import random_pair

    target, head = random_pair(shape, "q4_0", args.folder / "models")
    rows = []
    with ExitStack() as stack:
        model = stack.enter_context(Model(target, mtp_head=head, n_ctx=1024, n_threads=args.n_threads))
        plain_url = stack.enter_context(serving(server, target, None, 0, args.folder / "plain.log"))
        for k in SWEEPS.get(shape, (3,)):
            with serving(server, target, head, k, args.folder / "mtp.log") as mtp_url:
                runs = []
                for _ in range(args.pairs + 1):
                    plain, mtp = (
                        min(peer_round_ms(url, args.tokens, backend) for backend in (False, True))
                        for url in (plain_url, mtp_url)
                    )
                    runs.append((our_round(model, 0, args.tokens), our_round(model, k, args.tokens), plain, mtp))
            rows.append(summary(shape, k, runs[1:], device_weights(model.info.placement)))
            print(format_row(rows[-1]), flush=True)
    return rows


def summary(shape: str, k: int, runs: list[tuple], weights: float) -> dict[str, object]:
    """Medians; times in milliseconds, rates in tokens a second."""
    tokens = 1 + sum(RATES[:k])
    plain, drafted, their_plain, their_mtp = zip(*runs, strict=True)
    round_ms = statistics.median(d["round"] for d in drafted)
    return {
        "shape": shape,
        "k": k,
        "weights_gb": weights / 1e9,
        "plain_ms": statistics.median(p["round"] for p in plain),
        **{f"{part}_ms": statistics.median(d[part] for d in drafted) for part in ("draft", "verify", "sample")},
        "round_ms": round_ms,
        "rate": tokens / round_ms * 1e3,
        "over_plain": statistics.median(tokens * p["round"] / d["round"] for p, d, _, _ in runs),
        "their_plain_ms": statistics.median(their_plain),
        "their_round_ms": statistics.median(their_mtp),
        "over_their_mtp": statistics.median(t / d["round"] for _, d, _, t in runs),
        "over_their_plain": statistics.median(tokens * t / d["round"] for _, d, t, _ in runs),
    }


SAMPLING = [
    {"temperature": 0},
    {"temperature": 1, "acceptance": "coupled"},
    {"temperature": 1, "acceptance": "block"},
    {"temperature": 1, "top_k": 64, "top_p": 0.95, "acceptance": "coupled"},
    {"temperature": 1, "top_k": 64, "top_p": 0.95, "acceptance": "block"},
]
CACHES = [("f16", "f16"), ("q4_0", "q4_0"), ("turbo4", "turbo4"), ("turbo4", "turbo3")]


def second_run(model: object, prompt: list[int], k: int, tokens: int, **options: object) -> object:
    """Statistics of the second of two equal completions."""
    for _ in range(2):
        options = {"max_tokens": tokens, "num_speculative_tokens": k, "ignore_eos": True, "seed": 1, **options}
        stream = model.generate(prompt, **options)
        for _ in stream:
            pass
    return stream.stats


def time_sampling(args: argparse.Namespace) -> None:
    """Milliseconds of the parts of a round at E2B's shape, drafting 3 and plain. Random weights: nearly flat."""
    from pyllama_mtp import Model
    from pyllama_mtp.bench.shapes import random_pair

    target, head = random_pair("e2b", "q4_0", args.folder / "models")
    load = {"n_ctx": 1024, "n_threads": args.n_threads, "sampling_defaults": "vllm"}
    with Model(target, mtp_head=head, **load) as model:
        for options in SAMPLING:
            for k in (0, 3):
                s = second_run(model, PROMPT, k, args.tokens, **options)
                parts = (s.draft_seconds, s.verify_seconds, s.sample_seconds, s.decode_seconds)
                print(options, f"k {k}: draft, verify, sample, round", *(f"{p / s.rounds * 1e3:.2f}" for p in parts))


def time_caches(args: argparse.Namespace) -> None:
    """Milliseconds a round for pairs of cache types and lengths of context at E2B's shape, greedy."""
    from pyllama_mtp import Model
    from pyllama_mtp.bench.shapes import random_pair

    target, head = random_pair("e2b", "q4_0", args.folder / "models")
    for n in (100, 8000, 30000):
        prompt = [1000 + i % 5000 for i in range(n)]
        for k, v in CACHES:
            options = {"n_ctx": n + 512, "n_threads": args.n_threads, "cache_type_k": k, "cache_type_v": v}
            with Model(target, mtp_head=head, **options) as model:
                plain, drafting = (second_run(model, prompt, d, 64, temperature=0) for d in (0, 3))
            rounds = (f"{s.decode_seconds / s.rounds * 1e3:.2f}" for s in (plain, drafting))
            print(f"context {n}, K {k}, V {v}: plain, drafting 3", *rounds, flush=True)


def time_weights(args: argparse.Namespace) -> None:
    """Milliseconds of a plain token and of the parts of a round of three drafts at E2B's shape, by type of weights."""
    from pyllama_mtp import Model
    from pyllama_mtp.bench.shapes import random_pair

    for weights in ("q4_0", "q4_k", "q6_k", "q8_0", "f16"):
        target, head = random_pair("e2b", weights, args.folder / "models")
        with Model(target, mtp_head=head, n_ctx=1024, n_threads=args.n_threads) as model:
            runs = [(our_round(model, 0, args.tokens), our_round(model, 3, args.tokens)) for _ in range(args.pairs + 1)]
        plain = statistics.median(p["round"] for p, _ in runs[1:])
        parts = {name: statistics.median(d[name] for _, d in runs[1:]) for name in ("draft", "verify", "round")}
        figures = " ".join(f"{name} {value:.2f}" for name, value in parts.items())
        print(f"{weights}: plain {plain:.2f} {figures} verify/plain {parts['verify'] / plain:.2f}", flush=True)


COLUMNS = {
    "shape": "shape",
    "k": "k",
    "plain_ms": "plain ms",
    "draft_ms": "draft ms",
    "verify_ms": "verify ms",
    "sample_ms": "sample ms",
    "round_ms": "round ms",
    "rate": "tokens/s",
    "over_plain": "times plain",
    "their_plain_ms": "llama.cpp plain ms",
    "their_round_ms": "llama.cpp MTP round ms",
    "over_their_plain": "times its plain",
    "over_their_mtp": "times its MTP",
}
HEADER = "| " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * len(COLUMNS) + "|"


def format_row(row: dict[str, object]) -> str:
    cells = [f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--archive", type=Path, required=True, help="the pinned source distribution, see csrc/llama/llama.cpp.lock"
    )
    parser.add_argument("--folder", type=Path, required=True, help="for builds and models; what is there is used again")
    parser.add_argument("--shapes", default="e2b,e4b,26b-a4b")
    parser.add_argument("--architectures", default="native", help="CMAKE_CUDA_ARCHITECTURES (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens a run")
    parser.add_argument("--pairs", type=int, default=5, help="counted runs of each kind, after one that is not")
    parser.add_argument("--n-threads", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--skip-checks", action="store_true", help="time without the tests of tests/gpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)

    server = args.folder / "peer-build" / "bin" / "llama-server"
    if not (args.folder / "site" / "pyllama_mtp").is_dir():
        build_ours(args.archive.resolve(), args.folder, args.architectures)
    if not server.is_file():
        server = build_peer(args.archive.resolve(), args.folder, args.architectures)
    sys.path.insert(0, str(args.folder / "site"))
    if not args.skip_checks:
        path = os.pathsep.join(filter(None, [str(args.folder / "site"), os.environ.get("PYTHONPATH")]))
        tests = [sys.executable, "-P", "-m", "pytest", "-q", "-rs", ROOT / "tests" / "gpu"]
        if subprocess.run(tests, env=os.environ | {"PYTHONPATH": path}, cwd=args.folder).returncode != 0:
            sys.exit("the checks failed: nothing was timed")

    smi = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    bandwidth = copy_bandwidth()
    print(subprocess.run(smi, capture_output=True, text=True).stdout.strip(), f"copies {bandwidth / 1e12:.2f} TB/s")
    print(HEADER, flush=True)
    rows = [r for shape in args.shapes.split(",") for r in time_shape(shape, args, server)]
    for r in rows:
        if bandwidth and "a4b" not in r["shape"]:  # of a mixture's weights a token reads only a part
            bound = r["weights_gb"] / bandwidth * 1e12
            print(f"{r['shape']}: {r['weights_gb']:.2f} GB of weights on the device, {bound:.2f} ms to read them once")
    time_sampling(args)
    time_caches(args)
    time_weights(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Unmodified llama.cpp's server on a GPU: its build, and milliseconds a round. Part of gpu.py."""

import json
import math
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CMAKE_OPTIONS = ["-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON"]


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
def serving(server: Path, target: Path, head: Path | None, rates: Sequence[float], log: Path) -> Iterator[str]:
    """URL of a running llama-server, with its own MTP if there is a head: a draft for each forced rate."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [server, "-m", target, "-ngl", 99, "-c", 1024, "-np", 1, "--port", port, "-fa", "on", "--no-warmup"]
    if head is not None:
        command += ["-md", head, "-ngld", 99, "--spec-type", "draft-mtp", "--spec-draft-n-max", len(rates)]
        command += ["--spec-synth-rates", ",".join(map(str, rates))]
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


def peer_round_ms(url: str, prompt: Sequence[int], tokens: int, backend_sampling: bool) -> float:
    """Milliseconds a round (a token, without drafts), as the server times them; infinite if it refuses the setting.

    A round gives its accepted drafts and one token more.
    """
    body = {
        "prompt": list(prompt),
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

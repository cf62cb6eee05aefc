"""What the server costs: tokens a second of streaming clients over those of Model.generate_all, with one model.

    python benchmarks/server.py [--target target.gguf --mtp-head assistant.gguf --pairs 15 --clients 1 8]

Without files: random weights at E2B's shape, Q4_0, which are written once. The two take turns in one process, on the
same completions; the clients are a process of their own that reads bytes and does nothing else. Medians of the ratios
with their 95 % intervals (order statistics), and both speeds. Acceptance is forced for neither: a request cannot ask
for it, and random weights accept next to nothing, so that every token is a chunk, which is the most that the server has
to do for it.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn

PROMPT_TOKENS = 8


def prompt(i: int) -> list[int]:
    return [2, *range(1000 + 50 * i, 1000 + 50 * i + PROMPT_TOKENS - 1)]


def options(args: argparse.Namespace) -> dict[str, object]:
    return {"max_tokens": args.max_tokens, "temperature": 0, "ignore_eos": True, "num_speculative_tokens": args.k}


def interval(values: list[float]) -> str:
    ordered = sorted(values)
    skip = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return f"{statistics.median(ordered):.3f} ({ordered[skip]:.3f} to {ordered[-1 - skip]:.3f})"


async def read(port: int, body: bytes) -> None:
    """One request, read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    end = b""
    while part := await reader.read(1 << 16):
        end = (end + part)[-40:]
    writer.close()
    if b"[DONE]" not in end:
        raise SystemExit(f"a request failed: {end!r}")


def clients() -> None:
    """The process of the clients: reads a port and bodies, answers when all were answered."""

    async def read_all(port: int, bodies: list[dict[str, object]]) -> None:
        await asyncio.gather(*(read(port, json.dumps(body).encode()) for body in bodies))

    for line in sys.stdin:
        asyncio.run(read_all(*json.loads(line)))
        print("done", flush=True)


class Served:
    """The model behind its application, on a thread of this process, with the clients."""

    def __init__(self, model, args: argparse.Namespace):
        from pyllama_mtp.server import create_app
        from pyllama_mtp.server.listen import bind

        self._options = options(args) | {"stream": True, "stream_options": {"include_usage": True}}
        self._socket = bind("127.0.0.1", 0)
        self._socket.listen(64)
        quiet = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        config = uvicorn.Config(create_app(model), http="h11", **quiet)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])))
        self._thread.start()
        command = [sys.executable, "-P", __file__, "--read"]
        self._clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, n: int) -> None:
        bodies = [{"prompt": prompt(i)} | self._options for i in range(n)]
        self._clients.stdin.write(json.dumps([self._socket.getsockname()[1], bodies]) + "\n")
        self._clients.stdin.flush()
        if self._clients.stdout.readline() != "done\n":
            raise SystemExit("the clients failed")

    def end(self) -> None:
        self._clients.stdin.close()
        self._clients.wait()
        self._server.should_exit = True
        self._thread.join()


def seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def compare(model, served: Served, args: argparse.Namespace, n: int) -> None:
    def alone() -> None:
        results = list(model.generate_all([prompt(i) for i in range(n)], **options(args)))
        if [len(result.token_ids) for result in results] != [args.max_tokens] * n:
            raise SystemExit("a completion ended early")

    ratios, speeds = [], {"server": [], "generate_all": []}
    for run in (alone, lambda: served.run(n)):  # learns what steps cost
        run()
    for pair in range(args.pairs):
        runs = [("server", lambda: served.run(n)), ("generate_all", alone)]
        times = {name: seconds(run) for name, run in (runs if pair % 2 else reversed(runs))}
        ratios.append(times["generate_all"] / times["server"])
        for name, passed in times.items():
            speeds[name].append(n * args.max_tokens / passed)
    medians = ", ".join(f"{name} {statistics.median(values):.1f} tokens/s" for name, values in speeds.items())
    print(f"{n} clients: server over generate_all {interval(ratios)}; {medians}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--mtp-head", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--k", type=int, default=3, help="drafts a round")
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        clients()
        return
    from pyllama_mtp import Model
    from pyllama_mtp.bench.shapes import random_pair

    target, head = (args.target, args.mtp_head) if args.target else random_pair("e2b", "q4_0")
    most = max(args.clients)
    with Model(target, mtp_head=head, n_ctx=512, n_threads=args.n_threads, max_num_seqs=most) as model:
        served = Served(model, args)
        try:
            for n in args.clients:
                compare(model, served, args, n)
        finally:
            served.end()


if __name__ == "__main__":
    main()

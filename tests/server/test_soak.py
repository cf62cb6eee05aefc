"""Requests of every kind, one after the other and beside each other, leave nothing behind.

    PMTP_SOAK=2000 pytest -s tests/server/test_soak.py

makes more of them.
"""

import os
import random
from concurrent.futures import ThreadPoolExecutor

from support.serving import Served, http_request, raw

N_REQUESTS = int(os.environ.get("PMTP_SOAK", "200"))
N_CLIENTS = 6
MOST_GROWTH_BYTES = 8 << 20


def one(served: Served, seed: int) -> None:
    rng = random.Random(seed)
    prompt = "".join(
        rng.choice(["def f():\n", "x = 1\n", "import os\n", "# text\n"]) for _ in range(rng.randrange(1, 40))
    )
    body = {"prompt": prompt, "max_tokens": rng.randrange(1, 30), "stream": rng.random() < 0.5, "seed": seed}
    match rng.randrange(8):
        case 0:
            assert served.post("/v1/completions", body | {"temperature": -1}).status == 400
        case 1:
            with raw(served, http_request("/v1/completions", body | {"max_tokens": 500, "ignore_eos": True})):
                pass  # leaves
        case 2:
            assert served.post("/tokenize", {"prompt": prompt}).status == 200
        case 3:
            assert served.post("/v1/completions", body | {"n": 3, "logprobs": 3}).status == 200
        case 4:
            messages = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 10}
            assert served.post("/v1/chat/completions", messages).status == 200
        case 5:
            assert served.ask("GET", rng.choice(["/metrics", "/", "/health", "/v1/models"])).status == 200
        case _:
            assert served.post("/v1/completions", body).status == 200


def test_memory_stays_flat(served: Served):
    """After the first half has filled what may be kept, the second half adds nothing."""
    halves = []
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        for half in (0, 1):
            seeds = range(half * N_REQUESTS // 2, (half + 1) * N_REQUESTS // 2)
            list(pool.map(lambda seed: one(served, seed), seeds))
            served.until("vllm:num_requests_running")
            halves.append(served.memory_bytes())
    print(f"\n{N_REQUESTS} requests: {halves[0] >> 10} KiB after one half, {halves[1] >> 10} KiB after both")
    assert halves[1] - halves[0] < MOST_GROWTH_BYTES
    assert served.process.poll() is None

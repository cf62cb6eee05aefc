"""64 clients at once, of which some leave: nothing is lost or mixed up, and the figures add up."""

import asyncio
import re

import openai

from pyllama_mtp import Model
from support.serving import Served

N_CLIENTS = 64
ENDED = re.compile(r"(\d+) prompt=(\d+) cached=(\d+) completion=(\d+) finish=(\S+)")
PROMPTS = ["def main():\n", "import os\n", "class Tree:\n    def insert(self, value):\n", "for i in range(10):\n"]
OPTIONS = {"max_tokens": 48, "temperature": 0.9}


def leaves_after(i: int) -> int | None:
    """Chunks after which a client leaves; None: it stays."""
    return i % 7 if i % 3 == 2 else None


async def ask(client: openai.AsyncOpenAI, i: int) -> tuple[str, object]:
    """The text that the client got, and the usage that it was told."""
    options = OPTIONS | {"model": "pair", "prompt": PROMPTS[i % len(PROMPTS)], "seed": i}
    extra = {"extra_body": {"ignore_eos": True}}
    if i % 4 == 1 and leaves_after(i) is None:
        whole = await client.completions.create(**options, **extra)
        return whole.choices[0].text, whole.usage
    stream = await client.completions.create(**options, stream=True, stream_options={"include_usage": True}, **extra)
    text, usage, n = "", None, 0
    async with stream:
        async for chunk in stream:
            if n == leaves_after(i):
                return text, None
            n += 1
            text += chunk.choices[0].text if chunk.choices else ""
            usage = chunk.usage or usage
    return text, usage


async def ask_all(served: Served) -> list[tuple[str, object]]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        return await asyncio.gather(*(ask(client, i) for i in range(N_CLIENTS)))


def test_64_clients_at_once(served: Served, reference: Model):
    before, begin = served.metrics(), len(served.log)
    answers = asyncio.run(ask_all(served))
    for i, (text, _) in enumerate(answers):
        whole = reference.generate(PROMPTS[i % len(PROMPTS)], **OPTIONS, seed=i, ignore_eos=True).text()
        assert text == whole if leaves_after(i) is None else whole.startswith(text)

    after = served.until("vllm:num_requests_running")
    for gauge in ("num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc"):
        assert after[f"vllm:{gauge}"] == 0

    def grown(name: str) -> float:
        return after[f"vllm:{name}"] - before.get(f"vllm:{name}", 0)

    told = [usage for _, usage in answers if usage is not None]
    assert len(told) == sum(leaves_after(i) is None for i in range(N_CLIENTS)) and len(told) < N_CLIENTS
    ended = ENDED.findall(served.log[begin:])
    assert len(ended) == N_CLIENTS
    sums = [sum(int(line[column]) for line in ended) for column in (1, 2, 3)]
    assert [grown("prompt_tokens_total"), grown("prefix_cache_hits_total"), grown("generation_tokens_total")] == sums
    assert grown("prefix_cache_queries_total") == sums[0]
    finished = [line for line in ended if line[0] == "200"]
    usages = sorted((u.prompt_tokens, u.prompt_tokens_details.cached_tokens, u.completion_tokens) for u in told)
    logged = sorted((int(prompt), int(cached), int(n)) for _, prompt, cached, n, _ in finished)
    assert len(finished) >= len(told) and set(usages) <= set(logged)
    assert grown("request_success_total{finished_reason=length}") >= len(told)

"""Milliseconds of this package's rounds on a GPU, by stage, way of sampling and type of cache. Part of gpu.py, which
puts the package into sys.path first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROMPT = [1000 + i % 5000 for i in range(100)]
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1, "acceptance": "coupled"},
    {"temperature": 1, "acceptance": "block"},
    {"temperature": 1, "top_k": 64, "top_p": 0.95, "acceptance": "coupled"},
    {"temperature": 1, "top_k": 64, "top_p": 0.95, "acceptance": "block"},
]
CACHES = [("f16", "f16"), ("q4_0", "q4_0"), ("turbo4", "turbo4"), ("turbo4", "turbo3")]


def our_round(model: Any, rates: Sequence[float], tokens: int) -> dict[str, float]:
    """Milliseconds a round by stage and in all, with a draft for each forced rate."""
    stream = model.generate(
        PROMPT,
        max_tokens=tokens + 1,
        temperature=0,
        num_speculative_tokens=len(rates),
        ignore_eos=True,
        synthetic_acceptance=rates,
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


def second_run(model: Any, prompt: list[int], k: int, tokens: int, **options: object) -> Any:
    """Statistics of the second of two equal completions."""
    for _ in range(2):
        options = {"max_tokens": tokens, "num_speculative_tokens": k, "ignore_eos": True, "seed": 1, **options}
        stream = model.generate(prompt, **options)
        for _ in stream:
            pass
    return stream.stats


def time_sampling(target: Path, head: Path, tokens: int, n_threads: int) -> None:
    """Milliseconds of the parts of a round, drafting 3 and plain. Random weights: nearly flat."""
    from pyllama_mtp import Model

    with Model(target, mtp_head=head, n_ctx=1024, n_threads=n_threads, sampling_defaults="vllm") as model:
        for options in SAMPLING:
            for k in (0, 3):
                s = second_run(model, PROMPT, k, tokens, **options)
                parts = (s.draft_seconds, s.verify_seconds, s.sample_seconds, s.decode_seconds)
                print(options, f"k {k}: draft, verify, sample, round", *(f"{p / s.rounds * 1e3:.2f}" for p in parts))


def time_caches(target: Path, head: Path, n_threads: int) -> None:
    """Milliseconds a round for pairs of cache types and lengths of context, greedy."""
    from pyllama_mtp import Model

    for n in (100, 8000, 30000):
        prompt = [1000 + i % 5000 for i in range(n)]
        for k, v in CACHES:
            options = {"n_ctx": n + 512, "n_threads": n_threads, "cache_type_k": k, "cache_type_v": v}
            with Model(target, mtp_head=head, **options) as model:
                plain, drafting = (second_run(model, prompt, d, 64, temperature=0) for d in (0, 3))
            rounds = (f"{s.decode_seconds / s.rounds * 1e3:.2f}" for s in (plain, drafting))
            print(f"context {n}, K {k}, V {v}: plain, drafting 3", *rounds, flush=True)

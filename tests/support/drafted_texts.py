"""Texts with drafting on and off: on the CPU no byte may differ (docs/exactness.md).

All of them, 480 texts of 200 tokens for each pair, the embedded one and random ones of several weight types, from the
root of the repository:

    PYTHONPATH=tests python -P -m support.drafted_texts

prints a line a pair and cache type and a line for every text that differs, and fails if one does. --pairs, --threads
and --types choose among them: with more threads than CPUs llama.cpp's barriers make a text take minutes.
"""

import argparse
import heapq
import inspect
import itertools
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pyllama_mtp
from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import write_assistant, write_target
from support.prompts import PROMPTS

CACHE_TYPES = (*("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "turbo4", "turbo3", "turbo2"),)
DRAFTS: tuple[int | str, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, "auto")
SOURCES = tuple(inspect.getsource(module) for module in (argparse, heapq, inspect, shlex, textwrap))
GREEDY = {"temperature": 0.0}
SAMPLINGS = (
    GREEDY,
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_p": 0.95, "seed": 2},
    GREEDY,
    {"temperature": 1.3, "top_k": 40, "seed": 3},
)


EMBEDDED = "embedded"
RANDOM_WEIGHTS = ("q4_0", "q8_0", "q6_k", "q4_k")
# Rows long enough for the blocks of 256 values of K-quants.
SHAPE = Gemma4Shape(
    n_layer=4,
    full_every=2,
    n_embd=256,
    n_head=4,
    n_head_kv=1,
    n_head_kv_full=1,
    n_ff=512,
    n_ple=256,
    n_shared=2,
    window=64,
    head_size=64,
    head_size_full=128,
    n_vocab=512,
    context_length=1024,
    n_centroids=16,
    centroid_top_k=4,
    assistant_n_embd=64,
    assistant_n_ff=32,
    assistant_n_head=2,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One text; `plain` is the same text without drafting, on two threads: there llama.cpp's own attention, were it
    still used, would give a single row other bits.
    """

    cache_type: str
    n_threads: int
    drafts: int | str
    text: int  # chooses prompt and sampling

    @property
    def plain(self) -> "Case":
        return Case(self.cache_type, 2, 0, self.text)


def prompt(text: int) -> str:
    """Some 300 to 600 tokens, every sixth some ten: past 256 cells llama.cpp attends with a single row in another way
    than with several, if it has threads.
    """
    if text % 6 == 5:
        return PROMPTS[text % len(PROMPTS)]
    return SOURCES[text % len(SOURCES)][: 900 + 20 * text]


def random_prompt(text: int) -> list[int]:
    """10 to 700 tokens for a random pair."""
    n = 10 if text % 6 == 5 else 100 + 15 * text
    return [2, *np.random.default_rng(text).integers(264, SHAPE.n_vocab, n - 1).tolist()]


@dataclass(frozen=True, slots=True)
class Pair:
    target: Path
    head: Path
    prompt: Callable[[int], str | list[int]]


def pair(name: str, folder: Path) -> Pair:
    """The embedded one, or a random one of that weight type, which is written to the folder."""
    if name == EMBEDDED:
        demo = Path(pyllama_mtp.__file__).parent / "demo"
        return Pair(demo / "target.gguf", demo / "assistant.gguf", prompt)
    target = write_target(folder / f"{name}.gguf", SHAPE, weights=name)
    return Pair(target, write_assistant(folder / f"{name}-head.gguf", SHAPE, weights=name), random_prompt)


def cases(cache_types: Iterable[str] = CACHE_TYPES, threads: Iterable[int] = (1, 2, 3, 4)) -> Iterator[Case]:
    """40 cases a cache type with four numbers of threads; prompt and sampling change from case to case."""
    for cache_type in cache_types:
        for i, (n_threads, drafts) in enumerate(itertools.product(threads, DRAFTS)):
            yield Case(cache_type, n_threads, drafts, i)


def generate(pair: Pair, case: Case, max_tokens: int) -> list[int]:
    """Of a model that has just been loaded, with the options that are the default where the case does not say."""
    with pyllama_mtp.Model(
        pair.target,
        mtp_head=pair.head,
        n_ctx=1024,
        n_threads=case.n_threads,
        cache_type_k=case.cache_type,
        cache_type_v=case.cache_type,
        sampling_defaults="vllm",
    ) as model:
        stream = model.generate(
            pair.prompt(case.text),
            max_tokens=max_tokens,
            num_speculative_tokens=case.drafts,
            ignore_eos=True,
            **SAMPLINGS[case.text // len(SOURCES) % len(SAMPLINGS)],
        )
        stream.text()
        assert len(stream.token_ids) == max_tokens
        return list(stream.token_ids)


def differing(pair: Pair, chosen: Iterable[Case], max_tokens: int = 200) -> list[str]:
    """A line for every case whose text is not its plain one."""
    lines = []
    plain: dict[Case, list[int]] = {}
    for case in chosen:
        if case.plain not in plain:
            plain[case.plain] = generate(pair, case.plain, max_tokens)
        expected, got = plain[case.plain], generate(pair, case, max_tokens)
        if got != expected:
            first = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
            lines.append(f"{case}: token {first} differs")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (EMBEDDED, *RANDOM_WEIGHTS)
    parser.add_argument("--pairs", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--types", nargs="+", choices=CACHE_TYPES, default=CACHE_TYPES)
    arguments = parser.parse_args()
    n = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, cache_type in itertools.product(arguments.pairs, arguments.types):
            chosen = list(cases([cache_type], arguments.threads))
            lines = differing(pair(name, Path(folder)), chosen)
            print(*lines, f"{name}, {cache_type}: {len(lines)} of {len(chosen)} texts differ", sep="\n", flush=True)
            n, failed = n + len(chosen), failed + len(lines)
    print(f"{failed} of {n} texts differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

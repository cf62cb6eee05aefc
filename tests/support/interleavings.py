"""Random interleavings of completions on one model, each compared with a model of its own.

    PYTHONPATH=tests python -P tests/support/interleavings.py --interleavings 20000 --seed 0

An interleaving begins, reads, cancels, closes and forgets completions at random: prompts that share beginnings, any
number of drafts, rules, stop strings, seeds, by threads' streams or tasks'. Whatever was read of one must be what a
fresh model gives for the same request. Prints a summary, and fails with the request that differs.
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import random
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyllama_mtp import AsyncStream, Chunk, Model, Stream
from pyllama_mtp.gguf.random_weights import write_assistant, write_target
from support.tiny_pairs import SHAPES, TinyPair

CACHES = [
    ("f16", "f16"),
    ("f32", "bf16"),
    ("q8_0", "q8_0"),
    ("turbo4", "turbo4"),
    ("turbo3", "f16"),
    ("q4_0", "turbo2"),
]
RULES = ("auto", "coupled", "rejection", "rejection_greedy", "block")
N_CTX = 160


@dataclass
class Running:
    """A completion that began, and what was read of it. chunks: its iterator, once someone reads."""

    prompt: list[int]
    options: dict[str, Any]
    stream: Stream | AsyncStream
    chunks: Any = None
    text: str = ""
    logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    over: bool = False

    def take(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.tokens += chunk.token_ids
        self.logprobs += [[(entry.token_id, entry.logprob) for entry in row] for row in chunk.logprobs or ()]


class Interleaving:
    """One model with one random life."""

    def __init__(self, pair: TinyPair, rng: random.Random):
        self.rng = rng
        self.pair = pair
        self.k, self.v = rng.choice(CACHES)
        self.drafter = rng.choice(["auto", "auto", "ngram", "none"])
        self.n_batch = rng.choice([32, 64, 512])
        self.defaults = rng.choice(["model", "vllm"])
        self.texts = [self._ids(rng.randint(1, 60)) for _ in range(3)]
        self.running: list[Running] = []
        self.checked = self.tokens = 0
        self.loop = asyncio.new_event_loop()

    def _ids(self, n: int) -> list[int]:
        return [self.rng.randrange(5, 288) for _ in range(n)]

    def load(self, max_num_seqs: int) -> Model:
        return Model(
            self.pair.target,
            mtp_head=self.pair.head,
            n_ctx=N_CTX,
            n_threads=1,
            n_batch=self.n_batch,
            cache_type_k=self.k,
            cache_type_v=self.v,
            drafter=self.drafter,
            max_num_seqs=max_num_seqs,
            sampling_defaults=self.defaults,
        )

    def run(self) -> None:
        rng = self.rng
        with contextlib.closing(self.loop), self.load(rng.randint(1, 6)) as model:
            for _ in range(rng.randint(4, 30)):
                actions = [self.begin] if len(self.running) < 8 else []
                if self.running:
                    actions += [self.read, self.read, self.read, self.finish, self.cancel, self.close, self.forget]
                action = rng.choice(actions)
                action(model)
            while self.running:
                rng.choice([self.finish, self.finish, self.close])(model)

    def begin(self, model: Model) -> None:
        rng = self.rng
        text = rng.choice(self.texts)
        prompt = text[: rng.randint(1, len(text))] + self._ids(rng.choice([0, 0, 1, 20]))
        options: dict[str, Any] = {
            "max_tokens": rng.randint(1, 40),
            "num_speculative_tokens": rng.choice([0, 1, 3, 8, 16, "auto"]),
            "ignore_eos": rng.random() < 0.7,
            "seed": rng.randrange(1000),
            "temperature": rng.choice([0, 0.7, 1.0]),
            "acceptance": rng.choice(RULES),
        }
        if rng.random() < 0.3:
            options["logprobs"] = rng.randint(0, 4)
        if rng.random() < 0.3:
            options["stop"] = [chr(rng.randrange(97, 123)) for _ in range(3)]
        if rng.random() < 0.2:
            options |= {"top_k": rng.randint(1, 40), "repetition_penalty": 1.2, "min_p": 0.01}
        begin = rng.choice([model.generate, model.generate, model.agenerate])
        self.running.append(Running(prompt, options, begin(prompt, **options)))

    def _next(self, one: Running) -> bool:
        """Reads a chunk; False if there is none."""
        if isinstance(one.stream, Stream):
            one.chunks = one.chunks or iter(one.stream)
            chunk = next(one.chunks, None)
        else:
            one.chunks = one.chunks or aiter(one.stream)
            chunk = self.loop.run_until_complete(self._anext(one.chunks))
        if chunk is not None:
            one.take(chunk)
        return chunk is not None

    @staticmethod
    async def _anext(chunks: Any) -> Chunk | None:
        return await anext(chunks, None)

    def read(self, _: Model) -> None:
        one = self.rng.choice(self.running)
        for _ in range(self.rng.randint(1, 4)):
            if not self._next(one):
                self.check(one)
                return

    def finish(self, _: Model) -> None:
        """Several of them, in turns."""
        some = self.rng.sample(self.running, self.rng.randint(1, len(self.running)))
        for one in itertools.cycle(list(some)):
            if one in some and not self._next(one):
                some.remove(one)
                self.check(one)
            if not some:
                return

    def cancel(self, _: Model) -> None:
        one = self.rng.choice(self.running)
        one.stream.cancel()
        while self._next(one):
            pass
        self.check(one)

    def close(self, _: Model) -> None:
        one = self.rng.choice(self.running)
        one.stream.close()
        self.check(one)

    def forget(self, _: Model) -> None:
        """Nobody holds it any more."""
        self.running.remove(self.rng.choice(self.running))

    def check(self, one: Running) -> None:
        self.running.remove(one)
        told = f"{self.k}/{self.v} {self.drafter} n_batch {self.n_batch}: {one.prompt} {one.options}"
        assert one.stream.token_ids == one.tokens and one.stream.finish_reason is not None, told
        assert one.stream.stats.completion_tokens == len(one.tokens), told
        with self.load(1) as fresh:
            assert fresh.info.batch_invariant
            stream = fresh.generate(one.prompt, **one.options)
            expected = Running(one.prompt, one.options, stream)
            for chunk in stream:
                expected.take(chunk)
        n = len(one.tokens)
        assert one.tokens == expected.tokens[:n] and one.logprobs == expected.logprobs[:n], (
            f"{told}\n{one.tokens}\n{expected.tokens}"
        )
        whole = one.text.rstrip("\ufffd")  # a character that was cut off by cancelling
        assert expected.text.startswith(whole), f"{told}\n{one.text!r}\n{expected.text!r}"
        if one.stream.finish_reason != "cancelled":
            assert (n, one.text) == (len(expected.tokens), expected.text), told
            assert one.stream.finish_reason == stream.finish_reason, told
        self.checked += 1
        self.tokens += n


def write_pair(folder: Path) -> TinyPair:
    """A tiny one whose heads are large enough for the blocks of all cache types."""
    shape = replace(SHAPES["e2b"], head_size=64)
    return TinyPair(
        write_target(folder / "target.gguf", shape, weights="q8_0"),
        write_assistant(folder / "assistant.gguf", shape, weights="q8_0"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interleavings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begin, completions, tokens = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        pair = write_pair(Path(folder))
        for number in range(args.interleavings):
            interleaving = Interleaving(pair, random.Random(args.seed * 1_000_000 + number))
            try:
                interleaving.run()
            except BaseException:
                print(f"interleaving {number} of seed {args.seed}", flush=True)
                raise
            completions += interleaving.checked
            tokens += interleaving.tokens
            if number % 50 == 0:
                gc.collect()
    print(
        f"{args.interleavings} interleavings, {completions} completions of {tokens} tokens equal those of fresh models "
        f"({time.monotonic() - begin:.0f} s)"
    )


if __name__ == "__main__":
    main()

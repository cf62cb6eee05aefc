"""Exceptions out of a signal handler at random instants of loading, generating, reading and closing.

    python tests/support/interrupts.py --interrupts 10000 --seed 0

Each must reach the caller, leave no model busy and no model loaded. Another thread completes on the same model all the
while, and no interrupt may change its text. Prints what happened, and fails with a message.
"""

import argparse
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from pyllama_mtp import Model, Stream

DEMO = Path(str(resources.files("pyllama_mtp") / "demo"))
OPTIONS = {"mtp_head": DEMO / "assistant.gguf", "n_ctx": 512, "n_threads": 2}
REQUEST = {"max_tokens": 24, "temperature": 0, "ignore_eos": True, "num_speculative_tokens": 3}
IDS = [5, 6, 7] * 30


class Interrupt(Exception):
    """What the handler raises: no BaseException, so that whoever swallows exceptions swallows it."""


class Alarm:
    """Raises Interrupt from a signal handler once, after some seconds."""

    def __init__(self) -> None:
        self.raised = 0
        signal.signal(signal.SIGALRM, self._raise)

    def _raise(self, *_: object) -> None:
        self.raised += 1
        raise Interrupt

    def during(self, action: Callable[[], object], seconds: float) -> bool:
        """Whether action() was interrupted."""
        before = self.raised
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            action()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            return True
        assert self.raised == before, "an exception of the handler was lost"
        return False


def load() -> None:
    Model(DEMO / "target.gguf", **OPTIONS).close()


def read(model: Model) -> None:
    model.generate(IDS, logprobs=2, trace=True, **REQUEST).text()


def read_some(model: Model) -> None:
    for chunk in model.generate(IDS, **REQUEST):
        if len(chunk.token_ids) > 1:
            break


def begin(model: Model) -> None:
    model.generate(IDS, logit_bias={i: 1.0 for i in range(1000)}, **REQUEST).close()


def tokenize(model: Model) -> None:
    model.tokenize("<bos>word " * 8000)


def score(model: Model) -> None:
    model.logits(IDS)


class Beside:
    """A thread that completes without an end; wrong: texts that were other ones."""

    def __init__(self, model: Model, expected: str):
        self.n = 0
        self.wrong: list[str] = []
        self._stop = False
        self._thread = threading.Thread(target=self._work, args=(model, expected), daemon=True)
        self._thread.start()

    def _work(self, model: Model, expected: str) -> None:
        while not self._stop:
            text = model.generate(IDS, **REQUEST).text()
            self.n += 1
            if text != expected:
                self.wrong.append(text)

    def stop(self) -> None:
        self._stop = True
        self._thread.join()


def agrees(stream: Stream) -> bool:
    """Whether what an interrupted stream tells of itself fits together."""
    stream.close()
    return stream.stats.completion_tokens == len(stream.token_ids) and stream.finish_reason is not None


def seconds_of(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def models_mapped() -> int:
    return Path("/proc/self/maps").read_text().count(str((DEMO / "target.gguf").resolve()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interrupts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, alarm, before = random.Random(args.seed), Alarm(), threads()

    model = Model(DEMO / "target.gguf", **OPTIONS)
    expected = model.generate(IDS, **REQUEST).text()
    actions: list[Callable[[], object]] = [load]
    actions += [lambda action=action: action(model) for action in (read, read_some, begin, tokenize, score)]
    durations = [max(seconds_of(action) for _ in range(3)) for action in actions]
    interrupted = [0] * len(actions)
    streams = 0
    beside = Beside(model, expected)
    while sum(interrupted) < args.interrupts:
        index = rng.randrange(len(actions))
        interrupted[index] += alarm.during(actions[index], rng.uniform(1e-6, 1.2 * durations[index]))
        if rng.random() < 0.1:  # an interrupted stream that someone still holds
            stream = model.generate(IDS, **REQUEST)
            interrupted[1] += alarm.during(stream.text, rng.uniform(1e-6, durations[1]))
            assert agrees(stream), f"{stream.stats} and {len(stream.token_ids)} tokens"
            streams += 1
        if rng.random() < 0.05:
            assert model.generate(IDS, **REQUEST).text() == expected, "the text is another one"
    beside.stop()
    assert not beside.wrong, f"{len(beside.wrong)} of {beside.n} texts beside are other ones: {beside.wrong[0]!r}"
    assert model.generate(IDS, **REQUEST).text() == expected, "the text is another one"
    model.close()
    gc.collect()
    deadline = time.monotonic() + 5  # loads that were given up end soon
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == before, f"{threads() - before} threads are still there"
    assert models_mapped() == 0, f"{models_mapped()} models are still mapped"
    assert alarm.raised == sum(interrupted), f"{alarm.raised} raised, {sum(interrupted)} arrived"
    print(f"{alarm.raised} interrupts, {streams} streams that were held, {beside.n} texts beside: {interrupted}")


if __name__ == "__main__":
    main()

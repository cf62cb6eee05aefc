"""Text to tokens: as llama.cpp's own code does it, in a time that grows with the length, and no longer than needed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import ContextOverflowError, Model, ModelClosedError
from pyllama_mtp.gguf.format import Entry, read_header
from support.gguf_edit import rewrite

USER_DEFINED = 4
SPACES = [" ", "  ", "\n", "\n\n", "\t", "▁", "　"]

CHILD = """
import json, sys
from pyllama_mtp import Model
target, texts = sys.argv[1], json.load(open(sys.argv[2]))
with Model(target, n_ctx=64, n_threads=1) as model:
    print(json.dumps([[model.tokenize(t, add_special=a, parse_special=p) for a, p in
                      ((True, True), (False, False))] for t in texts]))
"""


def tokenized(target: Path, texts: Path, own: bool) -> list[list[list[int]]]:
    """Of each text with and without special tokens. own: cut at them by our code, else by llama.cpp's."""
    environment = os.environ | {"PYLLAMA_MTP_SPECIAL_TOKENS": "1" if own else "0"}
    command = [sys.executable, "-P", "-c", CHILD, target, texts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


def texts_of(names: list[str], words: list[str], n: int) -> Iterator[str]:
    """Special tokens, beginnings of them, spaces and words in any order, often run together."""
    rng = random.Random(5)
    for _ in range(n):
        pieces = []
        for _ in range(rng.randrange(40)):
            cut = rng.choice(names)[: rng.randrange(6)]
            pieces.append(rng.choice((rng.choice(names), cut, rng.choice(SPACES), rng.choice(words))))
        yield "".join(piece * rng.choice((1, 1, 1, 2, 5)) for piece in pieces)


@pytest.mark.parametrize("name", ["embedded", "phi-3"])  # llama.cpp lets phi-3's tokens take the space behind them
@pytest.mark.parametrize("n_user_defined", [0, 400])
def test_special_tokens_are_cut_out_as_llama_cpp_does(demo, tmp_path: Path, name: str, n_user_defined: int):
    header = read_header(demo.target)
    tokens, types = header.metadata["tokenizer.ggml.tokens"], header.metadata["tokenizer.ggml.token_type"].copy()
    texts = [tokens.raw(i).decode("utf-8", "replace") for i in range(len(tokens))]
    texts[20:23] = "</s>", "<s>", "<|endoftext|>"  # that phi-3 has, in place of unused ones
    normal = [i for i in np.flatnonzero(types == 1) if texts[i].isascii() and texts[i].strip()]
    types[random.Random(1).sample(normal, n_user_defined)] = USER_DEFINED
    target = rewrite(
        demo.target,
        tmp_path / "target.gguf",
        metadata={
            "general.name": Entry("string", name),
            "tokenizer.ggml.tokens": Entry("[string]", texts),
            "tokenizer.ggml.token_type": Entry(header.types["tokenizer.ggml.token_type"], types),
        },
    )
    special = [texts[i] for i in np.flatnonzero(np.isin(types, (2, 3, USER_DEFINED)))]
    (tmp_path / "texts").write_text(json.dumps(list(texts_of(special, [texts[i] for i in normal], 1500))))
    ours, theirs = (tokenized(target, tmp_path / "texts", own) for own in (True, False))
    assert len(ours) == 1500 and sum(len(ids) for pair in ours for ids in pair) > 50_000
    assert ours == theirs


@pytest.fixture(scope="module")
def model(demo) -> Iterator[Model]:
    with Model(demo.target, n_ctx=128, n_threads=1) as model:
        yield model


def seconds(call: Callable[[], object]) -> float:
    """Of CPU time, which other work on the machine does not change."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


@pytest.mark.parametrize("text", ["<bos>", "<bos>x", "<unused1><bos>", "<", "<unused", "\n", "a ", "  "])
def test_the_time_grows_with_the_length(model: Model, text: str):
    """600 kB of control tokens took two minutes: each was looked for in a list walked from its beginning."""
    short, long = text * (20_000 // len(text)), text * (400_000 // len(text))
    model.tokenize(short)
    base = min(seconds(lambda: model.tokenize(short)) for _ in range(3))
    assert seconds(lambda: model.tokenize(long)) < 20 * 4 * max(base, 0.005)


@pytest.mark.parametrize("text", ["a" * 30_000_000, "<bos>" * 6_000_000, "\n" * 30_000_000, "é" * 15_000_000])
def test_a_prompt_that_cannot_fit_is_refused_unseen(model: Model, text: str):
    """Plain text took 1.8 s and 120 MB a million characters before it was refused as too long."""

    def refused() -> None:
        with pytest.raises(ContextOverflowError, match=r"the prompt has \d+ tokens or more, the context holds 128"):
            model.generate(text)

    assert seconds(refused) < 1


def test_a_prompt_fits_or_not_by_one_token(model: Model):
    text = "x"
    while len(model.tokenize(text)) < 127:
        text += " = x"
    while len(model.tokenize(text)) > 127:
        text = text[:-1]
    model.generate(text).close()
    with pytest.raises(ContextOverflowError):
        model.generate(text + "<bos>")


class Interrupted(Exception):
    pass


def test_a_long_text_can_be_interrupted(model: Model):
    def interrupt(*_: object) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begin = time.perf_counter()
        with pytest.raises(Interrupted):
            model.tokenize("ab " * 4_000_000)
        assert time.perf_counter() - begin < 1.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_tokenizing_waits_for_no_step(demo):
    """It took the lock that steps take, so that a long text held up every completion of the model."""
    with Model(demo.target, n_ctx=128, n_threads=1) as model:
        thread = threading.Thread(target=lambda: model.tokenize("ab " * 1_000_000))
        thread.start()
        steps = 0
        while thread.is_alive():
            for _ in model.generate("x", max_tokens=8, ignore_eos=True):
                steps += thread.is_alive()
        assert steps > 20


def test_closing_a_model_ends_tokenizing(demo):
    model = Model(demo.target, n_ctx=128, n_threads=1)
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            model.tokenize("ab " * 4_000_000)
        except ModelClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    assert seconds(model.close) < 1.5
    thread.join(5)
    assert len(outcome) == 1

"""Requests at the edges of what is legal: right text, or an exception of the package that says what was seen."""

import copy
import gc
import math
import pickle
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from pyllama_mtp import (
    ChatTemplateError,
    ContextOverflowError,
    InvalidRequestError,
    Model,
    ModelLoadError,
    StreamError,
    generate,
)
from pyllama_mtp.cli import main

PROMPT = "def main():\n"
HUGE = 10**400  # JSON can say it, a float cannot hold it
UNPRINTABLE = 10**5000  # Python refuses to write it in decimal
TINY = (5e-324, 1e-310, 1e-300, 1e-45, 1e-38, 1e-31, 1e-30, 1e-20)
RULES = ("auto", "coupled", "rejection", "rejection_greedy", "block")


def text_of(model: Model, **options) -> str:
    defaults = {"max_tokens": 24, "ignore_eos": True, "num_speculative_tokens": 3, "seed": 5}
    return model.generate(PROMPT, **defaults | options).text()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", TINY)
def test_a_tiny_temperature_is_greedy(demo_model: Model, temperature: float, rule: str):
    """The reciprocal of a tiny temperature overflowed: token -1 ended the process, and text was drawn uniformly."""
    assert text_of(demo_model, temperature=temperature, acceptance=rule) == text_of(demo_model, temperature=0)


def test_a_tiny_temperature_is_greedy_with_the_other_options(demo_model: Model):
    for others in ({"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.1}, {"repetition_penalty": 1.3}, {"logprobs": 2}):
        for k in (0, 3):
            texts = {text_of(demo_model, temperature=t, num_speculative_tokens=k, **others) for t in (0, 1e-310, 1e-40)}
            assert len(texts) == 1


@pytest.mark.parametrize("rule", ["coupled", "block"])
@pytest.mark.parametrize("options", [{"top_p": 5e-324}, {"min_p": 1.0}, {"top_p": 1e-40, "temperature": 1e6}])
def test_the_least_support_is_the_most_probable_token(demo_model: Model, options: dict, rule: str):
    assert text_of(demo_model, acceptance=rule, **options) == text_of(demo_model, temperature=0)


@pytest.mark.parametrize("penalty", [5e-324, 1e-310, 1e-45, 1e-38, 1e-31])
def test_a_tiny_repetition_penalty_has_a_limit(demo_model: Model, penalty: float):
    """Quotients overflowed to an infinite logit, and the request ended as an internal error."""
    assert text_of(demo_model, repetition_penalty=penalty) == text_of(demo_model, repetition_penalty=1e-30)


def test_the_smallest_min_p_takes_nothing_away(demo_model: Model):
    for k in (0, 3):
        texts = {text_of(demo_model, min_p=p, num_speculative_tokens=k) for p in (0, 5e-324, 1e-300)}
        assert len(texts) == 1


NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [HUGE, -HUGE, UNPRINTABLE, Fraction(HUGE, 3), 1.7e308, math.nan, math.inf, True, np.bool_(True), Decimal("0.5")]
    + ["0.5", b"0.5", 0.5j, np.array(0.5), np.array([0.5, 0.5]), [0.5], object(), np.float64("nan"), np.float32("inf")],
    ids=lambda v: type(v).__name__,
)
def test_numbers_that_are_none(demo_model: Model, name: str, value: object):
    """Integers that no float holds raised OverflowError, arrays ValueError."""
    with pytest.raises(InvalidRequestError, match=f"^{name} is ") as caught:
        demo_model.generate(PROMPT, **{name: value})
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.float64(0.5), np.float16(0.5), np.longdouble(0.5), Fraction(1, 2)]
)
def test_numbers_of_other_types_are_numbers(demo_model: Model, name: str, value: object):
    assert text_of(demo_model, **{name: value}) == text_of(demo_model, **{name: 0.5})


def test_integers_of_numpy_are_integers(demo_model: Model):
    expected = text_of(demo_model, max_tokens=9, top_k=5, stop_token_ids=[7], logit_bias={400: 2.0})
    numbers = {"max_tokens": np.int64(9), "top_k": np.int8(5), "seed": np.uint64(5), "ignore_eos": np.bool_(True)}
    lists = {"stop_token_ids": np.array([7]), "logit_bias": {np.int32(400): np.float32(2)}}
    assert text_of(demo_model, **numbers, **lists, num_speculative_tokens=np.int64(3)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": HUGE},
        {"seed": UNPRINTABLE},
        {"logit_bias": {5: HUGE}},
        {"logit_bias": {UNPRINTABLE: 1.0}},
        {"logit_bias": {"5": 1.0}},
        {"logit_bias": {5: math.inf}},
        {"synthetic_acceptance": [HUGE]},
        {"synthetic_acceptance": np.array([[0.5]])},
        {"stop_token_ids": np.array([0.5])},
        {"stop_token_ids": {5}},
        {"stop": [np.array(["a"])]},
        {"acceptance": np.array(["auto", "block"])},
        {"num_speculative_tokens": np.array([1, 2])},
        {"trace": 1},
    ],
    ids=lambda o: next(iter(o)),
)
def test_options_of_the_wrong_kind(demo_model: Model, options: dict):
    with pytest.raises(InvalidRequestError):
        demo_model.generate(PROMPT, **options)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_request_that_forbids_every_token_is_the_callers_error(demo_model: Model, k: int, temperature: float):
    """It was called an internal error."""
    n = demo_model.info.n_vocab
    every = {
        "logit_bias": {"logit_bias": dict.fromkeys(range(n), -math.inf)},
        "min_tokens": {"stop_token_ids": list(range(n)), "min_tokens": 3},
        "both": {
            "logit_bias": dict.fromkeys(range(n // 2), -math.inf),
            "stop_token_ids": list(range(n // 2, n)),
            "min_tokens": 1,
        },
    }
    for options in every.values():
        with pytest.raises(InvalidRequestError, match="no token can be chosen"):
            text_of(demo_model, temperature=temperature, num_speculative_tokens=k, **options)
    assert text_of(demo_model, temperature=temperature, num_speculative_tokens=k)  # the model goes on


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (["a", "b"], "index 0 of the prompt holds a str, 'a'.*one prompt"),
        ([[1, 2], [3]], r"index 0 of the prompt holds a list, \[1, 2\].*one prompt"),
        ([5, "b"], "index 1 of the prompt holds a str"),
        ([np.array([1, 2])], "index 0 of the prompt holds a ndarray"),
        (np.array([[5]]), r"shape \(1, 1\)"),
        (np.array([5.0]), "token id .*5.0.* at index 0"),
        (np.array([True]), "at index 0"),
        (np.array([], dtype=int), "empty"),
        ([UNPRINTABLE], "token id of type int"),
    ],
)
def test_prompts_of_the_wrong_kind(demo_model: Model, prompt: object, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        demo_model.generate(prompt)


def test_an_array_of_ids_is_a_prompt(demo_model: Model):
    ids = demo_model.tokenize(PROMPT)
    texts = {
        demo_model.generate(p, max_tokens=9, seed=1).text() for p in (ids, np.array(ids), np.array(ids, np.uint16))
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    "messages",
    [[{"role": "user", 1: "x"}], [{"role": UNPRINTABLE}], [{"role": "user", "content": UNPRINTABLE}], 5, "text", None],
    ids=lambda m: type(m).__name__,
)
def test_messages_of_the_wrong_kind(demo_model: Model, messages: object):
    with pytest.raises(ChatTemplateError):
        demo_model.render_chat(messages)


def test_logits_of_more_tokens_than_the_context_holds(demo_model: Model):
    """Room for them was taken first, which raised MemoryError."""
    with pytest.raises(ContextOverflowError):
        demo_model.logits([5] * 1_000_000)


@pytest.mark.parametrize(
    "path",
    [UNPRINTABLE, object(), [], np.array([1]), "nul\0", "\ud800", "", ".", "a" * 5000, "\x1b[2J"],
    ids=lambda p: type(p).__name__,
)
def test_paths_of_the_wrong_kind(demo, path: object):
    for load in (
        lambda: Model(path),
        lambda: Model(demo.target, mtp_head=path),
        lambda: generate("x", model=path),
        lambda: generate("x", model=demo.target, mtp_head=path),
    ):
        with pytest.raises(ModelLoadError) as caught:
            load()
        assert len(str(caught.value)) < 800 and str(caught.value).isprintable()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_models_and_streams_are_not_copied(demo_model: Model, duplicate: Callable[[object], object]):
    """The copy shared the engine's handle, and closed it when it was collected."""
    with demo_model.generate(PROMPT, max_tokens=5, seed=1) as stream:
        for owner in (demo_model, stream):
            with pytest.raises(InvalidRequestError, match="cannot be copied"):
                duplicate(owner)
        gc.collect()
        assert stream.text()


def test_reading_a_stream_twice_is_an_exception_of_the_package(demo_model: Model):
    stream = demo_model.generate(PROMPT, max_tokens=3)
    stream.text()
    for ask in (stream.text, lambda: list(stream), lambda: stream.rounds):
        with pytest.raises(StreamError):
            ask()


def test_a_stream_keeps_its_model(demo):
    """The text of a stream whose model nobody else held was empty."""

    def complete() -> str:
        model = Model(demo.target, mtp_head=demo.head, n_ctx=256, n_threads=1)
        stream = model.generate(PROMPT, max_tokens=20, seed=1)
        del model
        gc.collect()
        return stream.text()

    assert complete() and complete() == complete()


@pytest.mark.parametrize("k", [0, 3, "auto"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6, "top_p": 0.95},
        {"temperature": 0},
        {"acceptance": "rejection"},
        {"acceptance": "coupled"},
    ],
    ids=lambda o: "-".join(map(str, o.values())) or "defaults",
)
def test_the_reported_seed_and_rule_give_the_text_again(demo_model: Model, k: int | str, options: dict):
    """A seed that was drawn came with another rule, and with drafts that followed the clock."""
    shared = {"max_tokens": 150, "num_speculative_tokens": k, "ignore_eos": True} | options
    for prompt in (PROMPT, "import os\n"):
        stream = demo_model.generate(prompt, **shared)
        text, stats = stream.text(), stream.stats
        again = demo_model.generate(prompt, **shared | {"seed": stats.seed, "acceptance": stats.acceptance})
        assert again.text() == text and again.stats.acceptance == stats.acceptance


def test_the_command_line_repeats_what_it_reports(demo, capsys: pytest.CaptureFixture[str]):
    run = ["run", str(demo.target), "--mtp-head", str(demo.head), "--raw", "--prompt", PROMPT, "--max-tokens", "100"]
    assert main([*run, "--n-threads", "1"]) == 0
    first = capsys.readouterr()
    seed, rule = first.err.split("seed ")[1].split("\n")[0].split(", acceptance ")
    assert main([*run, "--n-threads", "1", "--seed", seed, "--acceptance", rule]) == 0
    assert capsys.readouterr().out == first.out


def test_no_bonus_token_is_counted_after_an_accepted_end(demo_model: Model):
    """The mean acceptance length was that of a token which was never generated."""
    options = {"temperature": 0, "num_speculative_tokens": 8, "trace": True, "ignore_eos": True}
    stream = demo_model.generate(PROMPT, max_tokens=60, **options)
    stream.text()
    ends = {r.emitted[0] for r in stream.rounds if r.accepted > 0}  # an accepted draft: let it end the completion
    accepted_ends = 0
    for end in ends:
        stream = demo_model.generate(PROMPT, max_tokens=60, stop_token_ids=[end], **options)
        stream.text()
        rounds = [r for r in stream.rounds if r.drafted]
        accepted_ends += bool(rounds) and len(rounds[-1].emitted) == rounds[-1].accepted
        if rounds:
            mean = sum(len(r.emitted) for r in rounds) / len(rounds)
            assert stream.stats.mean_acceptance_length == pytest.approx(mean)
    assert accepted_ends > 0


class Endless(Sequence):
    """Token ids, more than memory holds."""

    def __len__(self) -> int:
        return 10**12

    def __getitem__(self, index):
        return 5


@pytest.mark.parametrize("ids", [Endless(), np.broadcast_to(np.int32(5), (10**9,)), range(10**15)], ids=type)
def test_too_many_ids_are_refused_before_they_are_looked_at(demo_model: Model, ids: Sequence[int]):
    """Ten million ids took minutes before they were refused."""
    for ask in (demo_model.generate, demo_model.prompt_ids, demo_model.logits):
        with pytest.raises(ContextOverflowError, match="expected at most"):
            ask(ids)


@pytest.mark.parametrize("unit", ["s", "generic"])
def test_a_span_of_time_is_no_integer(demo_model: Model, unit: str):
    """numpy counts timedelta64 among its integers, and int() of most is none: a TypeError escaped."""
    span = np.timedelta64(5, unit)
    for prompt in ([span], np.array([span])):
        with pytest.raises(InvalidRequestError, match="token id"):
            demo_model.generate(prompt)
    with pytest.raises(InvalidRequestError, match="seed is"):
        demo_model.generate(PROMPT, seed=span)

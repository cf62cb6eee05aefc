"""What must hold for every completion, on the embedded pair: exactness.md, point by point."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import (
    ContextOverflowError,
    IncompatibleHeadError,
    InvalidRequestError,
    Model,
    ModelLoadError,
)
from support.near_ties import TieCounter

PROMPT = "def read_lines(path):\n    with open(path) as file:\n"
WINDOW = 64  # of the embedded pair
CONTEXT = 256


def complete(model: Model, prompt, **options) -> tuple[list[int], str]:
    stream = model.generate(prompt, **options)
    return (text := stream.text()) is not None and (stream.token_ids, text)


def ids_of_length(model: Model, n: int) -> list[int]:
    """A prompt of exactly n tokens."""
    ids = model.tokenize(PROMPT * 100)
    return ids[:n]


@pytest.fixture(scope="module")
def small(demo):
    """The pair with a context that tests can fill."""
    with Model(demo.target, mtp_head=demo.head, n_ctx=CONTEXT, n_threads=1) as model:
        yield model


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 6, 7, 8, "auto"])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_rounds_add_up(demo_model: Model, k, temperature):
    stream = demo_model.generate(
        PROMPT, max_tokens=50, temperature=temperature, seed=1, num_speculative_tokens=k, trace=True, ignore_eos=True
    )
    stream.text()
    stats, rounds = stream.stats, stream.rounds
    assert stats.completion_tokens == len(stream.token_ids) == 50
    assert 1 + sum(len(r.emitted) for r in rounds) == 50
    for r in rounds:
        assert r.emitted[: r.accepted] == r.drafted[: r.accepted][: len(r.emitted)]
        assert len(r.emitted) <= r.accepted + 1
    assert stats.rounds == len(rounds)
    assert stats.drafted == sum(len(r.drafted) for r in rounds)
    assert stats.accepted == sum(r.accepted for r in rounds)
    if k == 0:
        assert stats.acceptance_rate is None and stats.mean_acceptance_length is None
    elif k != "auto":
        assert max(len(r.drafted) for r in rounds) == k
        assert stats.mean_acceptance_length == pytest.approx(
            sum(r.accepted + 1 for r in rounds if r.drafted) / sum(1 for r in rounds if r.drafted)
        )


def test_timers_add_up(demo_model: Model):
    """draft + verify + sample + rest is the wall time of the loop, and the rest is small."""
    stats = (
        stream := demo_model.generate(PROMPT, max_tokens=200, temperature=0.8, seed=1, ignore_eos=True)
    ).text() and stream.stats
    parts = stats.draft_seconds + stats.verify_seconds + stats.sample_seconds
    assert 0.9 * stats.decode_seconds < parts <= stats.decode_seconds


@pytest.mark.parametrize("n_prompt", [1, 2, WINDOW - 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 1])
def test_drafting_does_not_change_greedy_text(small: Model, n_prompt: int):
    prompt = ids_of_length(small, n_prompt)
    texts = []
    for k in (0, 1, 3, 8, "auto"):
        small.logits(prompt[-1:])  # forgets the prompt, which is then evaluated in the same batches again
        texts.append(complete(small, prompt, max_tokens=48, temperature=0, num_speculative_tokens=k)[0])
    assert all(ids == texts[0] for ids in texts)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.6, "top_p": 0.95},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 20, "min_p": 0.02},
        {"temperature": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
        {"temperature": 0.8, "min_tokens": 30, "logit_bias": {400: 2.0}},
    ],
    ids=lambda s: "-".join(s),
)
def test_the_seed_alone_decides_sampled_text(small: Model, sampling: dict):
    prompt = ids_of_length(small, 40)
    texts = {}
    for seed in (1, 2):
        texts[seed] = {
            k: complete(small, prompt, max_tokens=48, seed=seed, num_speculative_tokens=k, **sampling)[0]
            for k in (*range(9), "auto")
        }
        assert all(ids == texts[seed][0] for ids in texts[seed].values())
    assert texts[1][0] != texts[2][0]


@pytest.mark.parametrize("acceptance", ["rejection", "rejection_greedy", "block"])
@pytest.mark.parametrize("k", [3, "auto"])
def test_a_seed_repeats_the_text_under_every_rule(small: Model, acceptance: str, k: int | str):
    prompt = ids_of_length(small, 40)
    options = {"max_tokens": 60, "num_speculative_tokens": k, "acceptance": acceptance, "ignore_eos": True}
    texts = [complete(small, prompt, seed=seed, **options)[0] for seed in (1, 1, 1, 2)]
    assert texts[0] == texts[1] == texts[2] != texts[3]


def test_the_rule_follows_from_the_seed(demo_model: Model):
    def rule(**options) -> str:
        return demo_model.generate(PROMPT, max_tokens=1, **options).stats.acceptance

    assert rule(seed=1) == rule(seed=1, num_speculative_tokens=3) == "coupled"
    assert rule() == "coupled"  # live timings choose k, and the drawn seed gives the text again
    assert rule(num_speculative_tokens=3) == "block"
    assert rule(temperature=0) == rule(temperature=0, acceptance="block") == "coupled"
    assert rule(seed=1, acceptance="rejection") == "rejection"


def test_synthetic_acceptance_forces_rates(demo_model: Model):
    rates = [0.9, 0.5, 0.2]
    accepted = rounds = 0
    for seed in range(8):
        stream = demo_model.generate(
            PROMPT,
            max_tokens=400,
            temperature=0,
            seed=seed,
            ignore_eos=True,
            num_speculative_tokens=3,
            trace=True,
            synthetic_acceptance=rates,
        )
        stream.text()
        assert len(stream.token_ids) == 400
        assert all(r.emitted[: r.accepted] == r.drafted[: r.accepted] for r in stream.rounds)
        full = [r for r in stream.rounds if len(r.drafted) == 3]
        accepted += np.array([[r.accepted > i for i in range(3)] for r in full]).sum(axis=0)
        rounds += len(full)
    assert rounds > 1000
    assert accepted / rounds == pytest.approx(rates, abs=0.05)


@pytest.mark.parametrize("temperature, floor", [(0, 0.65), (0.8, 0.4)])
@pytest.mark.parametrize("acceptance", ["coupled", "block"])
def test_acceptance_does_not_collapse(demo_model: Model, temperature, floor, acceptance):
    """Regression guard: the text stays right while a wrong state, position or rotation kills acceptance unnoticed."""
    drafted = accepted = 0
    for text in (PROMPT, "class Stack:\n    def __init__(self):\n", "import os\nimport sys\n"):
        stream = demo_model.generate(
            text,
            max_tokens=120,
            temperature=temperature,
            seed=1,
            num_speculative_tokens=3,
            ignore_eos=True,
            acceptance=acceptance,
        )
        stream.text()
        drafted += stream.stats.drafted
        accepted += stream.stats.accepted
    assert accepted / drafted > floor


@pytest.mark.parametrize("cache_type", ["f32", "f16", "bf16", "q8_0", "q4_0", "iq4_nl", "turbo4", "turbo3", "turbo2"])
def test_acceptance_does_not_depend_on_the_cache_type(demo, cache_type: str):
    """A rotated cache with unrotated queries gives acceptance near 0 while the text stays right."""
    with Model(
        demo.target, mtp_head=demo.head, n_ctx=512, n_threads=1, cache_type_k=cache_type, cache_type_v=cache_type
    ) as model:
        stream = model.generate(PROMPT, max_tokens=200, temperature=0, num_speculative_tokens=2, ignore_eos=True)
        stream.text()
        assert stream.stats.acceptance_rate > 0.6


def test_the_context_is_filled_to_its_last_position(small: Model):
    for n_prompt in (CONTEXT - 1, CONTEXT - 2, CONTEXT - 7, CONTEXT - 30):
        for k in (0, 3, 8):
            stream = small.generate(
                ids_of_length(small, n_prompt), temperature=0, num_speculative_tokens=k, ignore_eos=True
            )
            stream.text()
            assert stream.finish_reason == "length"
            assert n_prompt + stream.stats.completion_tokens == CONTEXT


@pytest.mark.parametrize("n_prompt", [CONTEXT, CONTEXT + 1, 5 * CONTEXT])
def test_a_prompt_that_does_not_fit_is_refused(small: Model, n_prompt: int):
    with pytest.raises(ContextOverflowError, match=f"{n_prompt} tokens.*{CONTEXT}"):
        small.generate(ids_of_length(small, n_prompt))


@pytest.mark.parametrize("cache_type", ["f16", "q4_0"])
def test_a_reused_prefix_gives_the_text_of_a_fresh_model(demo, cache_type: str):
    """Prompts that share prefixes of every kind: longer, shorter, equal, and gone from the sliding window."""

    def load() -> Model:
        return Model(
            demo.target,
            mtp_head=demo.head,
            n_ctx=CONTEXT,
            n_threads=1,
            cache_type_k=cache_type,
            cache_type_v=cache_type,
        )

    with load() as model:
        check_prefix_reuse(model, load)


def check_prefix_reuse(model: Model, load: Callable[[], Model]) -> None:
    base = ids_of_length(model, 180)
    prompts = [base[:100], base, base, base[:20], base[:20] + base[50:90], base[:170]]
    options = {"max_tokens": 20, "temperature": 0, "num_speculative_tokens": 3, "ignore_eos": True}
    ties = TieCounter(model)
    got = []
    reused = []
    for prompt in prompts:
        stream = model.generate(prompt, **options)
        stream.text()
        got.append(stream.token_ids)
        reused.append(stream.stats.cached_prompt_tokens)
    assert max(reused) > 90
    for prompt, ids in zip(prompts, got, strict=True):
        with load() as fresh:
            ties.compare(prompt, complete(fresh, prompt, **options)[0], ids, 32)
    ties.check()


def test_a_stop_string_cuts_tokens_rounds_and_cache(demo_model: Model):
    full_ids, full = complete(demo_model, PROMPT, max_tokens=60, temperature=0, ignore_eos=True)
    stop = full[25:31]
    stream = demo_model.generate(PROMPT, max_tokens=60, temperature=0, ignore_eos=True, stop=[stop], trace=True)
    assert stream.text() == full[: full.index(stop)]
    assert stream.finish_reason == "stop"
    n = len(stream.token_ids)
    assert stream.token_ids == full_ids[:n]
    assert stream.stats.completion_tokens == n == min(1, n) + sum(len(r.emitted) for r in stream.rounds)
    again = demo_model.generate(PROMPT, max_tokens=60, temperature=0, ignore_eos=True)
    assert again.text() == full


def test_an_end_token_counts_and_is_not_shown(demo_model: Model):
    ids, text = complete(demo_model, PROMPT, max_tokens=30, temperature=0, ignore_eos=True)
    stream = demo_model.generate(PROMPT, max_tokens=30, temperature=0, stop_token_ids=[ids[12]], ignore_eos=True)
    shown = stream.text()
    assert stream.finish_reason == "stop"
    assert stream.token_ids == ids[: ids.index(ids[12]) + 1]
    assert text.startswith(shown)


def test_cancel_from_another_thread_then_go_on(demo_model: Model):
    expected, _ = complete(demo_model, PROMPT, max_tokens=40, temperature=0, ignore_eos=True)
    stream = demo_model.generate(PROMPT, temperature=0, ignore_eos=True)
    chunks = iter(stream)
    next(chunks)
    thread = threading.Thread(target=stream.cancel)
    thread.start()
    thread.join()
    assert [c.finish_reason for c in chunks][-1] == "cancelled"
    assert stream.finish_reason == "cancelled"
    assert complete(demo_model, PROMPT, max_tokens=40, temperature=0, ignore_eos=True)[0] == expected


def test_cancel_during_a_long_prefill(demo):
    with Model(demo.target, mtp_head=demo.head, n_ctx=4096, n_batch=32, n_threads=1) as model:
        stream = model.generate(ids_of_length(model, 1000) * 4)
        threading.Timer(0.05, stream.cancel).start()
        stream.text()
        assert stream.finish_reason == "cancelled"
        assert stream.stats.completion_tokens == 0


@pytest.mark.parametrize("acceptance", ["coupled", "rejection", "rejection_greedy", "block"])
def test_logprobs_are_those_of_the_logits(demo_model: Model, acceptance: str):
    prompt = ids_of_length(demo_model, 9)  # as many rows as the kernels of one-token steps take: equal logits
    demo_model.logits(prompt[:1])  # forgets K/V of longer prefills
    stream = demo_model.generate(
        prompt,
        max_tokens=60,
        temperature=0.8,
        seed=2,
        logprobs=3,
        ignore_eos=True,
        num_speculative_tokens=3,
        acceptance=acceptance,
    )
    rows = [row for chunk in stream for row in chunk.logprobs]
    ids = stream.token_ids
    assert [row[0].token_id for row in rows] == ids
    logits = demo_model.logits(prompt + ids, n_batch=1)[len(prompt) - 1 : -1].astype(np.float64)
    expected = (
        logits
        - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
        - logits.max(axis=1, keepdims=True)
    )
    for row, values in zip(rows, expected, strict=True):
        assert [e.logprob for e in row] == pytest.approx([values[e.token_id] for e in row], abs=0.02)
        assert [e.token_id for e in row[1:]] == np.argsort(-values)[:3].tolist()


def test_a_target_alone_decodes_plainly(demo):
    with Model(demo.target, n_ctx=256, n_threads=1) as model:
        stream = model.generate(PROMPT, max_tokens=20, temperature=0, num_speculative_tokens=3, trace=True)
        stream.text()
        assert stream.rounds and all(r.drafted == [] and r.accepted == 0 and len(r.emitted) == 1 for r in stream.rounds)


def test_loading_and_closing_frees_everything(demo):
    """In a process of its own: what other tests leave behind would be freed, or grow, in between."""
    code = """
import resource, sys
from pyllama_mtp import Model

def peak_kib():
    for _ in range(25):
        with Model(sys.argv[1], mtp_head=sys.argv[2], n_ctx=1024, n_threads=1) as model:
            model.generate("def f():", max_tokens=8, num_speculative_tokens=3).text()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(-peak_kib() + peak_kib())
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, demo.target, demo.head], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 8 * 1024


class TestFailures:
    def test_missing_file(self, demo):
        with pytest.raises(ModelLoadError, match="nowhere.gguf"):
            Model("nowhere.gguf")
        with pytest.raises(ModelLoadError, match="nowhere.gguf"):
            Model(demo.target, mtp_head="nowhere.gguf")

    def test_text_file(self, tmp_path: Path):
        (tmp_path / "a.gguf").write_text("This is no model at all, just text.")
        with pytest.raises(ModelLoadError, match="not a GGUF"):
            Model(tmp_path / "a.gguf")

    @pytest.mark.parametrize("part", ["target", "head"])
    @pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
    def test_truncated_file(self, demo, tmp_path: Path, part: str, share: float):
        whole = getattr(demo, part).read_bytes()
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(whole[: int(len(whole) * share)])
        files = {"target": demo.target, "head": demo.head} | {part: damaged}
        with pytest.raises(ModelLoadError, match="damaged.gguf"):
            Model(files["target"], mtp_head=files["head"])

    def test_head_given_as_target(self, demo):
        with pytest.raises(ModelLoadError, match="MTP head"):
            Model(demo.head)

    def test_target_given_as_head(self, demo):
        with pytest.raises(IncompatibleHeadError, match="gemma4"):
            Model(demo.target, mtp_head=demo.target)

    def test_head_of_another_model(self, demo, tmp_path: Path):
        from pyllama_mtp.gguf.random_weights import write_assistant
        from support.random_pairs import KINDS

        head = write_assistant(tmp_path / "other.gguf", KINDS["dense"], weights="f32")
        with pytest.raises(IncompatibleHeadError, match="another target"):
            Model(demo.target, mtp_head=head)

    def test_unknown_cache_type(self, demo):
        with pytest.raises((ModelLoadError, InvalidRequestError), match="q9_9"):
            Model(demo.target, cache_type_k="q9_9")

    def test_a_copy_under_another_name_loads(self, demo, tmp_path: Path):
        copy = tmp_path / "wörter mit leerzeichen.gguf"
        shutil.copy(demo.target, copy)
        Model(copy, n_ctx=256, n_threads=1).close()

"""Drafts that a CUDA device verifies before the host has seen them, and those that it makes ahead of the next step."""

import collections
import json

import pytest

from support.prompts import PROMPTS

GREEDY = {"temperature": 0, "max_tokens": 60, "ignore_eos": True, "trace": True}
SEEDED = {"temperature": 0.8, "top_k": 40, "seed": 5, "max_tokens": 60, "ignore_eos": True, "trace": True}
BLOCK = SEEDED | {"temperature": 1.0, "acceptance": "block"}
# Allows everything; but a mask has to know the drafts, so the host waits for them.
SEEN = {"logits_mask": lambda ids: None}
# Tables stay on the host, which then has to see the drafts to look them up.
TABLES_ON_HOST = {"n_gpu_layers": 99}


def rounds_of(stream) -> list[tuple]:
    """What each round drafted, accepted and gave."""
    stream.text()
    return [(r.drafted, r.accepted, r.emitted) for r in stream.rounds]


def check_alike(got: list[list[tuple]], expected: list[list[tuple]]) -> None:
    """All but one at most, which a tie may part: rows of tables are not decoded by one kernel."""
    assert sum(a != b for a, b in zip(got, expected, strict=True)) <= 1
    assert sum(accepted for rounds in got for _, accepted, _ in rounds) > len(got)


@pytest.mark.parametrize("options", [GREEDY, SEEDED, BLOCK], ids=["greedy", "coupled", "block"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_rounds_are_those_whose_drafts_were_seen(load, options, k: int):
    unseen, seen = (
        [rounds_of(model.generate(p, num_speculative_tokens=k, **options)) for p in PROMPTS]
        for model in (load(), load(**TABLES_ON_HOST))
    )
    check_alike(unseen, seen)


def test_rounds_of_several_are_those_whose_drafts_were_seen(load):
    """Every sequence's rows get its own column of the drafts."""
    runs = []
    for more in ({}, TABLES_ON_HOST):
        model = load(max_num_seqs=8, n_ctx=8192, **more)
        streams = [model.generate(p, num_speculative_tokens=3, **GREEDY) for p in PROMPTS]
        runs.append([rounds_of(stream) for stream in streams])
    check_alike(*runs)


def test_restricted_and_free_ones_side_by_side(load):
    model = load(max_num_seqs=4, n_ctx=4096)
    alone = [rounds_of(model.generate(p, num_speculative_tokens=3, **GREEDY)) for p in PROMPTS[:4]]
    streams = [
        model.generate(p, num_speculative_tokens=3, **GREEDY, **(SEEN if i % 2 else {}))
        for i, p in enumerate(PROMPTS[:4])
    ]
    texts = [[t for *_, emitted in rounds_of(stream) for t in emitted] for stream in streams]
    different = sum(a != [t for *_, emitted in b for t in emitted] for a, b in zip(texts, alone, strict=True))
    assert different <= 2  # ties of batches of other sizes


@pytest.mark.parametrize("k", [0, 3, "auto"])
def test_a_text_ends_after_any_number_of_tokens(load, k):
    """What was drafted ahead for rounds that do not come is dropped. A tie may decide otherwise among fewer rows."""
    model = load()
    texts = [run_ids(model, n, k) for n in (24, *range(1, 25))]
    assert [len(text) for text in texts[1:]] == list(range(1, 25))
    assert sum(text != texts[-1][: len(text)] for text in texts[1:]) <= 2


def run_ids(model, n: int, k) -> tuple[int, ...]:
    stream = model.generate(PROMPTS[0], num_speculative_tokens=k, **GREEDY | {"max_tokens": n})
    stream.text()
    return tuple(stream.token_ids)


def test_one_that_leaves_takes_no_other_ones_drafts_along(load):
    """Drafts that were begun for two are for neither when one has left: what is left drafts again."""
    model = load(max_num_seqs=2, n_ctx=2048)
    options = GREEDY | {"num_speculative_tokens": 3, "max_tokens": 80}
    stays = model.generate(PROMPTS[1], **options)
    leaves = model.generate(PROMPTS[0], **options)
    chunks = iter(stays), iter(leaves)
    for _ in range(3):
        for each in chunks:
            next(each)
    leaves.close()
    for _ in chunks[0]:
        pass
    alone = model.generate(PROMPTS[1], **options)
    alone.text()
    assert stays.stats.completion_tokens == 80
    assert stays.stats.acceptance_rate == pytest.approx(alone.stats.acceptance_rate, abs=0.15)


def test_other_work_between_two_steps_changes_no_round(load):
    """Logits of another text are computed, and a stop string cuts one, while drafts of the next step are under way."""
    model = load(max_num_seqs=2, n_ctx=2048)
    options = GREEDY | {"num_speculative_tokens": 3}
    _, expected = (rounds_of(model.generate(PROMPTS[0], **options)) for _ in range(2))
    stream = model.generate(PROMPTS[0], **options)
    for i, _ in enumerate(stream):
        if i % 3 == 0:
            model.logits(model.tokenize(PROMPTS[1]))
    assert [(r.drafted, r.accepted, r.emitted) for r in stream.rounds] == expected
    text = model.generate(PROMPTS[0], **options).text()
    stop = text[len(text) // 2 :][:3]
    assert model.generate(PROMPTS[0], stop=[stop], **options).text() == text[: text.index(stop)]
    assert rounds_of(model.generate(PROMPTS[0], **options)) == expected


def test_a_model_closes_while_drafts_are_under_way(load):
    for _ in range(3):
        model = load()
        stream = model.generate(PROMPTS[0], num_speculative_tokens=3, **GREEDY)
        chunks = iter(stream)
        for _ in range(3):
            next(chunks)
        model.close()


def calls_per_round(model, tmp_path, **options) -> collections.Counter[str]:
    """Calls of the CUDA runtime, by a trace."""
    profiler = pytest.importorskip("torch.profiler")
    many = options | {"max_tokens": 120, "num_speculative_tokens": 3}
    model.generate(PROMPTS[0], **many).text()
    stream = model.generate(PROMPTS[0], **many)
    chunks = iter(stream)
    for _ in range(10):
        next(chunks)
    before = stream.stats.rounds
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as trace:
        for _ in chunks:
            pass
    trace.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    calls = collections.Counter(e["name"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver"))
    return collections.Counter({name: n / (stream.stats.rounds - before) for name, n in calls.items()})


def test_the_host_waits_once_a_round(load, tmp_path):
    """It waited for the drafts too, and for each copy to memory that is not pinned. A round has one call more, which
    does not wait: llama.cpp's, where the state is asked for.
    """
    model = load()
    unseen = calls_per_round(model, tmp_path, **GREEDY)
    seen = calls_per_round(model, tmp_path, **GREEDY, **SEEN)
    assert unseen["cudaGraphLaunch"] > 1.5, unseen  # the trace has the calls
    assert unseen["cudaStreamSynchronize"] < 2.5 and unseen["cudaMemcpyAsync"] < 0.3, unseen
    assert seen["cudaStreamSynchronize"] > unseen["cudaStreamSynchronize"] + 0.7, (seen, unseen)

"""What a completion tells beside its text: why it ended, logprobs with texts, the prompt's too, the raw text."""

import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model
from support.statistics import log_probabilities

PROMPT = "def read_lines(path):\n    with open(path) as file:\n"
GREEDY = {"temperature": 0, "max_tokens": 24}


def test_stop_reasons(demo_model: Model):
    whole = demo_model.generate(PROMPT, **GREEDY, ignore_eos=True)
    text = whole.text()
    last = list(demo_model.generate(PROMPT, **GREEDY, stop=["never", text[5:9]]))[-1]
    assert (last.finish_reason, last.stop_reason) == ("stop", text[5:9])
    token = whole.token_ids[4]
    last = list(demo_model.generate(PROMPT, **GREEDY, stop_token_ids=[token], ignore_eos=True))[-1]
    assert (last.finish_reason, last.stop_reason, last.token_ids[-1]) == ("stop", token, token)
    last = list(demo_model.generate(PROMPT, **GREEDY, ignore_eos=True))[-1]
    assert (last.finish_reason, last.stop_reason) == ("length", None)
    (result,) = demo_model.generate_all([PROMPT], **GREEDY, stop=text[5:9])
    assert (result.finish_reason, result.stop_reason) == ("stop", text[5:9])


def test_an_end_of_generation_is_no_stop_reason(demo_model: Model):
    end = demo_model.tokenize("<eos>")[-1]
    last = list(demo_model.generate(PROMPT, logit_bias={end: 1000.0}, **GREEDY))[-1]
    assert (last.finish_reason, last.stop_reason, last.token_ids, last.text) == ("stop", None, [end], "")
    last = list(demo_model.generate(PROMPT, logit_bias={end: 1000.0}, raw=True, **GREEDY))[-1]
    assert (last.finish_reason, last.token_ids, last.text) == ("stop", [end], "<eos>")


def test_logprobs_have_the_tokens_texts(demo_model: Model):
    text, told = "", ""
    for chunk in demo_model.generate(PROMPT, seed=1, max_tokens=24, ignore_eos=True, logprobs=3):
        text += chunk.text
        assert [row[0].token_id for row in chunk.logprobs] == chunk.token_ids
        told += "".join(row[0].text for row in chunk.logprobs)
        for entry in (entry for row in chunk.logprobs for entry in row):
            assert entry.token_bytes and entry.text == entry.token_bytes.decode("utf-8", "replace")
            assert not entry.text.startswith("<") or demo_model.tokenize(entry.text)[-1] == entry.token_id
    assert told == text


def reference(model: Model, ids: list[int], n: int) -> list[list[tuple[int, float]]]:
    rows: list[list[tuple[int, float]]] = [[]]
    for row, token in zip(log_probabilities(model.logits(ids)), ids[1:], strict=False):
        best = sorted(range(len(row)), key=lambda t, row=row: (-row[t], t))[:n]
        rows.append([(t, float(row[t])) for t in (token, *best)])
    return rows


def check_prompt(told: list, expected: list) -> None:
    assert [[entry.token_id for entry in row] for row in told] == [[token for token, _ in row] for row in expected]
    for row, others in zip(told, expected, strict=True):
        assert np.allclose([e.logprob for e in row], [logprob for _, logprob in others], atol=1e-4)


@pytest.fixture(scope="module")
def ids(demo_model: Model) -> list[int]:
    return demo_model.tokenize(PROMPT * 8)


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("max_num_seqs", [1, 3])
def test_prompt_logprobs_are_those_of_the_logits(demo, ids: list[int], n: int, max_num_seqs: int):
    """In chunks, whatever is cached, and beside others that decode."""
    assert len(ids) > 100
    with Model(demo.target, mtp_head=demo.head, n_ctx=512, n_threads=1, max_num_seqs=max_num_seqs) as model:
        expected = reference(model, ids, n)
        plain = model.generate(ids, **GREEDY)
        text = plain.text()
        others = [iter(model.generate(PROMPT + str(i), max_tokens=400, seed=i)) for i in range(max_num_seqs - 1)]
        for other in others:
            next(other)
        stream = model.generate(ids, **GREEDY, prompt_logprobs=n)
        first, *rest = list(stream)
        check_prompt(first.prompt_logprobs, expected)
        assert first.text + "".join(chunk.text for chunk in rest) == text
        assert all(chunk.prompt_logprobs is None for chunk in rest) and stream.stats.cached_prompt_tokens == 0
        for other in others:
            other.close()
        again = model.generate(ids, **GREEDY)
        assert again.text() == text and again.stats.cached_prompt_tokens == len(ids) - 1


def test_several_at_a_time(demo, ids: list[int]):
    with Model(demo.target, mtp_head=demo.head, n_ctx=512, n_threads=1, max_num_seqs=4) as model:
        prompts = [ids[: 60 + 10 * i] for i in range(5)]
        expected = [reference(model, prompt, 2) for prompt in prompts]
        results = list(model.generate_all(prompts, **GREEDY, prompt_logprobs=2))
        for result, rows in zip(results, expected, strict=True):
            assert result.error is None
            check_prompt(result.prompt_logprobs, rows)


def test_a_prompt_of_one_token_has_nothing_to_tell(demo_model: Model):
    first, *_ = demo_model.generate([2], **GREEDY, prompt_logprobs=5)
    assert first.prompt_logprobs == [[]]
    assert next(iter(demo_model.generate([2], **GREEDY))).prompt_logprobs is None


def test_echo(demo_model: Model, ids: list[int]):
    text = demo_model.generate(PROMPT, **GREEDY).text()
    stream = demo_model.generate(PROMPT, **GREEDY, echo=True, prompt_logprobs=0)
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == PROMPT + text
    assert len(stream.token_ids) == stream.stats.completion_tokens == sum(len(chunk.token_ids) for chunk in chunks)
    told = b"".join(row[0].token_bytes for row in chunks[0].prompt_logprobs[1:])
    assert told.decode() == PROMPT
    assert demo_model.generate(ids, **GREEDY, echo=True).text().startswith("<bos>" + PROMPT * 8)
    (result,) = demo_model.generate_all([PROMPT], **GREEDY, echo=True)
    assert result.text == PROMPT + text
    stopped = demo_model.generate(PROMPT, **GREEDY, echo=True, stop=["def"])
    assert stopped.text().startswith(PROMPT)


def test_a_cancelled_prompt_has_told_what_it_had(demo, ids: list[int]):
    with Model(demo.target, n_ctx=512, n_threads=1) as model:
        stream = model.generate(ids, **GREEDY, prompt_logprobs=1)
        stream.cancel()
        (chunk,) = list(stream)
        assert chunk.finish_reason == "cancelled" and chunk.token_ids == [] and chunk.prompt_logprobs == [[]]


@pytest.mark.parametrize("options", [{"prompt_logprobs": 65}, {"prompt_logprobs": -1}, {"raw": 1}, {"echo": "yes"}])
def test_options_out_of_range(demo_model: Model, options: dict):
    (name,) = options
    with pytest.raises(InvalidRequestError, match=name):
        demo_model.generate(PROMPT, **options)

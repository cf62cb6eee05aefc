"""The official client of the API gets what Model gives, in every way it has of asking."""

import asyncio
import json

import openai
import pytest

from pyllama_mtp import Model
from support.serving import Served, events

PROMPT = "def main():\n"
MESSAGES = [{"role": "user", "content": "Write a function."}]
SAMPLED = {"max_tokens": 40, "temperature": 0.8, "seed": 11, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def client(served: Served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def expected(reference: Model, prompt, **options) -> str:
    return reference.generate(prompt, **{"max_tokens": 40, "temperature": 0.8, "ignore_eos": True} | options).text()


def test_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["pair", "other-name"]
    assert client.models.retrieve("other-name").id == "other-name"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("third")


def test_chat(client: openai.OpenAI, reference: Model):
    answer = client.chat.completions.create(model="pair", messages=MESSAGES, **SAMPLED)
    (choice,) = answer.choices
    assert choice.message.content == expected(reference, MESSAGES, seed=11)
    assert (choice.finish_reason, choice.message.role, answer.object) == ("length", "assistant", "chat.completion")
    assert answer.usage.completion_tokens == 40
    assert answer.usage.prompt_tokens == len(reference.prompt_ids(MESSAGES))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 40


def test_streamed_chat(client: openai.OpenAI, reference: Model):
    chunks = list(
        client.chat.completions.create(
            model="pair", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **SAMPLED
        )
    )
    *parts, last = chunks
    assert "".join(part.choices[0].delta.content or "" for part in parts) == expected(reference, MESSAGES, seed=11)
    assert [part.choices[0].finish_reason for part in parts].count("length") == 1
    assert parts[0].choices[0].delta.role == "assistant" and len(parts) > 5
    assert last.choices == [] and last.usage.completion_tokens == 40
    assert last.timings["predicted_n"] == 40 and last.metrics["speculative_decoding"]["num_draft_tokens"] >= 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_async(served: Served, reference: Model):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                options = SAMPLED | {"seed": seed}
                stream = await client.chat.completions.create(model="pair", messages=MESSAGES, stream=True, **options)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one(seed) for seed in range(6)))

    assert asyncio.run(ask()) == [expected(reference, MESSAGES, seed=seed) for seed in range(6)]


def test_completions_of_texts_and_tokens(client: openai.OpenAI, reference: Model):
    prompts = ["import os\n", "class A:\n"]
    answer = client.completions.create(model="pair", prompt=prompts, n=2, **SAMPLED)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in answer.choices]
    assert texts == [expected(reference, prompt, seed=seed) for prompt in prompts for seed in (11, 12)]
    assert [choice.seed for choice in answer.choices] == [11, 12, 11, 12]
    assert answer.usage.completion_tokens == 160
    assert answer.usage.prompt_tokens == sum(len(reference.tokenize(prompt)) for prompt in prompts)
    ids = reference.tokenize(PROMPT)
    assert client.completions.create(model="pair", prompt=ids, **SAMPLED).choices[0].text == expected(
        reference, PROMPT, seed=11
    )
    assert client.completions.create(model="pair", prompt=PROMPT).usage.completion_tokens <= 16


def test_streamed_completions_of_several(client: openai.OpenAI, reference: Model):
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(model="pair", prompt=PROMPT, n=2, stream=True, **SAMPLED):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: expected(reference, PROMPT, seed=11), 1: expected(reference, PROMPT, seed=12)}


def test_a_seed_that_was_told_gives_the_text_again(client: openai.OpenAI):
    options = {"model": "pair", "prompt": PROMPT, "max_tokens": 40, "temperature": 1.0}
    rule = {"extra_body": {"acceptance": "coupled"}}
    first = client.completions.create(**options, **rule).choices[0]
    assert client.completions.create(**options, **rule, seed=first.seed).choices[0].text == first.text
    assert client.completions.create(**options, **rule).choices[0].seed != first.seed


@pytest.mark.parametrize("k", [0, 1, 3, "auto"])
def test_drafts_of_a_request_change_no_text(client: openai.OpenAI, reference: Model, k: int | str):
    extra = {"ignore_eos": True, "num_speculative_tokens": k}
    answer = client.completions.create(model="pair", prompt=PROMPT, **SAMPLED | {"extra_body": extra})
    assert answer.choices[0].text == expected(reference, PROMPT, seed=11)
    figures = answer.metrics["speculative_decoding"]
    assert figures["num_spec_tokens"] <= (16 if k == "auto" else k)
    assert (figures["num_draft_tokens"] > 0) or k in (0, "auto")
    assert sum(figures["acceptance_histogram"]) == figures["num_spec_steps"]
    assert figures["num_accepted_draft_tokens"] == sum(i * n for i, n in enumerate(figures["acceptance_histogram"]))
    assert answer.timings["draft_n"] == figures["num_draft_tokens"]


def test_stop_strings(client: openai.OpenAI, reference: Model):
    text = expected(reference, PROMPT, temperature=0)
    stop = text[10:13]
    options = {"model": "pair", "prompt": PROMPT, "temperature": 0, "max_tokens": 40, "stop": [stop]}
    choice = client.completions.create(**options).choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
    streamed = client.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text


def test_logprobs(client: openai.OpenAI, reference: Model):
    options = {"temperature": 0, "max_tokens": 12}
    chunks = list(reference.generate(PROMPT, **options, ignore_eos=True, logprobs=2))
    rows = [row for chunk in chunks for row in chunk.logprobs]
    extra = {"extra_body": {"ignore_eos": True}}
    told = client.completions.create(model="pair", prompt=PROMPT, logprobs=2, **options, **extra).choices[0].logprobs
    assert told.token_logprobs == pytest.approx([row[0].logprob for row in rows])
    assert "".join(told.tokens) == "".join(chunk.text for chunk in chunks)
    assert told.text_offset == [len("".join(told.tokens[:i])) for i in range(12)]
    assert all(len(best) <= 2 and token in best for token, best in zip(told.tokens, told.top_logprobs, strict=True))

    chat = {"model": "pair", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2} | options
    whole = client.chat.completions.create(**chat).choices[0]
    assert "".join(token.token for token in whole.logprobs.content) == whole.message.content
    assert all(
        len(token.top_logprobs) == 2 and bytes(token.bytes).decode() == token.token for token in whole.logprobs.content
    )
    parts = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**chat, stream=True)]
    assert [token for part in parts if part for token in part.content] == whole.logprobs.content


def test_usage_in_every_chunk(served: Served):
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": PROMPT, "max_tokens": 30, "ignore_eos": True, "stream": True, "stream_options": options}
    counts = [e["usage"]["completion_tokens"] for e in events(served.post("/v1/completions", body).body)]
    assert counts == sorted(counts) and counts[-1] == 30 and len(set(counts)) > 5


def test_a_second_turn_tells_what_was_cached(client: openai.OpenAI):
    first = [{"role": "user", "content": "Write a program that reads a file. " * 12}]
    answer = client.chat.completions.create(model="pair", messages=first, **SAMPLED)
    told = {"role": "assistant", "content": answer.choices[0].message.content}
    second = client.chat.completions.create(
        model="pair", messages=[*first, told, {"role": "user", "content": "And now?"}], **SAMPLED
    )
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert 64 <= cached < second.usage.prompt_tokens
    assert second.timings["cache_n"] == cached
    assert second.timings["prompt_n"] == second.usage.prompt_tokens - cached


def test_tokens_there_and_back(served: Served, reference: Model):
    answer = served.post("/tokenize", {"prompt": PROMPT, "return_token_strs": True}).json
    assert answer["tokens"] == reference.tokenize(PROMPT) and answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 1024 and "".join(answer["token_strs"]) == PROMPT
    plain = served.post("/tokenize", {"prompt": PROMPT, "add_special_tokens": False}).json["tokens"]
    assert plain == reference.tokenize(PROMPT, add_special=False)
    assert served.post("/detokenize", {"tokens": plain}).json == {"prompt": PROMPT}
    assert served.post("/tokenize", {"messages": MESSAGES}).json["tokens"] == reference.prompt_ids(MESSAGES)


def test_text_of_any_script(served: Served):
    """Of JSON's escapes none may be left over, in either direction."""
    text = 'é 😀 "quoted" \\ \u2028 \x00 \x7f'
    ids = served.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json["tokens"]
    assert served.post("/detokenize", {"tokens": ids}).json["prompt"] == text
    raw = json.dumps({"prompt": text, "add_special_tokens": False}, ensure_ascii=False).encode()
    assert served.post("/tokenize", raw).json["tokens"] == ids

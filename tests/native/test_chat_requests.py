"""Messages, tools, thoughts and grammars together, through Model.generate as callers use it."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model
from pyllama_mtp.chat.formats import output_format
from pyllama_mtp.results import Chunk, ToolCall
from support.real_chat import GEMMA4_31B, RealChat, templates, with_template

# As Gemma 4's vocabulary has them.
THOUGHT, THOUGHT_END, CALL, CALL_END, RESPONSE = 100, 101, 48, 49, 50
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Bergen", 'a "b" {,}']},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "note": {"type": "string", "maxLength": 3},
        "where": {"type": "object", "properties": {"lat": {"enum": [1.5, -2]}}, "required": ["lat"]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
CLOCK = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock", "parameters": CLOCK}},
]
SCHEMAS = {"weather": WEATHER, "clock": CLOCK}
MESSAGES = [{"role": "user", "content": "Is it cold in Oslo?"}]
NAMED = {"type": "function", "function": {"name": "weather"}}
ANSWER = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
JSON = {"response_format": {"type": "json_schema", "json_schema": {"schema": ANSWER}}}
THINKS = {"chat_template_kwargs": {"enable_thinking": True}}
DRAFTS = (0, 3, 8, "auto")


@pytest.fixture(scope="module")
def model(real_chat: RealChat) -> Iterator[Model]:
    options = {"n_ctx": 1024, "n_threads": 1, "sampling_defaults": "vllm"}
    with Model(real_chat.target, mtp_head=real_chat.head, **options) as model:
        yield model


@pytest.fixture(scope="module")
def trained(demo, archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The embedded pair with Gemma 4's template, which drafts what has been there before."""
    path = with_template(demo.target, tmp_path_factory.mktemp("trained") / "t.gguf", templates(archive)[GEMMA4_31B])
    with Model(path, drafter="ngram", n_ctx=1024, n_threads=1, sampling_defaults="vllm") as model:
        yield model


def all_of(chunks: list[Chunk]) -> tuple[str, str, list[ToolCall]]:
    return (
        "".join(chunk.text for chunk in chunks),
        "".join(chunk.reasoning for chunk in chunks),
        [call for chunk in chunks for call in chunk.tool_calls],
    )


def check_calls(calls: list[ToolCall]) -> None:
    for call in calls:
        jsonschema.validate(call.arguments, SCHEMAS[call.name])
        json.dumps(call.arguments, allow_nan=False)
    assert len({call.id for call in calls}) == len(calls) and all(call.id.startswith("call_") for call in calls)


def ids_of_drafts(model: Model, **options: Any) -> list[Chunk]:
    """The chunks of a completion, whose tokens are the same for every number of drafts and beside others."""
    others = [model.generate("other text", seed=n, max_tokens=20, ignore_eos=True) for n in range(1)]
    streams = [model.generate(MESSAGES, num_speculative_tokens=k, **options) for k in DRAFTS]
    chunks = [list(stream) for stream in streams]
    alone = model.generate(MESSAGES, num_speculative_tokens=3, **options)
    for other in others:
        other.close()
    list(alone)
    assert len({tuple(stream.token_ids) for stream in (*streams, alone)}) == 1
    told = [
        (text, reasoning, [(c.name, c.arguments, c.raw) for c in calls])
        for text, reasoning, calls in map(all_of, chunks)
    ]
    assert all(one == told[0] for one in told)
    return chunks[1]


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("thinks", [False, True])
def test_calls_that_are_asked_for(model: Model, choice: Any, thinks: bool):
    bias = {THOUGHT: 4.0, THOUGHT_END: 11.0} if thinks else {}
    names: set[str] = set()
    for seed in range(2 if choice is NAMED else 1):
        options = {"seed": seed, "max_tokens": 70, "logit_bias": bias | {RESPONSE: 3.0}} | (THINKS if thinks else {})
        chunks = ids_of_drafts(model, tools=TOOLS, tool_choice=choice, **options)
        text, reasoning, calls = all_of(chunks)
        assert text == "" and (thinks or reasoning == "")
        check_calls(calls)
        names |= {call.name for call in calls}
        if chunks[-1].finish_reason != "length":
            assert chunks[-1].finish_reason == "tool_calls" and calls
            assert choice == "required" or [call.name for call in calls] == ["weather"]
    assert names and (choice == "required" or names == {"weather"})


def test_calls_that_the_model_may_make(model: Model):
    """Text, and a call where the model begins one; behind it more calls, or the end."""
    seen = set()
    for seed in range(8):
        options = {"seed": seed, "max_tokens": 50, "logit_bias": {CALL: 13.0, RESPONSE: 13.0}}
        stream = model.generate(MESSAGES, tools=TOOLS, tool_choice="auto", num_speculative_tokens=3, **options)
        text, _, calls = all_of(list(stream))
        check_calls(calls)
        assert bool(calls) == (CALL_END in stream.token_ids)
        if stream.finish_reason != "length":
            assert stream.finish_reason == ("tool_calls" if calls else "stop")
        seen.add((bool(text), bool(calls)))
    assert (True, True) in seen


def test_no_calls(model: Model):
    bias = {THOUGHT: 4.0, THOUGHT_END: 10.0, CALL: 90.0}
    for extra in ({}, THINKS):
        options = {"seed": 1, "max_tokens": 30, "logit_bias": bias, **extra}
        chunks = ids_of_drafts(model, tools=TOOLS, tool_choice="none", **options)
        assert not all_of(chunks)[2] and all(CALL not in chunk.token_ids for chunk in chunks)


def test_tools_alone_restrict_nothing(model: Model):
    options = {"seed": 4, "max_tokens": 20}
    free, tools = (model.generate(MESSAGES, tools=TOOLS, tool_choice=c, **options) for c in (None, "auto"))
    assert free.text() == tools.text()


def test_a_thought_calls_nothing_that_the_grammar_forbids(model: Model):
    """A thought was unrestricted but for an end, and a call within one is read as a call: of any name and any
    arguments, whatever tool_choice said, and beside a response_format."""
    bias = {CALL: 60.0, THOUGHT_END: 14.0}
    opened = "<|turn>user\n{{ messages[0].content }}<turn|>\n<|turn>model\n<|channel>thought\n"
    for choice in ({"tools": TOOLS, "tool_choice": "required"}, {"tools": TOOLS, **JSON}):
        stream = model.generate(MESSAGES, seed=2, max_tokens=60, logit_bias=bias, chat_template=opened, **choice)
        text, reasoning, calls = all_of(list(stream))
        end = list(stream.token_ids).index(THOUGHT_END)
        assert end > 0 and reasoning and CALL not in stream.token_ids[:end]
        check_calls(calls)
        assert bool(calls) == ("tool_choice" in choice) != text.startswith("{")


def test_a_text_of_a_grammar_is_no_call(model: Model):
    """call:name{...} behind an empty thought was read as a call that has lost its mark, though a regular expression
    said that it is the text."""
    chunks = list(model.generate(MESSAGES, regex=r"call:f\{\}", seed=1))
    assert all_of(chunks) == ("call:f{}", "", []) and chunks[-1].finish_reason == "stop"
    free = model.prompt_ids(MESSAGES)
    assert free[-1] == THOUGHT_END


def pushed(model: Model, texts: str, weight: float) -> dict[int, float]:
    return dict.fromkeys(model.tokenize(texts, add_special=False), weight)


# A history with thoughts, as no published template shows them: so there is something to draft from.
SHOWS_THOUGHTS = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}\n{% if m.reasoning_content %}<|channel>"
    "{{ m.reasoning_content }}<channel|>{% endif %}{{ m.content }}<turn|>\n{% endfor %}<|turn>assistant\n"
)


def test_a_grammar_begins_amid_accepted_drafts(trained: Model):
    """The end of a thought, and what the grammar allows behind it, in the accepted drafts of one round."""
    form = output_format(trained._loop.native)
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "reasoning_content": " a", "content": '{"a": 7}'}]
    messages = [*turns * 3, turns[0]]
    bias = pushed(trained, " a", 200.0) | pushed(trained, '{"a": 7}', 90.0)
    bias |= {form.thought_begin: 150.0, form.thought_end: 200.0}
    common = {"max_tokens": 40, "temperature": 10.0, "trace": True, "logit_bias": bias}  # no token is certain
    held, went_on = 0, 0
    for seed in range(14):
        ids = set()
        for k in DRAFTS:
            others = [trained.generate("import os\n", seed=n, max_tokens=20) for n in range(2 * (k == 3))]
            options = {"seed": seed, "num_speculative_tokens": k, **common}
            stream = trained.generate(messages, chat_template=SHOWS_THOUGHTS, **JSON, **options)
            text, reasoning, calls = all_of(list(stream))
            ids.add(tuple(stream.token_ids))
            assert not calls and set(reasoning) <= {" ", "a"}
            if stream.finish_reason == "stop":
                jsonschema.validate(json.loads(text), ANSWER)
            for made in stream.rounds:
                accepted = made.emitted[: made.accepted]
                if form.thought_end in accepted:
                    held += 1
                    went_on += accepted[-1] != form.thought_end
            for other in others:
                other.close()
        assert len(ids) == 1
    assert held >= 1 and went_on >= 1


def test_a_thought_and_its_answer_are_told_apart(model: Model):
    ended = 0
    for seed in range(2):
        bias = {THOUGHT: 4.0, THOUGHT_END: 11.0}
        chunks = ids_of_drafts(model, seed=seed, max_tokens=50, logit_bias=bias, **JSON, **THINKS)
        text, _, calls = all_of(chunks)
        assert not calls
        if chunks[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text), ANSWER)
            ended += 1
    assert ended > 0


def test_many_prompts(model: Model):
    done = list(model.generate_all([MESSAGES] * 5, seed=1, max_tokens=80, **JSON))
    assert len({one.text for one in done}) == 1 and all(one.error is None for one in done)
    jsonschema.validate(json.loads(done[0].text), ANSWER)
    for one in model.generate_all(
        [MESSAGES] * 3, tools=TOOLS, tool_choice=NAMED, max_tokens=200, logit_bias={CALL_END: 3.0}
    ):
        assert one.error is None and one.text == ""
        check_calls(one.tool_calls)
        assert one.finish_reason == "length" or [call.name for call in one.tool_calls] == ["weather"]
    mixed = list(model.generate_all([MESSAGES, "text", [{"role": 1}]], tools=TOOLS, max_tokens=5))
    assert [one.error is None for one in mixed] == [True, False, False]


def test_in_an_event_loop(model: Model):
    async def calls() -> tuple[list[ToolCall], str | None]:
        stream = model.agenerate(MESSAGES, tools=TOOLS, tool_choice=NAMED, seed=3, max_tokens=200)
        return [call async for chunk in stream for call in chunk.tool_calls], stream.finish_reason

    async def both() -> list[Any]:
        return await asyncio.gather(calls(), calls())

    first, second = asyncio.run(both())
    assert [(c.name, c.arguments) for c in first[0]] == [(c.name, c.arguments) for c in second[0]]
    assert first[1] == second[1]
    chunks = list(model.generate(MESSAGES, tools=TOOLS, tool_choice=NAMED, seed=3, max_tokens=200))
    assert [(c.name, c.arguments) for c in all_of(chunks)[2]] == [(c.name, c.arguments) for c in first[0]]

    async def refused() -> None:
        await model.agenerate(MESSAGES, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "x"}}).text()

    with pytest.raises(InvalidRequestError, match="tool_choice names 'x'"):
        asyncio.run(refused())


def test_options_beside_calls(model: Model):
    """Stop strings are not looked for in calls; biases and min_tokens choose among what is allowed."""
    options = {"seed": 1, "max_tokens": 200, "tools": TOOLS, "tool_choice": NAMED}
    plain, stopped = ([*model.generate(MESSAGES, **options, **o)] for o in ({}, {"stop": ["weather", "city", "{"]}))
    assert [c.arguments for c in all_of(plain)[2]] == [c.arguments for c in all_of(stopped)[2]] != []
    only = [{"function": {"name": "clock", "parameters": {"additionalProperties": False}}}]
    options |= {"tools": only, "tool_choice": {"function": {"name": "clock"}}, "min_tokens": 100}
    stream = model.generate(MESSAGES, **options)
    list(stream)
    assert stream.finish_reason == "tool_calls" and len(stream.token_ids) < 100  # the grammar wins
    with pytest.raises(InvalidRequestError, match="every one is forbidden"):
        list(model.generate(MESSAGES, **(options | {"logit_bias": {CALL: -np.inf}})))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"logits_mask": lambda ids: None, "tool_choice": "required"}, "tool_choice beside logits_mask"),
        ({"logits_mask": lambda ids: None, "tool_choice": "none"}, "tool_choice beside logits_mask"),
        ({"ignore_eos": True, "tool_choice": NAMED}, "ignore_eos beside a grammar"),
        ({"ignore_eos": True, "tool_choice": "auto"}, "ignore_eos beside a grammar"),
        ({"tools": [*TOOLS, TOOLS[0]], "tool_choice": "auto"}, "two tools have the name weather"),
        ({"synthetic_acceptance": [0.5], "tool_choice": "required"}, "synthetic_acceptance beside a grammar"),
    ],
)
def test_what_cannot_be_had_together(model: Model, options: dict[str, Any], message: str):
    """A logits_mask silently took the place of tool_choice."""
    with pytest.raises(InvalidRequestError, match=message):
        model.generate(MESSAGES, **({"tools": TOOLS} | options))


def test_nothing_is_lost_beside_grammars_and_stop_strings(trained: Model):
    """Tools, thoughts, grammars and stop strings at once: what is told is what was written, up to the stop string."""
    form = output_format(trained._loop.native)
    rules = [
        {"tool_choice": "auto", "tools": TOOLS},
        {"tool_choice": "required", "tools": TOOLS},
        JSON,
        {"regex": r"(\w|call:|\{| )*"},
    ]
    stops = [["a"], ["e", "th"], ["call"], ["{"], [" ", "}"], []]
    ends = set()
    for seed in range(48):
        bias = {form.thought_begin: 8.0 + seed % 5, form.thought_end: 9.0, form.call_begin: 7.0, form.call_end: 6.0}
        options = {
            "seed": seed,
            "max_tokens": 12 + seed,
            "logit_bias": bias,
            **rules[seed % 4],
            **(THINKS if seed % 3 else {}),
        }
        whole = trained.generate(MESSAGES, num_speculative_tokens=0, **options)
        text, reasoning, calls = all_of(list(whole))
        stop = stops[seed % len(stops)]
        stream = trained.generate(MESSAGES, stop=stop, num_speculative_tokens=4, **options)
        chunks = list(stream)
        some_text, some_reasoning, some_calls = all_of(chunks)
        assert stream.token_ids == whole.token_ids[: len(stream.token_ids)]
        assert [c.raw for c in some_calls] == [c.raw for c in calls][: len(some_calls)]
        end = chunks[-1].stop_reason
        if end is None:
            assert (some_text, some_reasoning, len(some_calls)) == (text, reasoning, len(calls))
        else:
            assert (text.startswith(some_text + end) and reasoning.startswith(some_reasoning)) or (
                reasoning.startswith(some_reasoning + end) and text.startswith(some_text)
            )
        assert not any(s in part for s in stop for part in (some_text, some_reasoning))
        ends.add((end is None, bool(some_text), bool(some_reasoning), bool(some_calls)))
    assert len(ends) >= 5

"""What chunks hold reaches the official client where it looks for it: thoughts, calls, reasons, what parse() reads."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

import openai
import pydantic
import pytest

from support.scripted import ScriptedModel, serving

CALL = SimpleNamespace(id="call_1", name="weather", arguments={"town": "Córdoba", "days": 2}, raw="")
OTHER = SimpleNamespace(id="call_2", name="time", arguments={}, raw="")
SCHEMA = {"name": "schema", "schema": {"type": "object"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[openai.OpenAI]:
    with serving(model) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(text: str) -> dict:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}]}


def test_thoughts(client: openai.OpenAI):
    message = client.chat.completions.create(**asked("((first this))then that")).choices[0].message
    assert (message.reasoning_content, message.content) == ("first this", "then that")
    thought, said = "", ""
    for chunk in client.chat.completions.create(**asked("((first this))then that"), stream=True):
        delta = chunk.choices[0].delta
        thought += getattr(delta, "reasoning_content", None) or ""
        said += delta.content or ""
    assert (thought, said) == ("first this", "then that")


def test_calls(client: openai.OpenAI, model: ScriptedModel):
    model.calls = [CALL, OTHER]
    choice = client.chat.completions.create(**asked("I look"), tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look"
    calls = [
        (call.id, call.type, call.function.name, json.loads(call.function.arguments))
        for call in choice.message.tool_calls
    ]
    assert calls == [
        ("call_1", "function", "weather", {"town": "Córdoba", "days": 2}),
        ("call_2", "function", "time", {}),
    ]
    assert model.asked[-1]["tools"] == [TOOL]
    chunks = list(client.chat.completions.create(**asked("I look"), tools=[TOOL], stream=True))
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.id, json.loads(call.function.arguments)) for call in streamed] == [
        (0, "call_1", {"town": "Córdoba", "days": 2}),
        (1, "call_2", {}),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_message_that_only_calls_has_no_content(client: openai.OpenAI, model: ScriptedModel):
    model.calls = [CALL]
    assert client.chat.completions.create(**asked(""), tools=[TOOL]).choices[0].message.content is None


def test_one_call_at_most(client: openai.OpenAI, model: ScriptedModel):
    model.calls = [CALL, OTHER]
    for stream in (False, True):
        answer = client.chat.completions.create(**asked("x"), tools=[TOOL], parallel_tool_calls=False, stream=stream)
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        said = [choice.delta if stream else choice.message for choice in choices]
        assert [call.id for message in said for call in message.tool_calls or ()] == ["call_1"]
        assert choices[-1].finish_reason == "tool_calls"
        assert model.streams[-1].closed


def test_the_clients_own_stream_helper(client: openai.OpenAI, model: ScriptedModel):
    """It puts messages together and is strict about what the parts are."""
    model.calls = [CALL]
    with client.chat.completions.stream(**asked("I look"), tools=[TOOL]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "I look"
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments)["days"] == 2


def test_parse(client: openai.OpenAI, model: ScriptedModel):
    class Answer(pydantic.BaseModel):
        town: str
        days: int

    parsed = client.chat.completions.parse(**asked('{"town": "Rome", "days": 3}'), response_format=Answer)
    assert parsed.choices[0].message.parsed == Answer(town="Rome", days=3)
    assert model.asked[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "given, taken",
    [
        ({"reasoning_effort": "high"}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"extra_body": {"structured_outputs": {"regex": "a+"}}}, {"regex": "a+"}),
        ({"extra_body": {"guided_choice": ["a", "b"]}}, {"choice": ["a", "b"]}),
        ({"extra_body": {"guided_grammar": "start: x"}}, {"grammar": "start: x"}),
        (
            {"extra_body": {"structured_outputs": {"json": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "schema", "schema": {"type": "object"}},
                }
            },
        ),
        ({"max_completion_tokens": 7, "max_tokens": 9}, {"max_tokens": 7}),
        ({"logit_bias": {"5": 1.5}}, {"logit_bias": {5: 1.5}}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": "required"}),
    ],
)
def test_names_of_options(client: openai.OpenAI, model: ScriptedModel, given: dict, taken: dict):
    client.chat.completions.create(**asked("x"), **given)
    assert {name: value for name, value in model.asked[-1].items() if name != "prompt"} == taken

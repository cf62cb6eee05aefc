"""What a model is asked to write, and is told of what it wrote, through the official client: calls, schemas, echoes."""

import json
import re
from typing import Literal

import openai
import pydantic
import pytest

from pyllama_mtp import Model
from support.serving import Served

PROMPT = "def main():\n"
MESSAGES = [{"role": "user", "content": "The weather in Rome?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"town": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a town", "parameters": PARAMETERS}}]
CHAT = {"model": "pair", "messages": MESSAGES, "max_tokens": 120, "seed": 3}


@pytest.fixture(scope="module")
def client(served: Served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be_made(client: openai.OpenAI, choice):
    """Its arguments are of the tool's schema, and a stream gives the same."""
    whole = client.chat.completions.create(**CHAT, tools=TOOLS, tool_choice=choice).choices[0]
    assert whole.finish_reason == "tool_calls"
    first = whole.message.tool_calls[0]
    arguments = json.loads(first.function.arguments)
    assert first.function.name == "weather" and arguments["town"] in ("Rome", "Oslo") and 0 <= arguments["days"] <= 9
    chunks = list(client.chat.completions.create(**CHAT, tools=TOOLS, tool_choice=choice, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert json.loads(calls[0].function.arguments) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("k", [0, 3])
def test_parse(client: openai.OpenAI, k: int):
    class Weather(pydantic.BaseModel):
        sky: Literal["clear", "clouds", "rain"]
        warm: bool

    extra = {"num_speculative_tokens": k}
    answer = client.chat.completions.parse(**CHAT, response_format=Weather, extra_body=extra)
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_structured_outputs(client: openai.OpenAI):
    def text(**structured) -> str:
        options = {"model": "pair", "prompt": PROMPT, "max_tokens": 60, "seed": 5}
        return client.completions.create(**options, extra_body={"structured_outputs": structured}).choices[0].text

    assert re.fullmatch("[ab]{3,5}!", text(regex="[ab]{3,5}!"))
    assert text(choice=["north", "south"]) in ("north", "south")
    assert text(grammar='start: "x" | "yy"') in ("x", "yy")
    assert json.loads(text(json={"type": "array", "items": {"type": "boolean"}, "maxItems": 3})) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"choice": []}},
        {"structured_outputs": {"grammar": "start: nothing"}},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tool_choice": "required"},
        {"tools": [{"type": "surprise"}]},
        {"tools": "weather"},
    ],
)
def test_what_no_text_can_be_held_to(served: Served, fields: dict):
    for stream in (False, True):
        answer = served.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 5, "stream": stream} | fields)
        assert answer.status == 400 and answer.error["type"] == "invalid_request_error"


def test_echo_with_logprobs(client: openai.OpenAI, reference: Model):
    """As programs that score texts ask for them: tokens of the prompt first, the first of all without a value."""
    options = {"model": "pair", "prompt": PROMPT, "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 1}
    extra = {"extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**options, **extra).choices[0]
    n = len(reference.tokenize(PROMPT)) + 3
    assert whole.text.startswith(PROMPT)
    told = whole.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == n
    assert told.token_logprobs[0] is None and all(value <= 0 for value in told.token_logprobs[1:])
    chunks = list(client.completions.create(**options, stream=True, **extra))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert [v for c in chunks if c.choices[0].logprobs for v in c.choices[0].logprobs.token_logprobs] == pytest.approx(
        told.token_logprobs
    )


def test_logprobs_of_a_prompt(client: openai.OpenAI, reference: Model):
    answer = client.completions.create(model="pair", prompt=PROMPT, max_tokens=1, extra_body={"prompt_logprobs": 2})
    rows = answer.choices[0].prompt_logprobs
    ids = reference.tokenize(PROMPT)
    assert len(rows) == len(ids) and rows[0] is None
    assert all(str(token) in row for token, row in zip(ids[1:], rows[1:], strict=True))


def test_which_stop_string_it_was(client: openai.OpenAI, reference: Model):
    text = reference.generate(PROMPT, temperature=0, max_tokens=40, ignore_eos=True).text()
    stop = [text[12:15], "never written"]
    answer = client.completions.create(model="pair", prompt=PROMPT, temperature=0, max_tokens=40, stop=stop)
    assert answer.choices[0].stop_reason == stop[0]

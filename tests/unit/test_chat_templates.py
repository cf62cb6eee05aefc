"""Every template of the pinned source renders as transformers renders it, text for text, and is told apart from what it
was given.
"""

import copy
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from pyllama_mtp import ChatTemplateError
from pyllama_mtp.chat import Conversation, Rendered, conversation, rendered, sandbox
from pyllama_mtp.chat import template as chat_template
from pyllama_mtp.chat.rendering import Template
from pyllama_mtp.chat.tool_results import collected, takes_results_in_calls
from support.real_chat import templates

TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "MESSAGE60 Tells <b>the</b> weather & \u00e9\u65e5.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "MESSAGE61 where", "enum": ["Oslo", "Rome"]},
                "days": {"type": "array", "items": {"type": "integer"}, "nullable": True},
                "more": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
            },
            "required": ["city"],
        },
    },
}
OTHER = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}
CALL = {"name": "get_weather", "arguments": {"city": "MESSAGE70", "days": [1, 2], "flag": True, "none": None}}

SYSTEM = {"role": "system", "content": "MESSAGE1 Be brief.\n"}
USER = {"role": "user", "content": " MESSAGE2 Hi <|turn> {{ x }} </think> there \n"}
ANSWER = {"role": "assistant", "content": "MESSAGE3 Hello."}
THOUGHT = {"role": "assistant", "content": "MESSAGE4", "reasoning_content": "MESSAGE5 hm"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "MESSAGE6 a"}, {"type": "text", "text": "MESSAGE7 b"}]}
CALLS = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": CALL}]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": '{"MESSAGE8": 21}'}
TWO_CALLS = CALLS | {
    "content": "MESSAGE9",
    "reasoning_content": "MESSAGE10",
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": CALL},
        {"id": "jklmnopqr", "type": "function", "function": {"name": "now", "arguments": {}}},
    ],
}
SECOND = RESULT | {"tool_call_id": "jklmnopqr", "name": "now", "content": "MESSAGE11 noon"}

CHATS: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "developer": [SYSTEM | {"role": "developer"}, USER],
    "turns": [SYSTEM, USER, ANSWER, USER],
    "two users": [USER, USER],
    "thought": [USER, THOUGHT, USER],
    "parts": [PARTS, ANSWER, PARTS],
    "call": [USER, CALLS],
    "result": [USER, CALLS, RESULT],
    "answer": [SYSTEM, USER, CALLS, RESULT, ANSWER, USER],
    "two calls": [USER, TWO_CALLS, RESULT, SECOND],
    "calls in turn": [USER, TWO_CALLS, RESULT, SECOND, CALLS, RESULT, ANSWER],
    "ends with the model": [USER, ANSWER],
}
VARIABLES = {"enable_thinking": True, "reasoning_effort": "high", "thinking": True}
WITH_VARIABLES = ("user", "system", "thought", "calls in turn")
WITHOUT_A_TURN = ("user", "turns", "answer")
CONTINUED = ("ends with the model",)


def cases() -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Messages and options."""
    for name, messages in CHATS.items():
        options: dict[str, Any] = {"continue_final_message": False}
        with_tools = {"tools": [WEATHER, OTHER]} if "call" in name or "result" in name or name == "answer" else {}
        yield messages, options | with_tools
        if name in WITH_VARIABLES:
            yield messages, options | {"tools": [WEATHER], "chat_template_kwargs": VARIABLES}
        if name in WITHOUT_A_TURN:
            yield messages, options | {"add_generation_prompt": False}
        if name in CONTINUED:
            yield messages, {"continue_final_message": True}


def theirs(template: str, given: Conversation) -> str:
    """What transformers makes of the same."""
    variables = dict(given.variables)
    tools, documents = variables.pop("tools"), variables.pop("documents")
    texts, _ = render_jinja_template(
        [copy.deepcopy(given.messages)],
        tools=tools,
        documents=documents,
        chat_template=template,
        add_generation_prompt=given.opens_turn,
        continue_final_message=given.continues,
        **TOKENS | variables,
    )
    return texts[0]


# Tokens that templates write, however they build them: with filters, macros, from pieces with a role in between.
CONTROL = re.compile(r"<[|\uff5c][^<>|\uff5c ]{1,40}[|\uff5c]>|\[/?[A-Z_]{3,}\]|<\|[a-z_]+>|<[a-z_]+\|>")


def plainer(given: Conversation) -> Iterator[Conversation]:
    """The same with text where parts and objects were: what templates get that cannot write those."""
    texts = [m | {"content": _joined(m.get("content"))} for m in given.messages]
    for messages in (texts, _with_texts(given.messages, given), _with_texts(texts, given)):
        yield replace(given, messages=messages)


def _joined(content: Any) -> str:
    return "\n".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def _with_texts(messages: list[dict[str, Any]], given: Conversation) -> list[dict[str, Any]]:
    messages = copy.deepcopy(messages)
    for message, call, text in given.texts:
        messages[message]["tool_calls"][call]["function"]["arguments"] = text
    return messages


def own(result: Rendered) -> str:
    """What the template wrote itself."""
    return "\n".join(text for text, is_own in result.pieces if is_own)


def expected(template: str, given: Conversation) -> str | None:
    """transformers' rendering; of text where it refuses parts and objects, or writes those alone as Python does. None:
    it refuses all.
    """
    texts = []
    for one in (given, *plainer(given)):
        try:
            texts.append(theirs(template, one))
        except Exception:
            continue
        if not any(written in texts[-1] for written in ("[{'type'", "{'city'")):
            return texts[-1]
    return texts[0] if texts else None


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders without the processes, of which each template would start one."""

    @functools.cache
    def template(start: bytes) -> Template:
        given = json.loads(start)
        return Template(given["template"], given["rendered_chars"])

    def ask(start: bytes, request: bytes, seconds: float) -> bytes:
        return sandbox._rendered(template(start), request, 0)

    monkeypatch.setattr(chat_template, "ask", ask)


def test_all_templates_render_as_transformers_renders_them(archive: Path, in_this_process: None):
    """A tag for training was a syntax error, variables and tools could not be passed, and more."""
    differences, n_texts, n_control = [], 0, 0
    for name, template in templates(archive).items():
        for messages, options in cases():
            given = conversation(messages, **options)
            if takes_results_in_calls(template):
                collected(given.messages)
                given = replace(given, texts=[])
            try:
                result = rendered(template, given, TOKENS)
            except ChatTemplateError:
                result = None
            if result != expected(template, given):
                differences.append((name, options, messages, result, expected(template, given)))
            if result is not None:
                n_texts += 1
                assert "".join(text for text, _ in result.pieces) == result
                assert "MESSAGE" not in own(result), (name, messages)
                n_control += len(CONTROL.findall(own(result)))
                others = "\0".join(text for text, is_own in result.pieces if not is_own)
                assert not CONTROL.search(others.replace("<|turn>", "")), (name, others)
    assert differences == []
    assert n_texts > 1100 and n_control > 10_000

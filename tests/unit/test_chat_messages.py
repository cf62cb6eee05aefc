"""Messages, tools and variables: what is taken, what it becomes, and what is refused in which words."""

import json
import sys
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from pyllama_mtp import ChatTemplateError, InvalidRequestError
from pyllama_mtp.chat import conversation, render

SHOW = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ '>' if add_generation_prompt }}"
CALLS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.argumentsHOW }})"
    "{% endfor %}{% endfor %}"
)
USER = {"role": "user", "content": "a"}


def shown(template: str, *messages: dict[str, Any], **options: Any) -> str:
    return render(template, list(messages), bos_token="<bos>", eos_token="<eos>", **options)


def call(arguments: object) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]}


def test_contents_are_text_parts_or_none():
    """None was written as "None", and parts as a list in Python's notation."""
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]}
    assert shown(SHOW, USER) == "[user]a>"
    assert shown(SHOW, parts) == "[user]a\nb\nc>"
    assert shown("{% for p in messages[0].content %}<{{ p.text }}>{% endfor %}", parts) == "<a><b><c>"
    assert shown("{{ messages[0].content + '!' }}", parts) == "a\nb\nc!"
    assert shown("{{ messages[0].content | trim }}", parts) == "a\nb\nc"
    for nothing in ({"content": None}, {"content": []}, {"tool_calls": []}):
        assert shown(SHOW, USER, {"role": "assistant"} | nothing, USER) == "[user]a[assistant][user]a>"
        assert shown("{{ messages[0].content + '!' }}", {"role": "assistant"} | nothing) == "!"
    assert shown("{{ messages[0].content | trim }}{{ none }}", {"role": "user", "content": None}) == "None"


@pytest.mark.parametrize(
    "arguments", [{"a": [1, "\u00e9"]}, '{"a": [1, "\u00e9"]}', MappingProxyType({"a": (np.int64(1), "\u00e9")})]
)
def test_arguments_are_what_the_template_wants(arguments: object):
    """Text was copied into a notation of the template's own: call:f{{"a": 1}}."""
    assert shown(CALLS.replace("HOW", " | tojson"), USER, call(arguments)) == 'f({"a": [1, "\u00e9"]})'
    assert shown(CALLS.replace("HOW", ".a[0]"), USER, call(arguments)) == "f(1)"
    assert shown(CALLS.replace("HOW", ""), USER, call(arguments)) == 'f({"a": [1, "\u00e9"]})'
    assert shown(CALLS.replace("HOW", " + ''"), USER, call(arguments)) == 'f({"a": [1, "\u00e9"]})'


@pytest.mark.parametrize("text", ["{", "[1]", "", '{"a": 1} x', "1" * 5000, "[" * 100_000])
def test_arguments_that_are_no_object_stay_text(text: str):
    assert shown(CALLS.replace("HOW", ""), USER, call(text)) == f"f({text or '{}'})"


def test_reasoning_is_known_under_every_name():
    template = "{{ messages[0].reasoning_content }},{{ messages[0].thinking }},{{ messages[0].reasoning }}"
    message = {"role": "assistant", "content": ""}
    assert shown(template, message | {"reasoning_content": "x"}) == "x,x,"
    assert shown(template, message | {"reasoning": "x"}) == "x,x,x"
    assert shown(template, message | {"thinking": "x", "reasoning": "y"}) == "x,x,y"


def test_the_last_message_of_the_model_is_continued():
    """Its turn was closed and another one opened."""
    begun = {"role": "assistant", "content": "b "}
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ '>' if add_generation_prompt }}"
    assert shown(turns, USER, begun) == "<user>a</><assistant>b "
    assert shown(turns.replace("content", "content | trim"), USER, begun) == "<user>a</><assistant>b"
    assert shown(turns, USER, begun, continue_final_message=False) == "<user>a</><assistant>b </>>"
    assert shown(turns, USER, begun, add_generation_prompt=False) == "<user>a</><assistant>b </>"
    assert shown(turns, USER, continue_final_message=True) == "<user>a"
    parts = {"role": "assistant", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]}
    assert shown(turns, USER, parts) == "<user>a</><assistant>c\nd"
    assert shown(turns, USER, call({})) == "<user>a</><assistant></>>"
    for template in ("nothing", "{{ messages[1].content[:1] }}", "{{ messages[1].content | upper }}"):
        with pytest.raises(ChatTemplateError, match="does not show all of the last message"):
            shown(template, USER, begun)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"content": 5}, "the content of message 1 is 5, expected text, None or a list of parts"),
        ({"content": {"a": 1}}, "expected text, None or a list of parts"),
        ({"content": [5]}, "part 0 of the content of message 1 is 5"),
        ({"content": [{"type": "text"}]}, "part 0 of the content of message 1 has the text None"),
        ({"content": [{"type": 5, "text": "x"}]}, "part 0"),
        ({"content": [{"type": "video", "url": "x"}]}, "type 'video', expected 'text': models are given text only"),
        ({"content": [{"type": "text", "text": "x"}, {"type": "file", "file": {}}]}, "part 1 .* type 'file'"),
        ({"tool_calls": 5}, "tool_calls are 5, expected a list"),
        ({"tool_calls": ["f"]}, "tool call 0 of message 1 is 'f', expected"),
        ({"tool_calls": [{"function": {"name": 5}}]}, "tool call 0 of message 1"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, r"has the arguments \[1\], expected"),
        ({"reasoning_content": 5}, "the reasoning of message 1 is 5, expected text"),
    ],
)
def test_messages_that_cannot_be_shown_are_refused(change: dict[str, Any], error: str):
    """Pictures were dropped, or became a token without anything behind it."""
    with pytest.raises(InvalidRequestError, match=error):
        shown(SHOW, USER, {"role": "assistant", "content": "b"} | change)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"tools": 5}, "tools are 5, expected a list"),
        ({"tools": "f"}, "tools are 'f', expected a list"),
        ({"tools": ["f"]}, "tool 0 is 'f', expected"),
        ({"tools": [{"type": "function", "function": {}}]}, "tool 0 is"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs are 5"),
        ({"chat_template_kwargs": {1: 2}}, "with names as keys"),
        ({"chat_template_kwargs": {"tools": []}}, "have 'tools', which is an option of its own"),
        ({"continue_final_message": True}, "the last message has no text to continue"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: str):
    with pytest.raises(InvalidRequestError, match=error):
        shown(SHOW, USER | {"content": None}, **options)


@pytest.mark.parametrize("where", ["content", "tools", "chat_template_kwargs"])
def test_what_json_cannot_hold_is_refused_everywhere(where: str):
    nested: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 10):
        nested = [nested]
    for value in (b"x", {1, 2}, object(), nested):
        given: dict[str, Any] = {"messages": [{"role": "tool", "content": {"a": value}}]}
        if where == "tools":
            given = {"messages": [USER], "tools": [{"name": "f", "parameters": value}]}
        elif where == "chat_template_kwargs":
            given = {"messages": [USER], "chat_template_kwargs": {"x": value}}
        with pytest.raises(ChatTemplateError, match="JSON's types"):
            conversation(**given)


def test_what_was_given_is_not_changed():
    messages = [USER, call('{"a": 1}') | {"reasoning": "x"}, {"role": "tool", "tool_call_id": "1", "content": "r"}]
    before = json.dumps(messages)
    shown("{% for m in messages %}{{ m.tool_responses }}{% endfor %}", *messages)
    assert json.dumps(messages) == before


NATIVE = (  # as Gemma 4's first templates
    "{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}call:{{ c.function.name }};{% endfor %}"
    "{% for r in m['tool_responses'] %}{{ r.name }}={{ r.response }};{% endfor %}{{ m.content or '' }}</>{% endfor %}"
)


def test_results_go_where_a_template_knows_them():
    """They became a turn of their own, of a role that the model has never seen."""
    calls = [{"id": i, "function": {"name": f"f{i}", "arguments": {}}} for i in "12"]
    asked = {"role": "assistant", "tool_calls": calls}
    second = {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "B"}]}
    first = {"role": "tool", "tool_call_id": "1", "content": {"x": 1}}
    by_order = {"role": "tool", "content": "C"}
    options = {"add_generation_prompt": False}
    assert shown(NATIVE, asked, second, first, **options) == "<assistant>call:f1;call:f2;f2=B;f1={'x': 1};</>"
    said = {"role": "assistant", "content": "said"}
    assert shown(NATIVE, asked, by_order, said, USER, **options) == "<assistant>call:f1;call:f2;f1=C;said</><user>a</>"
    assert shown(NATIVE, asked, by_order, said) == "<assistant>call:f1;call:f2;f1=C;said"
    assert shown(NATIVE, asked, by_order, asked, by_order, **options).count("f1=C;") == 2
    assert shown(NATIVE, USER, by_order, **options) == "<user>a</><tool>C</>"
    knows = NATIVE + "{% if messages[0]['role'] == 'tool' %}{% endif %}"
    assert shown(knows, asked, by_order, **options) == "<assistant>call:f1;call:f2;</><tool>C</>"

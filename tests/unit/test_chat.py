"""Chat templates: what they render, and errors. What hostile ones try: tests/attacks/test_template_injection.py."""

import sys

import pytest

from pyllama_mtp import ChatTemplateError
from pyllama_mtp.chat import render

MESSAGES = [{"role": "user", "content": "Hi"}]
TURNS = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def rendered(template: str | None, messages=MESSAGES) -> str:
    return render(template, messages, bos_token="<bos>", eos_token="<eos>")


def test_turns_are_rendered_and_the_models_is_opened():
    assert rendered(TURNS) == "<bos><|turn>user\nHi<turn|>\n<|turn>model\n"


def test_what_templates_of_published_models_use():
    assert rendered("{{ {'a': '<'} | tojson }}{{ messages[0]['content'] | trim | upper }}") == '{"a": "<"}HI'
    assert (
        rendered("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}")
        == "3"
    )
    assert len(rendered("{{ strftime_now('%Y') }}")) == 4


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ undefined_name.attribute }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 // 0 }}",
        "{{ '\\ud800' }}",
    ],
)
def test_broken_templates_end_in_an_error(template: str):
    with pytest.raises(ChatTemplateError, match="the chat template failed: "):
        rendered(template)


def test_text_beyond_ascii_survives():
    assert (
        rendered("{{ messages[0].content }}", [{"role": "user", "content": "\u00e4\U0001f600\0"}])
        == "\u00e4\U0001f600\0"
    )


@pytest.mark.parametrize("content", [b"x", {1, 2}, object()])
def test_contents_that_json_cannot_hold_are_refused(content: object):
    with pytest.raises(ChatTemplateError, match="JSON"):
        rendered(TURNS, [{"role": "user", "content": content}])


def test_a_program_without_an_interpreter_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ChatTemplateError, match="no Python interpreter"):
        rendered(TURNS)


@pytest.mark.parametrize(
    "messages", [[], ["Hi"], [{"content": "Hi"}], [{"role": "user"}], [{"role": 1, "content": "x"}]]
)
def test_malformed_messages_are_refused(messages: list):
    with pytest.raises(ChatTemplateError):
        rendered(TURNS, messages)


def test_a_model_without_a_template_says_so():
    with pytest.raises(ChatTemplateError, match="no chat template"):
        rendered(None)

"""Where messages and the model's turn begin in a text, told from one rendering."""

from pathlib import Path
from typing import Any

import pytest

from pyllama_mtp.chat import rendering
from pyllama_mtp.chat.rendering import Rendering, Template
from support.real_chat import templates

MESSAGES = [
    {"role": "system", "content": "SYSTEM says"},
    {"role": "user", "content": "FIRST question"},
    {"role": "assistant", "content": "SECOND answer"},
    {"role": "user", "content": "THIRD question"},
]
LOOP = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def given(messages: list[dict[str, Any]] = MESSAGES, opens_turn: bool = True, continues: bool = False) -> Rendering:
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>"}
    return Rendering(messages, {"tools": None, "documents": None}, tokens, opens_turn, continues, [])


def texts(source: str, **options: Any) -> tuple[list[str | None], str]:
    """The text before each message after the first one, and the model's turn."""
    template, conversation = Template(source, 1 << 20), given(**options)
    followed = template.traced(conversation.traced(), conversation.parts())
    begins = [followed.positions.beginning(number, followed.origin) for number in conversation.parts()]
    opens_at = rendering._opens_at(template, conversation, followed)
    return [None if begin is None else followed.text[:begin] for begin in begins], followed.text[opens_at:]


@pytest.fixture
def renders_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("another rendering")

    monkeypatch.setattr(rendering, "_common", fail)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "{% for m in messages %}{% set x = m.role %}{% endfor %}",
        "{% set x = messages | selectattr('role', 'equalto', 'user') | list %}",
        "{% set ns = namespace(x=0) %}{% for m in messages[1:] %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ bos_token }}",
    ],
)
@pytest.mark.parametrize("after", ["", "{% for m in messages %}{% set x = m.role %}{% endfor %}"])
def test_a_loop_tells_where_messages_begin(before: str, after: str, renders_once: None):
    """Also where others look over the messages before it or after it."""
    begins, opening = texts(before + LOOP + after + PROMPT)
    assert [begin.rpartition("<|")[2] for begin in begins] == [
        "system|>SYSTEM says<end>",
        "user|>FIRST question<end>",
        "assistant|>SECOND answer<end>",
    ]
    assert opening == "<|assistant|>"


def test_without_a_loop_to_tell_it_messages_begin_behind_the_text_before(renders_once: None):
    by_index = LOOP.replace("for m in messages", "for i in range(messages | length)").replace("m.", "messages[i].")
    in_macro = f"{{% macro all() %}}{LOOP}{{% endmacro %}}{{{{ all() }}}}"
    for source in (by_index, in_macro):
        begins, opening = texts(source + PROMPT)
        assert [begin.rpartition("|>")[2] for begin in begins] == ["SYSTEM says", "FIRST question", "SECOND answer"]
        assert opening == "<|assistant|>"


def test_what_a_template_does_not_show_begins_nowhere():
    begins, _ = texts("{{ messages[0].content }}" + PROMPT)
    assert begins == [None] * 3


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ '<|assistant|>' if add_generation_prompt else '' }}",
        "{% macro p() %}{% if add_generation_prompt %}<|assistant|>{% endif %}{% endmacro %}{{ p() }}",
        "{% set p = add_generation_prompt %}{% if p %}<|assistant|>{% endif %}",
        "{% if not add_generation_prompt %}{% else %}<|assistant|>{% endif %}",
    ],
)
def test_another_rendering_tells_of_a_turn_that_cannot_be_seen_to_begin(prompt: str):
    assert texts(LOOP + prompt)[1] == "<|assistant|>"
    early = "{% if add_generation_prompt %}{% set x = 1 %}{% endif %}"
    assert texts(early + LOOP + prompt)[1] == "<|assistant|>"


def test_a_turn_that_nothing_opens_begins_at_the_end(renders_once: None):
    assert texts(LOOP + PROMPT, opens_turn=False)[1] == ""


def test_turns_begin_where_a_rendering_without_them_ends(archive: Path):
    """With all templates of the pinned source."""
    n_seen = 0
    for name, source in templates(archive).items():
        template = Template(source, 1 << 20)
        try:
            text = template.plain(given(MESSAGES[1:]).whole())
        except Exception:  # those that want something else of a conversation
            continue
        conversation = given(MESSAGES[1:])
        followed = template.traced(conversation.traced(), conversation.parts())
        common = rendering._common(template, conversation, text)
        assert rendering._opens_at(template, conversation, followed) == (len(text) if common is None else common), name
        n_seen += followed.positions.opening(followed.origin) is not None
    assert n_seen > 40

"""Chat templates of model files are untrusted code."""

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
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ render.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(60000) %}{% for j in range(60000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 100000000000 }}",
        "{{ 10 ** 1000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% if %}",
        "{{ undefined_name.attribute }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
    ],
)
def test_hostile_and_broken_templates_end_in_an_error(template: str):
    with pytest.raises(ChatTemplateError):
        rendered(template)


@pytest.mark.parametrize(
    "messages", [[], ["Hi"], [{"content": "Hi"}], [{"role": "user"}], [{"role": 1, "content": "x"}]]
)
def test_malformed_messages_are_refused(messages: list):
    with pytest.raises(ChatTemplateError):
        rendered(TURNS, messages)


def test_a_model_without_a_template_says_so():
    with pytest.raises(ChatTemplateError, match="no chat template"):
        rendered(None)

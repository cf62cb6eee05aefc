"""Chat templates are code out of a model's file. What stops them: jinja2's immutable sandbox against reaching Python's
objects, and a process with limits against everything that costs time or memory.
"""

import time

import pytest

from pyllama_mtp import ChatTemplateError
from pyllama_mtp.chat import render
from pyllama_mtp.chat import template as limits

MESSAGES = [{"role": "user", "content": "Hi"}]
NESTED = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x, n.x] %}{% endfor %}"


def rendered(template: str, messages=MESSAGES) -> str:
    return render(template, messages, bos_token="<bos>", eos_token="<eos>")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'].__base__.__subclasses__() }}",
        "{{ (''|attr('__class__')).mro() }}",
        "{{ ['']|map(attribute='__class__')|join|length // 0 }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ (messages|map('string')).gi_frame.f_builtins }}",
        "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
        "{{ ['{0.__class__}']|map('format', 1)|list }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_gives_no_python_object_away(template: str):
    with pytest.raises(ChatTemplateError):
        rendered(template)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "'{0.__class__}'.format(1)",
        "('{0.__class__}'|attr('format'))(1)",
        "'{a.__class__}'.format_map({'a': 1})",
    ],
)
def test_what_the_sandbox_refuses_is_empty_where_it_is_only_written(expression: str):
    assert rendered("{{ " + expression + " }}{{ bos_token }}") == "<bos>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ 'a'|center(1000000000) }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ (1).to_bytes(10 ** 9, 'big') }}",
        "{{ [[0] * 10 ** 9] }}",
        "{% set s = 'a' * 60000 %}{{ s|replace('a', s)|length }}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% set s = 'a' * 60000 %}{% for i in range(60000) %}{{ s }}{% endfor %}",
    ],
)
def test_memory_and_size_are_bounded(template: str):
    with pytest.raises(ChatTemplateError, match="MiB|characters|range|Range"):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
        "{{ " + "[" * 50_000 + "]" * 50_000 + " }}",
        "{{ " + "not " * 50_000 + "1 }}",
        "{% if 1 %}" * 12_000 + "{% endif %}" * 12_000,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set n = namespace(x=[]) %}{% for i in range(60000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ 1" + "0" * 200_000 + " }}",
        " " * 300_000,
    ],
)
def test_recursion_and_length_are_bounded(template: str):
    with pytest.raises(ChatTemplateError):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(60000) %}{% for j in range(60000) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 8) }}",
        NESTED + "{{ n.x }}",  # one call into C that writes 3^60 numbers
        NESTED + "{{ n.x == n.x|list }}{{ n.x|tojson }}",
        "{% set a = [[0] * 60000] * 60000 %}{{ a|string|length }}",
    ],
)
def test_time_is_bounded_within_single_operations_too(template: str, monkeypatch):
    monkeypatch.setattr(limits, "MAX_CPU_SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(ChatTemplateError, match="CPU time|MiB"):
        rendered(template)
    assert time.monotonic() - begin < limits.MAX_SECONDS


def test_a_process_that_gets_no_cpu_time_is_ended(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.0)
    with pytest.raises(ChatTemplateError, match="ran for more than 0 s"):
        rendered("{{ bos_token }}")


def test_messages_are_text_to_the_template():
    attack = "{{ ''.__class__ }}{% for %}"
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": attack}]) == attack

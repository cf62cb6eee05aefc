"""Loops that have found what they look for end, and templates write what they wrote without that."""

import time

import jinja2
import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyllama_mtp.chat.environment import Environment, TracingEnvironment

FOUND = "{% set ns = namespace(found=false, at=-1, n=0) %}"
SEARCHES = {
    "not": "{% for i in range(9) %}{% if not ns.found %}{{ i }}{% set ns.found = i == 4 %}{% endif %}{% endfor %}",
    "empty": "{% for i in range(9) %}{% if ns.found %}{% elif i == 4 %}{% set ns.found = true %}{% else %}{{ i }}"
    "{% endif %}{% endfor %}",
}
OTHERS = {
    "else": "{% for i in range(9) %}{% if not ns.found %}{% set ns.found = i == 4 %}{% else %}{{ i }}{% endif %}"
    "{% endfor %}",
    "elif": "{% for i in range(9) %}{% if not ns.found %}{% set ns.found = i == 4 %}{% elif i > 6 %}{{ i }}{% endif %}"
    "{% endfor %}",
    "more": "{% for i in range(9) %}{% if not ns.found %}{% set ns.found = i == 4 %}{% endif %}{{ i }}{% endfor %}",
    "count": "{% for i in range(9) %}{% if not ns.found %}{% set ns.found = i == 4 %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "for else": "{% for i in range(0) %}{% if not ns.found %}{{ i }}{% endif %}{% else %}none{% endfor %}",
    "own flag": "{% for i in range(9) %}{% if not i.found %}{{ i }}{% endif %}{% endfor %}",
    "of the loop": "{% for i in range(9) %}{% if not loop.first %}{{ i }}{% endif %}{% endfor %}",
    "messages": "{% for m in messages %}{% if not m.seen %}{{ m.x }}{% endif %}{% endfor %}",
    "empty with text": "{% for i in range(9) %}{% if ns.found %}-{% elif i == 4 %}{% set ns.found = true %}{% endif %}"
    "{% endfor %}",
    "another's loop": "{% for j in range(3) %}{% for i in range(9) %}{% if not ns.found %}{{ i }}{% endif %}"
    "{% endfor %}{% set ns.found = j == 1 %}{% endfor %}",
}
VARIABLES = {"messages": [{"seen": True, "x": 1}, {"seen": False, "x": 2}]}


def plain(template: str) -> str:
    """What jinja2 makes of it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["namespace"] = jinja2.utils.Namespace
    return environment.from_string(template).render(VARIABLES)


@pytest.mark.parametrize("name", [*SEARCHES, *OTHERS])
def test_loops_write_what_they_wrote(name: str):
    template = FOUND + (SEARCHES | OTHERS)[name] + "{{ ns.found }}"
    expected = plain(template)
    for environment in (Environment(), TracingEnvironment()):
        assert environment.from_string(template).render(VARIABLES) == expected


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_ends_where_it_has_found(name: str):
    """Templates look so for a message among all, once for each: 79 messages took ten times as long as 19."""
    once = SEARCHES[name].replace("range(9)", "range(100000)").replace("{{ i }}", "")
    template = FOUND + "{% for j in range(300) %}{% set ns.found = false %}" + once + "{% endfor %}"
    begin = time.perf_counter()
    Environment().from_string(template).render()
    assert time.perf_counter() - begin < 0.5  # without an end: 30 million turns

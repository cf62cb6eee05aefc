"""Traced strings do what strings do, and know of every character where it came from."""

import json
import random

import pytest

from pyllama_mtp.chat.environment import Environment, TracingEnvironment
from pyllama_mtp.chat.provenance import Traced, joined, joined_by, origin_of, own, runs, traced

LETTERS = "aAbB \n\t.,<|>xß\u00e9\u65e5\u2028"
WRITTEN = {character: chr(0xE000 + i) for i, character in enumerate(LETTERS)}


def made(rng: random.Random, most: int = 12) -> Traced:
    """Some text of which some is the template's."""
    text = "".join(rng.choices(LETTERS, k=rng.randrange(most)))
    return Traced(text, bytes(rng.choices((0, 1), k=len(text))))


def calls(rng: random.Random) -> list:
    small = rng.choice([made(rng, 3), "a", "<", " ", "ab"]) or "a"
    i, j = rng.randrange(-8, 8), rng.randrange(-8, 8)
    return [
        lambda s: s + made_other,
        lambda s: "ab" + s,
        lambda s: s * 3,
        lambda s: 2 * s,
        lambda s: s[i:j],
        lambda s: s[::-1],
        lambda s: s[::2],
        lambda s: s[0] if s else "",
        lambda s: list(s),
        lambda s: s.split(),
        lambda s: s.split(None, 1),
        lambda s: s.split(small),
        lambda s: s.split(small, 1),
        lambda s: s.rsplit(),
        lambda s: s.rsplit(None, 1),
        lambda s: s.rsplit(small, 1),
        lambda s: s.splitlines(),
        lambda s: s.splitlines(True),
        lambda s: s.partition(small),
        lambda s: s.rpartition(small),
        lambda s: s.strip(),
        lambda s: s.strip(small),
        lambda s: s.lstrip(),
        lambda s: s.rstrip("\n"),
        lambda s: s.removeprefix(small),
        lambda s: s.removesuffix(small),
        lambda s: s.replace(small, made_other),
        lambda s: s.replace(small, "", 1),
        lambda s: s.replace("", "-"),
        lambda s: s.join(["x", made_other, "y"]),
        lambda s: s.upper(),
        lambda s: s.lower(),
        lambda s: s.title(),
        lambda s: s.capitalize(),
        lambda s: s.swapcase(),
        lambda s: s.center(20, "-"),
        lambda s: s.expandtabs(),
        lambda s: "{}!".format(s),  # noqa: UP032
        lambda s: "".join(["x", s]),
        lambda s: str(s),
        lambda s: json.dumps({s: [s]}),
    ]


made_other = Traced("<|", b"\1\1") + "x"


def test_every_operation_gives_what_a_str_gives():
    rng = random.Random(1)
    for _ in range(300):
        text = made(rng)
        for call in calls(rng):
            plain = call(str.__str__(text))
            assert call(text) == plain and type(call(text)) is not type(None)


def test_origins_are_those_of_the_characters():
    """Characters of the template's are replaced by others, one for each: then origins can be read off."""
    rng = random.Random(2)
    back = {new: old for old, new in WRITTEN.items()}
    for _ in range(2000):
        parts = [made(rng) for _ in range(3)]
        shown = ["".join(WRITTEN[c] if o else c for c, o in zip(p, origin_of(p), strict=True)) for p in parts]
        i, j = rng.randrange(6), rng.randrange(12)
        for traced_text, marked in (
            (parts[0] + parts[1], shown[0] + shown[1]),
            (joined(parts), "".join(shown)),
            (joined_by(parts[2], parts[:2]), shown[2].join(shown[:2])),
            (parts[0][i:j], shown[0][i:j]),
            (parts[1][::-1], shown[1][::-1]),
            (parts[1] * 2, shown[1] * 2),
        ):
            assert str(traced_text) == "".join(back.get(c, c) for c in marked)
            assert origin_of(traced_text) == bytes(c in back for c in marked)


def test_pieces_keep_their_origin():
    text = own("<|a|> ") + "x <|a|>" + own(" <b>")
    assert [origin_of(piece) for piece in text.split("<|a|>")] == [b"", b"\1\0\0", b"\1" * 4]
    assert [origin_of(piece) for piece in text.split()] == [b"\1" * 5, b"\0", b"\0" * 5, b"\1" * 3]
    assert [origin_of(piece) for piece in text.partition("x")] == [b"\1" * 6, b"\0", b"\0" * 6 + b"\1" * 4]
    assert origin_of(text.strip("<>")) == b"\1" * 5 + b"\0" * 7 + b"\1" * 3
    assert origin_of(text.replace("a", own("b"))) == b"\1" * 6 + b"\0" * 4 + b"\1" + b"\0" * 2 + b"\1" * 4
    assert origin_of(text.upper()) == origin_of(text)
    assert origin_of(text.splitlines()[0]) == origin_of(text)


@pytest.mark.parametrize(
    "made_of",
    [
        lambda s: "{}!".format(s),  # noqa: UP032
        lambda s: s.swapcase(),
        lambda s: s.center(9),
        lambda s: json.dumps(s),
        lambda s: "".join([s]),
        lambda s: s.replace("", "x"),
        lambda s: own("\u00df").upper(),  # two characters
    ],
)
def test_what_is_not_followed_is_not_the_templates(made_of):
    assert 1 not in origin_of(made_of(own("<|turn>")))


def test_values_are_traced_all_the_way_down():
    value = traced({"a": ["b", {"c": "d"}], "e": 1})
    assert value == {"a": ["b", {"c": "d"}], "e": 1}
    assert type(value["a"][1]["c"]) is Traced and origin_of(value["a"][0]) == b"\0"


def test_runs():
    assert runs(b"") == []
    assert runs(b"\0\0\1\0") == [2, 1, 1]
    assert runs(b"\1\1\0") == [0, 2, 1]


WRITES = [
    "{{ 'a\nb' | indent(x) }}",
    "{{ 'a\nb' | indent(x, true, true) }}",
    "{{ 'a' | replace('a', x) }}{{ x | replace('zz', 'a') }}",
    "{{ ['a', 'b'] | join(x) }}{{ [x, x] | join(',') }}",
    "{{ '{}-{a}-{b[0]}'.format(x, a=x, b=[x]) }}{{ x.format('a') }}",
    "{{ '{:>9}{!s}{!r}'.format(x, x, x) }}{{ '%s' % x }}{{ '%s' | format(x) }}",
    "{{ x ~ 'a' }}{{ 'a' + x }}{{ x + 'a' }}{{ x * 2 }}{{ x[1:] }}{{ x | first }}{{ x | reverse }}",
    "{% set n = namespace(y='') %}{% for c in x %}{% set n.y = n.y + c %}{% endfor %}{{ n.y }}",
    "{% macro m(y) %}{{ y }}{{ varargs[0] }}{{ kwargs.z }}{% endmacro %}{{ m(x, x, z=x) }}",
    "{% set y %}{{ x }}{% endset %}{{ y }}{% filter upper %}{{ x }}{% endfilter %}",
    "{% for k, v in dict(a=x, **{'b': x}).items() %}{{ k }}{{ v }}{% endfor %}{{ {x: x} }}{{ {x: 1} | list | first }}",
    "{{ [x] | tojson }}{{ {'k': x} | tojson(indent=2) }}{{ x | safe }}{{ x | e }}{{ x | string | trim | title }}",
    "{{ x | safe + x }}{{ x | safe + 'a' }}{{ 'a' | safe + x }}{{ x | truncate(3) }}{{ x | wordwrap(2) }}",
    "{{ x | center }}{{ missing | default(x) }}{{ strftime_now(x) }}",
    "{{ [x, 'a'] | map('upper') | list | last }}{{ [x] | map('indent', 2) | first }}{{ [x, 'b'] | sort | first }}",
    "{{ cycler(x, 'a').next() }}{% set j = joiner(x) %}{{ j() }}{{ j() }}",
    "{% call(y) w() %}{{ y }}{% endcall %}{% generation %}{{ x }}{% endgeneration %}",
    "{{ (x | list) | join }}{{ x.split('|') | join('|') }}{{ x.partition('|') | join }}{{ x.splitlines() | first }}",
    "{{ role }}{{ bos_token }}{{ x.removeprefix('q').strip('q') }}{{ x | replace('<', x) }}{{ x | urlencode }}",
]


@pytest.mark.parametrize("source", WRITES)
def test_whatever_a_template_does_with_text_that_is_not_its_own_stays_that(source: str):
    """The filter indent took a width that was given as text for the template's own."""
    source = "{% macro w() %}{{ caller(x) }}{% endmacro %}" + source
    environment = TracingEnvironment()
    letters = "\ue000\ue001\ue002\ue003"
    values = {"x": traced(letters), "bos_token": traced(letters), "role": traced(letters)}
    pieces = list(environment.from_string(source).generate(values))
    shown = Environment().from_string(source).render({name: str.__str__(value) for name, value in values.items()})
    assert "".join(pieces) == shown and set(letters) & set(shown)
    own_text = "".join(
        character for piece in pieces for character, origin in zip(piece, origin_of(piece), strict=True) if origin & 1
    )
    assert not set(letters) & set(own_text)

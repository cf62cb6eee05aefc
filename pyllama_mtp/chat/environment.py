"""The environments that templates run in: transformers' own, and one that traces what the template wrote itself.

Both render the same text. Templates out of model files are untrusted: jinja2's immutable sandbox refuses attribute
tricks and changes to their inputs (the class of CVE-2024-34359). What it cannot bound is pyllama_mtp.chat.sandbox's.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from types import BuiltinMethodType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from pyllama_mtp.chat.positions import Positions, watched
from pyllama_mtp.chat.provenance import Traced, TracedMarkup, is_own, joined, joined_by, origin_of, own, traced
from pyllama_mtp.chat.search_loops import shortened


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks, for training, what a model writes. What it encloses is rendered."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_rendered"), [], [], body).set_lineno(line)

    def _rendered(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` in a template: no type, which would give attributes away."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """`namespace` in a template: without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as jinja2's, so that an attribute may be called `self`
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            if isinstance(name, str) and name[:1] == "_":
                _refuse(name)
        object.__setattr__(self, "_Namespace__attrs", values)  # where jinja2's looks for them

    def __setitem__(self, name: str, value: Any) -> None:
        if name[:1] == "_":
            _refuse(name)
        object.__getattribute__(self, "_Namespace__attrs")[name] = value


def _refuse(name: str) -> NoReturn:
    raise jinja2.exceptions.SecurityError(f"a namespace takes no attribute {name!r}: rename it")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without HTML escapes, unlike jinja2's own."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


# What the sandbox lets through whatever it is asked for: values without attributes of their own, and what only reads.
_PLAIN = frozenset((bool, int, str, type(None), Traced))
_READ = {
    dict: frozenset(("get", "items", "keys", "values")),
    LoopContext: frozenset(("index", "index0", "first", "last")),
}
_NOTHING: frozenset[str] = frozenset()


class Environment(ImmutableSandboxedEnvironment):
    """As transformers has it. now: what strftime_now() tells, the same for every rendering of a conversation."""

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
        self.now = datetime.now()
        self.filters["tojson"] = _tojson
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: self.now.strftime(format),
            "dict": _Dict(),
            "namespace": _Namespace,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return shortened(super()._parse(source, name, filename))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the sandbox does it, but quick for what it always lets through and inner loops ask for."""
        kind = type(obj)
        if kind is _Namespace:
            values = object.__getattribute__(obj, "_Namespace__attrs")
            if attribute in values and type(values[attribute]) in _PLAIN:
                return values[attribute]
        elif attribute in _READ.get(kind, _NOTHING):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Any, called: Any, /, *args: Any, **named: Any) -> Any:
        """As the sandbox does it, but quick for namespaces and methods of dictionaries."""
        if called is _Namespace or (type(called) is BuiltinMethodType and type(called.__self__) is dict):
            if named:
                named.pop("_loop_vars", None)
                named.pop("_block_vars", None)
            return called(*args, **named)
        return super().call(context, called, *args, **named)


class _Generator(CodeGenerator):
    """Takes the strings of a template from its environment, which traces them."""

    environment: "TracingEnvironment"

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.literals[{''.join(group)!r}]"

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(f"environment.literals[{node.as_const(frame.eval_ctx)!r}]")

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        value = node.as_const(frame.eval_ctx)
        if type(value) is str:
            self.write(f"environment.literals[{value!r}]")
        elif isinstance(value, dict | list | tuple | set | frozenset):
            self.write(f"environment.literal({value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if not isinstance(node.node, nodes.EnvironmentAttribute):
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        self.write(f"environment.{node.node.name}(")
        for argument in node.args:
            self.visit(argument, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.written((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Literals(dict[str, Traced]):
    def __missing__(self, text: str) -> Traced:
        self[text] = literal = own(text)
        return literal


class TracingEnvironment(Environment):
    """What it renders is Traced."""

    code_generator_class = _Generator
    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__()
        self.literals = _Literals()
        self.positions = Positions([], {})
        self.filters |= {"join": _join, "indent": _indent, "safe": TracedMarkup}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return watched(super()._parse(source, name, filename))

    def literal(self, value: Any) -> Any:
        return traced(value, own)

    def written(self, parts: Iterable[Any]) -> str:
        """What `~` makes of its operands."""
        return joined(map(str, parts))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped: Callable[..., str] | None = super().wrap_str_format(value)
        if wrapped is None or not isinstance(template := value.__self__, Traced):
            return wrapped
        by_mapping = value.__name__ == "format_map"

        def format(*args: Any, **kwargs: Any) -> str:
            if by_mapping and (len(args) != 1 or kwargs):
                return wrapped(*args, **kwargs)  # raises what a str does
            positional, named = ((), args[0]) if by_mapping else (args, kwargs)
            return _TracingFormatter(self).traced(template, positional, named)

        format.__name__ = value.__name__
        return format


class _TracingFormatter(SandboxedFormatter):
    """str.format() with placeholders, which give way to what they stand for when the text around them is known."""

    def __init__(self, environment: TracingEnvironment) -> None:
        super().__init__(environment)
        self._mark = os.urandom(16).hex()
        self._found = re.compile(f"{self._mark}([0-9]+);")
        self._fields: list[str] = []

    def format_field(self, value: Any, format_spec: str) -> str:
        spec = self._found.sub(lambda match: self._fields[int(match[1])], format_spec)
        text = value if not spec and isinstance(value, Traced) else super().format_field(value, spec)
        self._fields.append(text)
        return f"{self._mark}{len(self._fields) - 1};"

    def traced(self, template: str, args: Any, kwargs: Any) -> str:
        pieces = self._found.split(self.vformat(str.__str__(template), args, kwargs))
        literal = own if is_own(origin_of(template)) else Traced
        return joined(self._fields[int(piece)] if i % 2 else literal(piece) for i, piece in enumerate(pieces))


@jinja2.pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """jinja2's own, for text that is not escaped."""
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(environment, attribute), value)
    return joined_by(str(d), map(str, value))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """jinja2's own, with line ends that are the template's, who called it."""
    indention = Traced(width, origin_of(width)) if isinstance(width, str) else own(" " * width)
    lines: list[str] = (Traced(s, origin_of(s)) + own("\n")).splitlines()
    if blank:
        text: str = joined_by(own("\n") + indention, lines)
    else:
        text = joined_by(own("\n"), [*lines[:1], *(indention + line if line else line for line in lines[1:])])
    return indention + text if first else text

"""Renders messages with a model's own chat template.

Templates come out of model files and are untrusted. They run in jinja2's ImmutableSandboxedEnvironment, which refuses
attribute tricks and changes to its inputs (the class of CVE-2024-34359), with bounds of our own: the size of the
template and of its result, the time that its loops and calls take, and the usual ways to a huge value out of small
ones. It is a sandbox within this process: for models of unknown origin, pass prompts as text.
"""

import datetime
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import jinja2
import jinja2.compiler
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyllama_mtp.errors import ChatTemplateError

MAX_TEMPLATE_CHARS = 1 << 18
MAX_RENDERED_CHARS = 1 << 24
MAX_SECONDS = 5.0
MAX_INTEGER = 1 << 16  # repetitions, widths and exponents that a template may ask for

Message = Mapping[str, Any]


def _is_small(value: object) -> bool:
    return not isinstance(value, int | float) or abs(value) <= MAX_INTEGER


def _require_small(values: Sequence[object], what: str) -> None:
    for value in values:
        if not _is_small(value):
            raise jinja2.TemplateRuntimeError(f"{value} given to {what}, expected at most {MAX_INTEGER}")


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses huge numbers as arguments (not as the filtered value): widths, indents, counts."""
    n_passed = 2 if hasattr(function, "jinja_pass_arg") else 1

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _require_small([*args[n_passed:], *kwargs.values()], f"the filter {name}")
        return function(*args, **kwargs)

    return bounded


def _bounded_range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_INTEGER:
        raise jinja2.TemplateRuntimeError(f"range of {len(numbers)} numbers, expected at most {MAX_INTEGER}")
    return numbers


def _bounded_join(pieces: Iterable[object]) -> str:
    """Joins what `~`, set blocks and macros put together, so that no text grows by doubling itself."""
    texts = [str(piece) for piece in pieces]
    if sum(map(len, texts)) > MAX_RENDERED_CHARS:
        raise jinja2.TemplateRuntimeError(f"a text has more than {MAX_RENDERED_CHARS} characters")
    return "".join(texts)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no HTML escapes, unlike jinja2's own."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


class _CodeGenerator(jinja2.compiler.CodeGenerator):
    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.concat((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))
    code_generator_class = _CodeGenerator
    concat = staticmethod(_bounded_join)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols], autoescape=False)
        self.filters["tojson"] = _tojson
        self.filters = {name: _bounded_filter(name, function) for name, function in self.filters.items()}
        self.globals = {
            "range": _bounded_range,
            "namespace": self.globals["namespace"],
            "dict": dict,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) if isinstance(side, Sized) else side for side in (left, right)]
        if operator == "+":
            if isinstance(left, Sized) and sum(sizes) > MAX_RENDERED_CHARS:
                raise jinja2.TemplateRuntimeError(f"a text has more than {MAX_RENDERED_CHARS} characters")
        elif operator == "%" and isinstance(left, Sized):
            raise jinja2.TemplateRuntimeError("the operator % is for numbers here")
        elif not all(map(_is_small, sizes)):
            raise jinja2.TemplateRuntimeError(f"an operand of {operator} is more than {MAX_INTEGER}")
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        name = getattr(function, "__name__", "a function")
        if function is not _bounded_range:
            _require_small([*args, *kwargs.values()], name)
        if name in ("format", "format_map"):
            raise jinja2.TemplateRuntimeError(f"str.{name} is not available here")
        return super().call(context, function, *args, **kwargs)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Stops template code of this thread, whatever it loops over or recurses into, by way of the trace hook."""
    deadline = time.monotonic() + seconds

    def on_line(frame: FrameType, _event: str, _arg: object) -> Any:
        if time.monotonic() > deadline:
            raise jinja2.TemplateRuntimeError(f"it ran for more than {seconds:g} s")
        return on_line

    def on_call(frame: FrameType, event: str, arg: object) -> Any:
        return on_line(frame, event, arg) if frame.f_code.co_filename == "<template>" else None

    previous = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(previous)


def check_messages(messages: Sequence[Message]) -> None:
    """Raises ChatTemplateError unless every message is a mapping with a role and a content (or tool calls)."""
    if not messages:
        raise ChatTemplateError("messages is empty, expected at least one {'role': ..., 'content': ...}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ChatTemplateError(f"message {index} is {message!r}, expected {{'role': str, 'content': ...}}")
        if "content" not in message and "tool_calls" not in message:
            raise ChatTemplateError(f"message {index} has the keys {sorted(message)}, expected 'content' among them")


def render(template: str | None, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
    """The prompt text for `messages`, with the turn of the model opened.

    Raises ChatTemplateError if the model has no template, or the template refuses the messages or exceeds a bound.
    """
    check_messages(messages)
    if not template:
        raise ChatTemplateError("the model has no chat template; pass the prompt as text or token ids")
    if len(template) > MAX_TEMPLATE_CHARS:
        raise ChatTemplateError(
            f"the chat template has {len(template)} characters, expected at most {MAX_TEMPLATE_CHARS}"
        )
    pieces: list[str] = []
    size = 0
    try:
        compiled = _Environment().from_string(template)
        with _time_limit(MAX_SECONDS):
            for piece in compiled.generate(
                messages=[dict(message) for message in messages],
                bos_token=bos_token,
                eos_token=eos_token,
                add_generation_prompt=True,
            ):
                size += len(piece)
                if size > MAX_RENDERED_CHARS:
                    raise jinja2.TemplateRuntimeError(f"it wrote more than {MAX_RENDERED_CHARS} characters")
                pieces.append(piece)
    except Exception as error:  # templates can raise anything: type errors, overflows, undefined names
        raise ChatTemplateError(f"the chat template failed: {type(error).__name__}: {error}") from error
    return "".join(pieces)

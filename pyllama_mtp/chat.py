"""Renders messages with a model's own chat template.

Templates come out of model files and are untrusted: they run in jinja2's ImmutableSandboxedEnvironment, which refuses
attribute tricks and changes to its inputs (the class of CVE-2024-34359), with bounded ranges and a bounded result.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyllama_mtp.errors import ChatTemplateError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_RENDERED_CHARS = 1 << 24

Message = Mapping[str, Any]


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def check_messages(messages: Sequence[Message]) -> None:
    """Raises ChatTemplateError unless every message is a mapping with a role and a content."""
    if not messages:
        raise ChatTemplateError("messages is empty, expected at least one {'role': ..., 'content': ...}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ChatTemplateError(f"message {index} is {message!r}, expected {{'role': str, 'content': ...}}")


def render(template: str | None, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
    """The prompt text for `messages`, with the turn of the model opened.

    Raises ChatTemplateError if the model has no template, or the template refuses the messages or misbehaves.
    """
    check_messages(messages)
    if not template:
        raise ChatTemplateError("the model has no chat template; pass the prompt as text or token ids")
    if len(template) > MAX_TEMPLATE_CHARS:
        raise ChatTemplateError(
            f"the chat template has {len(template)} characters, expected at most {MAX_TEMPLATE_CHARS}"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda fmt: datetime.datetime.now().strftime(fmt)
    pieces: list[str] = []
    size = 0
    try:
        stream = environment.from_string(template).generate(
            messages=[dict(m) for m in messages], bos_token=bos_token, eos_token=eos_token, add_generation_prompt=True
        )
        for piece in stream:
            size += len(piece)
            if size > MAX_RENDERED_CHARS:
                raise ChatTemplateError(f"the chat template writes more than {MAX_RENDERED_CHARS} characters")
            pieces.append(piece)
    except ChatTemplateError:
        raise
    except RecursionError as error:
        raise ChatTemplateError("the chat template recurses without end") from error
    except Exception as error:  # templates can raise anything: type errors, overflows, undefined names
        raise ChatTemplateError(f"the chat template failed: {type(error).__name__}: {error}") from error
    return "".join(pieces)

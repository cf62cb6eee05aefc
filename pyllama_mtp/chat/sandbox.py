"""The process in which a chat template runs: `python sandbox.py`, started by pyllama_mtp.chat.template.

Templates come out of model files and are untrusted. They run in jinja2's ImmutableSandboxedEnvironment, which refuses
attribute tricks and changes to its inputs (the class of CVE-2024-34359). A sandbox within a process cannot bound what
one operation of it costs ('a' * 10**9, the text of a list that holds itself in every element), so the process is
limited too: CPU time, memory, and no file can grow. It ends after one template.

stdin: a JSON object with template, messages, bos_token, eos_token, cpu_seconds, memory_bytes, rendered_chars. stdout:
RENDERED, a line with a JSON list, where in the text other conversations may branch off, and the text, or FAILED and
why, in UTF-8. It imports nothing of the package, which would load the library.
"""

import datetime
import json
import os.path
import resource
import sys
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

RENDERED, FAILED = b"+", b"-"
MAX_ERROR_CHARS = 1000
MAX_BRANCHES = 4  # at ends of messages


def _limit(cpu_seconds: int, memory_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    allowed = {name: environment.globals[name] for name in ("range", "namespace", "dict")}
    environment.globals = allowed | {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _render(template: jinja2.Template, request: dict[str, Any], n_messages: int, opens_turn: bool) -> str:
    """The first n_messages. opens_turn: with the beginning of the model's turn."""
    pieces: list[str] = []
    size = 0
    for piece in template.generate(
        messages=request["messages"][:n_messages],
        bos_token=request["bos_token"],
        eos_token=request["eos_token"],
        add_generation_prompt=opens_turn,
    ):
        size += len(piece)
        if size > request["rendered_chars"]:
            raise jinja2.TemplateRuntimeError(f"it wrote more than {request['rendered_chars']} characters")
        pieces.append(piece)
    return "".join(pieces)


def _branches(template: jinja2.Template, request: dict[str, Any], text: str) -> list[int]:
    """Lengths of the text's beginnings that other conversations may share: up to the model's turn, which later stands
    there as history does, and up to the last messages and the first. A template may refuse a part of a conversation.
    """
    n = len(request["messages"])
    lengths = set()
    for n_messages in {n, 1, *range(max(1, n - MAX_BRANCHES), n)}:
        try:
            beginning = _render(template, request, n_messages, opens_turn=False)
        except Exception:
            continue
        lengths.add(len(os.path.commonprefix([beginning, text])))
    return sorted(lengths - {0, len(text)})


def _answer(request: dict[str, Any]) -> bytes:
    template = _environment().from_string(request["template"])
    text = _render(template, request, len(request["messages"]), opens_turn=True)
    return f"{json.dumps(_branches(template, request, text))}\n{text}".encode()


def main() -> None:
    request = json.load(sys.stdin.buffer)
    _limit(request["cpu_seconds"], request["memory_bytes"])
    try:
        kind, answer = RENDERED, _answer(request)
    except MemoryError:
        kind, answer = FAILED, f"it needs more than {request['memory_bytes'] >> 20} MiB of memory".encode()
    except Exception as error:  # templates can raise anything: type errors, overflows, undefined names
        text = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
        kind, answer = FAILED, text.encode(errors="replace")
    sys.stdout.buffer.write(kind)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

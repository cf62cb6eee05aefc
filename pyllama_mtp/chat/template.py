"""Renders messages with a model's own chat template, which is untrusted code out of the model's file.

Each rendering is a process of its own (pyllama_mtp.chat.sandbox) with limits of time, memory and size, which ends it
whatever the template does. Starting it takes about a tenth of a second.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pyllama_mtp.chat.messages import Message, check_messages
from pyllama_mtp.errors import ChatTemplateError

MAX_TEMPLATE_CHARS = 1 << 18
MAX_RENDERED_CHARS = 1 << 24
MAX_CPU_SECONDS = 5
MAX_SECONDS = 30.0  # by the wall clock, on a machine too busy to grant those
MAX_MEMORY_BYTES = 512 << 20

_SANDBOX = Path(__file__).with_name("sandbox.py")
_RENDERED = b"+"


class Rendered(NamedTuple):
    """A prompt text. branches: lengths of its beginnings after which other conversations may go on differently."""

    text: str
    branches: list[int]


def render(template: str | None, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> Rendered:
    """The prompt text for `messages`, with the turn of the model opened.

    Raises ChatTemplateError if the model has no template, the messages hold something that JSON cannot, or the template
    refuses the messages or exceeds a limit.
    """
    check_messages(messages)
    if not template:
        raise ChatTemplateError("the model has no chat template; pass the prompt as text or token ids")
    if len(template) > MAX_TEMPLATE_CHARS:
        raise ChatTemplateError(
            f"the chat template has {len(template)} characters, expected at most {MAX_TEMPLATE_CHARS}"
        )
    try:
        request = json.dumps(
            {
                "template": template,
                "messages": [dict(message) for message in messages],
                "bos_token": bos_token,
                "eos_token": eos_token,
                "cpu_seconds": MAX_CPU_SECONDS,
                "memory_bytes": MAX_MEMORY_BYTES,
                "rendered_chars": MAX_RENDERED_CHARS,
            }
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatTemplateError(f"messages are not of JSON's types (str, int, list, dict ...): {error}") from error
    return _run(request.encode())


def _run(request: bytes) -> Rendered:
    if not sys.executable or getattr(sys, "frozen", False):
        raise ChatTemplateError("there is no Python interpreter to run the chat template: pass the prompt as text")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-S", "-P", str(_SANDBOX)]  # -P: this package's modules do not shadow others
    try:
        done = subprocess.run(
            command,
            input=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=MAX_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ChatTemplateError(f"the chat template failed: it ran for more than {MAX_SECONDS:g} s") from error
    except OSError as error:
        raise ChatTemplateError(f"cannot start a process for the chat template: {error}") from error
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ChatTemplateError(f"the chat template failed: it ran for more than {MAX_CPU_SECONDS} s of CPU time")
    if done.returncode or not done.stdout:
        raise ChatTemplateError(
            f"the chat template failed: its process ended with the status {done.returncode}, which happens where it "
            f"exceeds {MAX_MEMORY_BYTES >> 20} MiB of memory or recurses too deeply"
        )
    answer = done.stdout[1:].decode()
    if done.stdout[:1] != _RENDERED:
        raise ChatTemplateError(f"the chat template failed: {answer}")
    branches, _, text = answer.partition("\n")
    return Rendered(text, json.loads(branches))

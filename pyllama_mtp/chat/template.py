"""Renders conversations with a chat template, which is untrusted code out of a model's file.

A template has a process (pyllama_mtp.chat.processes), in which each rendering is a process of its own, with limits of
time, memory and size that end it whatever the template does.
"""

import itertools
import json
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from pyllama_mtp.chat.messages import Conversation, Message, conversation
from pyllama_mtp.chat.processes import KILLED, ProcessEnded, ask
from pyllama_mtp.chat.tool_results import collected, takes_results_in_calls
from pyllama_mtp.errors import ChatTemplateError, InvalidRequestError, seen

MAX_TEMPLATE_CHARS = 1 << 18
MAX_RENDERED_CHARS = 1 << 24
MAX_CPU_SECONDS = 5
MAX_SECONDS = 30.0  # by the wall clock, on a machine too busy to grant those
MAX_MEMORY_BYTES = 512 << 20

_RENDERED = b"+"


class Rendered(str):
    """A prompt text. pieces: it in parts, and whether the template wrote each itself; the others came from messages,
    tools or variables. branches: lengths of its beginnings after which other conversations may go on differently.
    """

    pieces: list[tuple[str, bool]]
    branches: list[int]

    def __new__(cls, text: str, pieces: list[tuple[str, bool]], branches: list[int]) -> "Rendered":
        self = super().__new__(cls, text)
        self.pieces, self.branches = pieces, branches
        return self

    @property
    def text(self) -> str:
        return str.__str__(self)


def render(
    template: str | None,
    messages: Sequence[Message],
    *,
    bos_token: str,
    eos_token: str,
    **options: Any,
) -> Rendered:
    """The prompt text for messages, by default with the model's turn opened. options: those of conversation()."""
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    return rendered(template, conversation(messages, **options), tokens)


def rendered(template: str | None, given: Conversation, tokens: Mapping[str, str]) -> Rendered:
    """tokens: texts of special tokens by the names that templates have for them, such as "bos_token".

    Raises ChatTemplateError if there is no template, or if it refuses the messages or exceeds a limit.
    """
    if template is None or template == "":
        raise ChatTemplateError("the model has no chat template; pass the prompt as text or token ids")
    if not isinstance(template, str):
        raise InvalidRequestError(f"chat_template is {seen(template)}, expected the text of a template")
    if len(template) > MAX_TEMPLATE_CHARS:
        raise ChatTemplateError(
            f"the chat template has {len(template)} characters, expected at most {MAX_TEMPLATE_CHARS}"
        )
    chat, texts = given.messages, given.texts
    if takes_results_in_calls(template):
        chat = [dict(message) for message in chat]
        left = collected(chat)
        texts = [(left.index(i), call, text) for i, call, text in texts]
    request = {
        "messages": chat,
        "variables": given.variables,
        "own": dict(tokens),
        "opens_turn": given.opens_turn,
        "continues": given.continues,
        "texts": texts,
    }
    try:
        start = json.dumps(
            {
                "template": template,
                "cpu_seconds": MAX_CPU_SECONDS,
                "memory_bytes": MAX_MEMORY_BYTES,
                "rendered_chars": MAX_RENDERED_CHARS,
            }
        ).encode()
        answer = ask(start, json.dumps(request).encode(), MAX_SECONDS)
    except RecursionError as error:
        raise ChatTemplateError("messages, tools or variables are nested too deeply") from error
    except TimeoutError as error:
        raise ChatTemplateError(f"the chat template failed: it ran for more than {MAX_SECONDS:g} s") from error
    except ProcessEnded as error:
        raise _failure(error.status) from error
    if answer[:1] != _RENDERED:
        raise ChatTemplateError(f"the chat template failed: {answer[1:].decode('utf-8', 'replace')}")
    try:
        head, _, text = answer[1:].decode().partition("\n")
        values = json.loads(head)
        return Rendered(text, _pieces(text, values["runs"]), values["branches"])
    except (ValueError, TypeError, LookupError) as error:
        raise ChatTemplateError("the chat template failed: its process gave no answer that can be read") from error


def _pieces(text: str, lengths: list[int]) -> list[tuple[str, bool]]:
    """lengths: of its parts, from elsewhere and the template's own in turn."""
    ends = itertools.accumulate(lengths, initial=0)
    cut = [text[begin:end] for begin, end in itertools.pairwise(ends)]
    return [(piece, i % 2 == 1) for i, piece in enumerate(cut) if piece]


def _failure(status: int) -> ChatTemplateError:
    signals = (signal.SIGXCPU, signal.SIGKILL)
    if status in [-number for number in signals] or status in [KILLED + number for number in signals]:
        return ChatTemplateError(f"the chat template failed: it ran for more than {MAX_CPU_SECONDS} s of CPU time")
    return ChatTemplateError(
        f"the chat template failed: its process ended with the status {status}, which happens where it "
        f"exceeds {MAX_MEMORY_BYTES >> 20} MiB of memory or recurses too deeply"
    )

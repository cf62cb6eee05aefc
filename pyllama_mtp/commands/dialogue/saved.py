"""Conversations as files of JSON. One that is loaded may be anybody's: all of it is checked before any is used."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pyllama_mtp.commands.arguments import SAMPLING
from pyllama_mtp.commands.dialogue.conversation import Conversation
from pyllama_mtp.errors import InvalidRequestError, StateFileError, seen
from pyllama_mtp.options import SamplingOptions
from pyllama_mtp.part_files import replacing

FORMAT = "pyllama-mtp conversation"
VERSION = 1
MAX_BYTES = 64 << 20
MAX_MESSAGES = 100_000
_KEYS = {"format", "version", "system", "messages", "think", "sampling"}
_ROLES = ("user", "assistant")

Fail = Callable[[str], NoReturn]


def save(path: Path, conversation: Conversation) -> None:
    """Writes a file that appears when it is complete. One that is there is replaced only if it is a conversation.
    Raises StateFileError.
    """
    if os.path.lexists(path):
        try:
            load(path)
        except StateFileError as error:
            raise StateFileError(f"{seen(str(path))} is there and no conversation: choose another name") from error
    data = {
        "format": FORMAT,
        "version": VERSION,
        "system": conversation.system,
        "messages": conversation.messages,
        "think": conversation.think,
        "sampling": conversation.told_sampling(),
    }
    try:
        text = json.dumps(data, ensure_ascii=False, indent=1).encode()
        with replacing(path) as part:
            part.write(text + b"\n")
    except (OSError, ValueError) as error:
        raise StateFileError(f"cannot write {seen(str(path))}: {_reason(error)}") from error


def load(path: Path) -> Conversation:
    """Raises StateFileError for a file that cannot be read or is no conversation."""

    def fail(what: str) -> NoReturn:
        raise StateFileError(f"{seen(str(path))} {what}: expected a file that /save wrote")

    try:
        text = _read(path)
    except (OSError, ValueError) as error:
        raise StateFileError(f"cannot read {seen(str(path))}: {_reason(error)}") from error
    try:
        data = json.loads(text, parse_constant=lambda name: fail(f"holds the number {name}"))
    except (ValueError, RecursionError) as error:
        fail(f"is no JSON ({error})")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        fail("is no conversation")
    if type(data.get("version")) is not int or data["version"] != VERSION:
        fail(f"has the version {seen(data.get('version'))}, this program knows {VERSION}")
    if data.keys() != _KEYS:
        fail(f"has the keys {seen(sorted(data))}")
    if data["system"] is not None:
        _check_text(data["system"], "a system prompt", fail)
    if not isinstance(data["think"], bool | None):
        fail(f"has {seen(data['think'])} for think")
    messages = _messages(data["messages"], fail)
    return Conversation(data["system"], messages, data["think"], _sampling(data["sampling"], fail))


def _read(path: Path) -> str:
    """A regular file, whatever lies there: no pipe is waited for. Raises OSError, UnicodeDecodeError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(f"it has more than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8")


def _messages(given: Any, fail: Fail) -> list[dict[str, str]]:
    if not isinstance(given, list) or len(given) > MAX_MESSAGES:
        fail(f"has no list of up to {MAX_MESSAGES} messages")
    for index, message in enumerate(given):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            fail(f"has {seen(message)} as message {index}")
        if not {"role", "content"} <= message.keys() <= {"role", "content", "reasoning_content"}:
            fail(f"has the keys {seen(sorted(message))} in message {index}")
        for name in message:
            _check_text(message[name], f"{name} of message {index}", fail)
    return list(given)


def _sampling(given: Any, fail: Fail) -> dict[str, Any]:
    """All of them, those that the file leaves out as they are by default."""
    if not isinstance(given, dict) or not given.keys() <= SAMPLING.keys():
        fail(f"has the sampling options {seen(given)}")
    try:
        checked = SamplingOptions(**given)
    except InvalidRequestError as error:
        fail(f"has sampling options of which {error}")
    return {name: getattr(checked, name) for name in SAMPLING}


def _check_text(value: Any, what: str, fail: Fail) -> None:
    """JSON's escapes can say halves of characters, which no tokenizer takes."""
    try:
        if not isinstance(value, str):
            raise ValueError
        value.encode()
    except ValueError:
        fail(f"has {seen(value)} as {what}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

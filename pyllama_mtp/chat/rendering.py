"""One conversation, rendered by one template, in the process in which templates run.

The text is what transformers' environment makes; a second rendering, of traced strings, tells what of it the template
wrote itself, and counts only if it gives the same text.
"""

import json
import os
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import jinja2

from pyllama_mtp.chat.environment import Environment, TracingEnvironment
from pyllama_mtp.chat.positions import Positions
from pyllama_mtp.chat.provenance import of_part, origin_of, own, runs, traced

MAX_BRANCHES = 4  # at ends of messages
TAG = "CONTINUE_FINAL_MESSAGE_TAG "  # transformers'
# Roles that a template may make a control token of ('<|' + role + '|>').
ROLES = frozenset(
    ("assistant", "developer", "environment", "function", "ipython", "model", "observation", "system", "tool", "user")
)


class Template:
    """One template, compiled as transformers has it and to trace what it writes itself."""

    def __init__(self, source: str, most: int) -> None:
        """most: characters that a rendering may have."""
        self._most = most
        self._plain = Environment()
        self._tracing = TracingEnvironment()
        self.source = source
        self._templates = [environment.from_string(source) for environment in (self._plain, self._tracing)]

    def begin(self) -> None:
        self._plain.now = self._tracing.now = datetime.now()

    def plain(self, variables: dict[str, Any]) -> str:
        return "".join(self._pieces(0, variables))

    def traced(self, variables: dict[str, Any], parts: dict[int, int]) -> "Followed":
        """parts: see Positions."""
        self._tracing.positions = positions = Positions(variables["messages"], parts)
        pieces = list(self._pieces(1, variables))
        return Followed("".join(pieces), b"".join(map(origin_of, pieces)), positions)

    def _pieces(self, index: int, variables: dict[str, Any]) -> Iterator[str]:
        random.seed(0)  # the same in every rendering of a conversation
        size = 0
        for piece in self._templates[index].generate(variables):
            size += len(piece)
            self._tracing.positions.n_written = size
            if size > self._most:
                raise jinja2.TemplateRuntimeError(f"it wrote more than {self._most} characters")
            yield piece


class Followed(NamedTuple):
    """A text, where its characters came from, and where its messages begin."""

    text: str
    origin: bytes
    positions: Positions


class Rendering(NamedTuple):
    """messages. variables: what else the template is given. own: texts of tokens, by the names of variables.
    opens_turn: with the beginning of the model's turn. continues: the last message is left open.
    texts: [message, call, arguments as text] of tool calls, for templates that write them as they are.
    """

    messages: list[dict[str, Any]]
    variables: dict[str, Any]
    own: dict[str, str]
    opens_turn: bool
    continues: bool
    texts: list[tuple[int, int, str]]

    def n(self, n_messages: int, **changes: Any) -> dict[str, Any]:
        """Variables for a rendering of the first n_messages."""
        given = {"messages": self.messages[:n_messages], "add_generation_prompt": False} | self.own | self.variables
        return given | changes

    def whole(self) -> dict[str, Any]:
        messages = [*self.messages[:-1], _tagged(self.messages[-1])] if self.continues else self.messages
        return self.n(len(messages), messages=messages, add_generation_prompt=self.opens_turn)

    def traced(self) -> dict[str, Any]:
        given = {
            name: value if name == "messages" else traced(value)
            for name, value in self.whole().items()
            if name not in self.own
        }
        parts, part = self.parts(), 0
        messages = []
        for number, message in enumerate(given["messages"]):
            part = parts.get(number, part)
            messages.append(_traced_message(message, part))
        given["messages"] = messages
        return (
            given
            | {name: own(text) for name, text in self.own.items() if name not in self.variables}
            | {name: traced(self.variables[name]) for name in self.own if name in self.variables}
        )

    def parts(self) -> dict[int, int]:
        """Numbers of the messages before which conversations may go on differently: behind the system prompt, and the
        newest ones. With the number, from 1, of the part of the conversation that begins there.
        """
        n = len(self.messages)
        numbers = sorted({1, *range(max(1, n - MAX_BRANCHES), n)} - {n})
        return {number: part for part, number in enumerate(numbers, 1)}

    def python(self) -> tuple[set[str], set[str]]:
        """How Python writes what has no text of its own: contents, and arguments of calls."""
        messages = self.whole()["messages"]
        contents = [message.get("content") for message in messages]
        calls = [call.get("function", call) for message in messages for call in message.get("tool_calls") or ()]
        arguments = [call.get("arguments") for call in calls]
        return (
            {repr(content) for content in contents if not isinstance(content, str)},
            {repr(value) for value in arguments if value and isinstance(value, dict)},
        )

    def plainer(self, content: bool, arguments: bool) -> "Rendering | None":
        """The same with text for what has none of its own: no content and parts, arguments of calls. None: nothing is
        changed.
        """
        messages = self.messages
        if content:
            messages = [message | {"content": _text_of(message.get("content"))} for message in messages]
        if arguments:
            messages = self._with_texts(messages)
        return self._replace(messages=messages) if messages != self.messages else None

    def _with_texts(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        changed = list(messages)
        for i, j, text in self.texts:
            calls = list(changed[i]["tool_calls"])
            calls[j] = calls[j] | {"function": calls[j]["function"] | {"arguments": text}}
            changed[i] = changed[i] | {"tool_calls": calls}
        return changed


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    return "\n".join(part["text"] for part in content)


def _traced_message(message: dict[str, Any], part: int) -> dict[str, Any]:
    role = message["role"]
    known = {"role": own(role, part)} if role in ROLES else {}
    return traced(message, lambda text: of_part(text, part)) | known  # type: ignore[no-any-return]


def _tagged(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a mark at the end of its text, as transformers sets it."""
    content = message["content"]
    if isinstance(content, str):
        return message | {"content": content + TAG}
    last = max(i for i, part in enumerate(content) if "text" in part)
    parts = [part | {"text": part["text"] + TAG} if i == last else part for i, part in enumerate(content)]
    return message | {"content": parts}


def _end_of_message(text: str, message: dict[str, Any]) -> int:
    """Where a rendering of a message with a mark is cut off, as transformers cuts it."""
    content = message["content"]
    said = content if isinstance(content, str) else [part["text"] for part in content if "text" in part][-1]
    at = text.rfind(TAG.strip())
    if at < 0 or said.strip() not in text:
        raise jinja2.TemplateError("it does not show all of the last message, which is to be continued")
    return at if text.startswith(TAG, at) else len(text[:at].rstrip())


def _common(template: Template, rendering: Rendering, text: str) -> int | None:
    """Characters that the text has in common with one whose model's turn is not opened; None: there is none."""
    try:
        return len(os.path.commonprefix([template.plain(rendering.n(len(rendering.messages))), text]))
    except Exception:  # a template may refuse a part of a conversation
        return None


def _followed(template: Template, rendering: Rendering) -> Followed:
    text = template.plain(rendering.whole())
    followed = template.traced(rendering.traced(), rendering.parts())
    if followed.text != text:
        raise jinja2.TemplateError("what it writes cannot be told from what the messages hold")
    return followed


def _chosen(template: Template, rendering: Rendering) -> tuple[Rendering, Followed]:
    """The rendering, or one of the same with text for what the template refuses to write, or writes as Python does."""
    try:
        followed = _followed(template, rendering)
    except Exception:
        for content, arguments in ((True, False), (False, True), (True, True)):
            if other := rendering.plainer(content, arguments):
                try:
                    return other, _followed(template, other)
                except Exception:
                    continue
        raise
    content, arguments = (any(followed.text.count(word) for word in words) for words in rendering.python())
    if (content or arguments) and (other := rendering.plainer(content, arguments)):
        words = [word for words in rendering.python() for word in words]
        try:
            plainer = _followed(template, other)
        except Exception:
            return rendering, followed
        if sum(map(plainer.text.count, words)) < sum(map(followed.text.count, words)):
            return other, plainer
    return rendering, followed


def _opens_at(template: Template, rendering: Rendering, followed: Followed) -> int:
    """Where the model's turn is opened; at the end if it is not. Another rendering tells it where the template cannot
    be seen to open that.
    """
    if rendering.continues or not rendering.opens_turn:
        return len(followed.text)
    at = followed.positions.opening(followed.origin)
    if at is None:
        at = _common(template, rendering, followed.text)
    return len(followed.text) if at is None else at


def answered(template: Template, rendering: Rendering) -> bytes:
    template.begin()
    rendering, followed = _chosen(template, rendering)
    if rendering.continues:
        end = _end_of_message(followed.text, rendering.messages[-1])
        followed = followed._replace(text=followed.text[:end], origin=followed.origin[:end])
    begins = [followed.positions.beginning(number, followed.origin) for number in rendering.parts()]
    branches = {_opens_at(template, rendering, followed), *(at for at in begins if at is not None)}
    answer = {"branches": sorted(branches - {0, len(followed.text)}), "runs": runs(followed.origin)}
    return f"{json.dumps(answer)}\n{followed.text}".encode()

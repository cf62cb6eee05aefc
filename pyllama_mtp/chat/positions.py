"""Where parts of a conversation begin in the text that a template writes.

A template is watched while it writes: its loops tell which message they have come to, and its branches for the
generation prompt that they are taken. What is known of the text's characters tells whether to trust that.
"""

import re
from collections.abc import Iterator
from typing import Any

from jinja2 import nodes

from pyllama_mtp.chat.provenance import ALL_OWN

_PROMPT = "add_generation_prompt"
_BUFFERED = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block)


class Positions:
    """Of one rendering. n_written: characters so far."""

    def __init__(self, messages: list[dict[str, Any]], parts: dict[int, int]) -> None:
        """parts: numbers of messages that begin a part of the conversation, with the numbers of the parts."""
        self.n_written = 0
        self._opened: int | None = None
        self._parts = parts
        self._by_id = {id(messages[number]): number for number in parts}
        self._entries: dict[int, list[int]] = {number: [] for number in parts}

    def entered(self, message: object) -> None:
        number = self._by_id.get(id(message))
        if number is not None:
            self._entries[number].append(self.n_written)

    def opens(self) -> None:
        if self._opened is None:
            self._opened = self.n_written

    def beginning(self, number: int, origin: bytes) -> int | None:
        """Of a message in the text: it lies among the template's own characters before the first one of the part that
        the message begins, at their beginning if no loop tells more. None: nothing tells.
        """
        first = re.search(b"[%s-\xff]" % re.escape(bytes((2 * self._parts[number],))), origin)
        end = first.start() if first else len(origin)
        begin = len(origin[:end].rstrip(ALL_OWN))
        exact = [at for at in self._entries[number] if begin <= at <= end]
        if exact:
            return exact[-1]
        return begin if first else None

    def opening(self, origin: bytes) -> int | None:
        """Likewise of the generation prompt, if the template was seen to write it."""
        at = self._opened
        return None if at is None or at < len(origin.rstrip(ALL_OWN)) else at


def watched(template: nodes.Template) -> nodes.Template:
    """The template with calls of these positions in it."""
    for loop in template.find_all(nodes.For):
        is_range = isinstance(loop.iter, nodes.Call) and getattr(loop.iter.node, "name", "") == "range"
        if isinstance(loop.target, nodes.Name) and not is_range:
            _begin(loop, "positions.entered", nodes.Name(loop.target.name, "load", lineno=loop.lineno))
    for branch in _prompts(template):
        _begin(branch, "positions.opens")
    return template


def _begin(node: nodes.For | nodes.If, method: str, *arguments: nodes.Expr) -> None:
    name = nodes.EnvironmentAttribute(method, lineno=node.lineno)
    call = nodes.Call(name, list(arguments), [], None, None, lineno=node.lineno)
    node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))


def _prompts(template: nodes.Template) -> list[nodes.If]:
    """The branches that write the generation prompt, if no other part of the template depends on whether there is one,
    and what they write is not collected first.
    """
    buffered = {id(node) for outer in template.find_all(_BUFFERED) for node in outer.find_all(nodes.If)}
    found = [
        branch
        for branch in template.find_all(nodes.If)
        if any(name.name == _PROMPT for name in _needed(branch.test))
        and not (branch.elif_ or branch.else_ or id(branch) in buffered)
    ]
    known = {id(name) for branch in found for name in _needed(branch.test)}
    names = (name for name in template.find_all(nodes.Name) if name.name == _PROMPT)
    return found if all(id(name) in known for name in names) else []


def _needed(test: nodes.Node) -> Iterator[nodes.Name]:
    """Variables that are true where the test is."""
    if isinstance(test, nodes.Name):
        yield test
    elif isinstance(test, nodes.And):
        yield from _needed(test.left)
        yield from _needed(test.right)

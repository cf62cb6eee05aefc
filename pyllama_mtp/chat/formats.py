"""How a model marks what it thinks and what it calls, as its vocabulary tells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FormatName = Literal["gemma4", "schema", "plain"]

_GEMMA4 = {
    "thought_begin": "<|channel>",
    "thought_end": "<channel|>",
    "call_begin": "<|tool_call>",
    "call_end": "<tool_call|>",
    "quote": '<|"|>',
    "response_begin": "<|tool_response>",
    "turn_end": "<turn|>",
}


class Vocabulary(Protocol):
    """A NativeModel."""

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]: ...
    def token_bytes(self, token: int, special: bool) -> bytes: ...


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """Ids of the tokens that mark thoughts and calls, -1 where there is none.

    thought_begin: followed by the text "thought" and a line's end. quote: before and after a string of a call's
    arguments. response_begin: ends a generation after a call. name "plain": all is text; "schema": a response_schema
    says what is what.
    """

    name: FormatName
    thought_begin: int = -1
    thought_end: int = -1
    call_begin: int = -1
    call_end: int = -1
    quote: int = -1
    response_begin: int = -1
    turn_end: int = -1

    def open_at(self, prompt: Sequence[int]) -> int:
        """Where the last mark stands that begins a thought or a call, or ends a thought, in the part of the model's
        turn that the prompt ends with; the prompt's length if there is none: nothing is open.
        """
        begins = {self.thought_begin, self.thought_end, self.call_begin} - {-1}
        ends = {self.call_end, self.response_begin, self.turn_end} - {-1}
        for at in range(len(prompt) - 1, -1, -1):
            if prompt[at] in begins:
                return at
            if prompt[at] in ends:
                break
        return len(prompt)


PLAIN = OutputFormat("plain")


def output_format(native: Vocabulary) -> OutputFormat:
    """Gemma 4's if the vocabulary has the tokens of its thoughts or of its calls, else a plain one."""

    def token_of(text: str) -> int:
        data = text.encode()
        ids = native.tokenize(data, add_special=False, parse_special=True)
        return ids[0] if len(ids) == 1 and native.token_bytes(ids[0], special=True) == data else -1

    ids = {name: token_of(text) for name, text in _GEMMA4.items()}
    pairs = (("thought_begin", "thought_end"), ("call_begin", "call_end"))
    if not any(ids[begin] >= 0 and ids[end] >= 0 for begin, end in pairs):
        return PLAIN
    return OutputFormat("gemma4", **ids)

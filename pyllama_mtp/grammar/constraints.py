"""What restricts the completions of one model, made from what their callers ask for."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from pyllama_mtp._native import NativeModel
from pyllama_mtp._sequence import Constraint
from pyllama_mtp.chat.formats import OutputFormat
from pyllama_mtp.chat.messages import plain_tools
from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.grammar.build import calls_of, content_of, either
from pyllama_mtp.grammar.options import GrammarOptions
from pyllama_mtp.task import run

if TYPE_CHECKING:  # loads llguidance's functions, which take their time
    from pyllama_mtp._matcher import Thoughts, Tokenizer

MAX_SECONDS = 20.0  # that a grammar may take until it can be used

Tools = Sequence[Mapping[str, Any]]
T = TypeVar("T")


class Constraints:
    """Of a model. The tables of its vocabulary are made when the first grammar needs them."""

    def __init__(self, native: NativeModel, marks: OutputFormat, n_vocab: int):
        self._native = native
        self._marks = marks
        self._n_vocab = n_vocab
        self._tokenizer: Tokenizer | None = None

    def of(self, options: GrammarOptions, tools: Tools | None, prompt: Sequence[int]) -> Constraint | None:
        """What restricts a completion of `prompt`; None: nothing does. Raises InvalidRequestError."""
        if options.logits_mask is not None:
            from pyllama_mtp.grammar.masks import CallableMask

            return CallableMask(options.logits_mask, self._n_vocab, self._native.token_is_end)
        choice = options.tool_choice
        if not tools and choice not in (None, "none", "auto"):
            raise InvalidRequestError("tool_choice asks for a call, but there are no tools: pass `tools`")
        tools = plain_tools(tools) if tools else []
        has_calls = bool(tools) and self._marks.call_begin >= 0
        content = content_of(options)
        if tools and isinstance(choice, Mapping):
            return self._matcher(either(None, calls_of(tools, choice["function"]["name"], False, self._marks)), prompt)
        if tools and choice == "required":
            return self._matcher(either(None, calls_of(tools, None, True, self._marks)), prompt)
        if tools and has_calls and choice == "auto":
            calls = calls_of(tools, None, True, self._marks)
            return (
                self._opened(either(None, calls)) if content is None else self._matcher(either(content, calls), prompt)
            )
        if content is not None:
            return self._matcher(either(content, None), prompt)
        return self._opened(None) if has_calls and choice == "none" else None

    def _matcher(self, grammar: bytes, prompt: Sequence[int]) -> Constraint:
        return self._made(grammar, thoughts_of(self._marks, prompt))

    def _opened(self, grammar: bytes | None) -> Constraint:
        """A grammar of calls amid any text; None: there are none."""
        from pyllama_mtp._matcher import IN_TEXT, Thoughts

        return self._made(grammar, Thoughts(phase=IN_TEXT, opens=self._marks.call_begin))

    def _made(self, grammar: bytes | None, thoughts: "Thoughts") -> Constraint:
        from pyllama_mtp._matcher import Matcher

        tokenizer = self._tokenizer or run(self._tables, stop=lambda: None)
        self._tokenizer = tokenizer  # two threads may both have made them
        return within(MAX_SECONDS, lambda: Matcher(tokenizer, grammar, thoughts))

    def _tables(self) -> "Tokenizer":
        from pyllama_mtp._matcher import tokenizer_of, vocabulary_of

        marks = (getattr(self._marks, field.name) for field in fields(self._marks))
        return tokenizer_of(
            vocabulary_of(self._native, [mark for mark in marks if isinstance(mark, int) and mark >= 0])
        )


def within(seconds: float, make: Callable[[], T]) -> T:
    """make(), on a thread of its own, for which neither signal handlers nor a limit of time wait."""
    end = time.monotonic() + seconds

    def poll() -> None:
        if time.monotonic() > end:
            raise InvalidRequestError(f"the grammar was not ready after {seconds:g} s: simplify it")

    return run(make, stop=lambda: None, poll=poll)


def thoughts_of(marks: OutputFormat, prompt: Sequence[int]) -> "Thoughts":
    """Where a grammar begins behind a prompt: at once, unless that is a conversation whose model may think first."""
    from pyllama_mtp._matcher import BEFORE_ALL, BEGUN, IN_THOUGHT, Thoughts

    if marks.thought_begin < 0 or marks.turn_end not in prompt:
        return Thoughts()
    open_ = prompt[marks.open_at(prompt) :]
    phase = BEFORE_ALL
    if open_ and open_[0] == marks.thought_begin:
        phase = IN_THOUGHT
    elif open_ and (open_[0] == marks.call_begin or open_ == [marks.thought_end]):
        phase = BEGUN
    return Thoughts(marks.thought_begin, marks.thought_end, phase, opens=marks.call_begin)

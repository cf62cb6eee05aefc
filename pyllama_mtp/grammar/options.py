"""What a caller may ask for of the shape of a completion."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.ranges import Texts

MAX_GRAMMAR_CHARS = 1 << 20

ToolChoice = Literal["auto", "none", "required"] | Mapping[str, Any]
LogitsMask = Callable[[list[int]], Any]

_RESPONSE_FORMATS = ("text", "json_object", "json_schema")
_TOOL_CHOICES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class _ResponseFormat:
    """OpenAI's: its type is "text", "json_object", or "json_schema" with {"json_schema": {"schema": {...}}}."""

    def check(self, name: str, value: object) -> dict[str, Any]:
        kind = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping) or kind not in _RESPONSE_FORMATS:
            raise InvalidRequestError(
                f"{name} is {seen(value)}, expected {{'type': 'json_object'}} or "
                "{'type': 'json_schema', 'json_schema': {'schema': ...}}"
            )
        if kind == "json_schema":
            given = value.get("json_schema")
            schema = given.get("schema") if isinstance(given, Mapping) else None
            if not isinstance(schema, Mapping):
                raise InvalidRequestError(
                    f"{name} has the json_schema {seen(given)}, expected {{'schema': {{...}}}} with a JSON schema"
                )
        return dict(value)


@dataclass(frozen=True, slots=True)
class _Grammar:
    """Text of a regular expression or a grammar."""

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise InvalidRequestError(f"{name} is {seen(value)}, expected text")
        if len(value) > MAX_GRAMMAR_CHARS:
            raise InvalidRequestError(f"{name} has {len(value)} characters, expected at most {MAX_GRAMMAR_CHARS}")
        return str(value)


@dataclass(frozen=True, slots=True)
class _Callable:
    def check(self, name: str, value: object) -> object:
        if not callable(value):
            raise InvalidRequestError(f"{name} is {seen(value)}, expected a callable of a list of token ids")
        return value


@dataclass(frozen=True, slots=True)
class _ToolChoice:
    """A word, or {"type": "function", "function": {"name": ...}}."""

    def check(self, name: str, value: object) -> str | dict[str, Any]:
        if isinstance(value, str) and value in _TOOL_CHOICES:
            return str(value)
        function = value.get("function") if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return dict(value)
        raise InvalidRequestError(
            f"{name} is {seen(value)}, expected one of {', '.join(_TOOL_CHOICES)} or "
            "{'type': 'function', 'function': {'name': ...}}"
        )


@dataclass(frozen=True, kw_only=True)
class GrammarOptions:
    """At most one of the first five. response_format: OpenAI's. choice: one of these texts. grammar: Lark, as
    llguidance has it. logits_mask: given the token ids so far, which tokens may come next. tool_choice: with `tools`.
    """

    response_format: Annotated[Mapping[str, Any] | None, _ResponseFormat()] = None
    regex: Annotated[str | None, _Grammar()] = None
    choice: Annotated[Sequence[str] | None, Texts()] = None
    grammar: Annotated[str | None, _Grammar()] = None
    logits_mask: Annotated[LogitsMask | None, _Callable()] = None
    tool_choice: Annotated[ToolChoice | None, _ToolChoice()] = None


def _given(options: Any) -> list[str]:
    """Names of what is said of the text, but for its calls."""
    names = [option.name for option in fields(GrammarOptions)][:5]
    return [name for name in names if getattr(options, name) is not None]


def restricts(options: Any) -> bool:
    """Whether there is a rule for calls: they are written as it says, or there are none."""
    is_plain = options.response_format is not None and options.response_format["type"] == "text"
    return options.tool_choice is not None or len(_given(options)) > is_plain


def check_grammar_options(options: Any) -> None:
    """Those of GrammarOptions together, and beside others. Raises InvalidRequestError."""
    given = _given(options)
    if len(given) > 1:
        raise InvalidRequestError(f"{' and '.join(given)} are given, expected one of them: each restricts all the text")
    if options.choice is not None and not options.choice:
        raise InvalidRequestError("choice is empty, expected one text or more")
    calls = options.tool_choice is not None and isinstance(options.tools, Sequence) and len(options.tools) > 0
    if calls and options.logits_mask is not None:
        raise InvalidRequestError("tool_choice beside logits_mask, which allows all there is: leave one of them out")
    if options.ignore_eos and (set(given) - {"logits_mask"} or calls):
        raise InvalidRequestError("ignore_eos beside a grammar, behind whose end nothing can follow: leave one out")
    if given and len(options.synthetic_acceptance) > 0:
        raise InvalidRequestError("synthetic_acceptance beside a grammar, which may refuse drafts: leave one out")

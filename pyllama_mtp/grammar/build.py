"""The text of a grammar, in llguidance's JSON, from what a caller asks for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyllama_mtp.chat.formats import OutputFormat
from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.grammar.calls import CallRules
from pyllama_mtp.grammar.options import MAX_GRAMMAR_CHARS, GrammarOptions
from pyllama_mtp.grammar.schemas import WHITE_SPACE, checked_schema, slashes_escaped

Part = dict[str, Any]


def content_of(options: GrammarOptions) -> Part | None:
    """The grammar of a text without calls; None: any text."""
    form = options.response_format
    if form is not None and form["type"] == "json_schema":
        return {"json_schema": checked_schema(form["json_schema"]["schema"], "the schema of response_format")}
    if form is not None and form["type"] == "json_object":
        return {"json_schema": {"type": "object", "x-guidance": {"whitespace_pattern": WHITE_SPACE}}}
    if options.regex is not None:
        return {"lark_grammar": f"start: REGEX\nREGEX: /{_anchored(options.regex)}/"}
    if options.choice is not None:
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in options.choice)
        return {"lark_grammar": f"start: CHOICE\nCHOICE: {texts}"}
    if options.grammar is not None:
        return {"lark_grammar": options.grammar}
    return None


def _anchored(regex: str) -> str:
    """A regular expression is of the whole text, so that anchors around it say nothing."""
    inner = regex.removeprefix("^")
    if inner.endswith("$") and not inner.endswith("\\$"):
        inner = inner[:-1]
    return slashes_escaped(inner)


def calls_of(tools: Sequence[Mapping[str, Any]], chosen: str | None, several: bool, marks: OutputFormat) -> Part:
    """The grammar of calls: of the tool `chosen`, or None: of any. several: one or more of them."""
    rules = CallRules(tools, marks)
    if chosen is not None and chosen not in rules.names:
        raise InvalidRequestError(f"tool_choice names {chosen!r}, expected one of {', '.join(rules.names)}")
    names = list(rules.names.values()) if chosen is None else [rules.names[chosen]]
    start = f"({' | '.join(names)})" + ("+" if several else "")
    return {"lark_grammar": f"start: {start}\n{rules.rules}"}


def either(content: Part | None, calls: Part | None) -> bytes:
    """One of the two, as llguidance takes it."""
    parts = [part for part in (calls, content) if part is not None]
    grammars: list[Part] = parts
    if len(parts) == 2:
        named = [part | {"name": name} for part, name in zip(parts, ("calls", "content"), strict=True)]
        grammars = [{"lark_grammar": "start: @calls | @content"}, *named]
    text = json.dumps({"grammars": grammars}).encode()
    if len(text) > 4 * MAX_GRAMMAR_CHARS:
        raise InvalidRequestError(f"the grammar has {len(text)} bytes, expected at most {4 * MAX_GRAMMAR_CHARS}")
    return text

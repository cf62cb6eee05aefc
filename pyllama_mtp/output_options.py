"""What a caller may ask for of the way in which a completion is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pyllama_mtp._library import MAX_LOGPROBS
from pyllama_mtp.chat.response_schema import check_schema
from pyllama_mtp.chat.response_template import is_template, read_template
from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.ranges import Flag, Integer, of_json_types


@dataclass(frozen=True, slots=True)
class ResponseSchema:
    """A response_template of transformers, or the older response_schema."""

    def check(self, name: str, value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"{name} is {seen(value)}, expected the mapping of a tokenizer_config.json")
        try:
            plain: dict[str, Any] = of_json_types(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{name} is not of JSON's types (dict, list, str, int ...): {error}") from error
        if is_template(plain):
            read_template(plain)
        else:
            check_schema(plain)
        return plain


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """A part of the options of a request, which are checked together.

    raw: the text as the model wrote it, control tokens and the one that ends it included, as `text` alone. echo: the
    text begins with the prompt's. prompt_logprobs: with each token of the prompt so many best ones. response_schema:
    says what of the output is text, thought or call, in place of what is known of the model.
    """

    raw: Annotated[bool, Flag()] = False
    echo: Annotated[bool, Flag()] = False
    prompt_logprobs: Annotated[int | None, Integer(0, MAX_LOGPROBS)] = None
    response_schema: Annotated[Mapping[str, Any] | None, ResponseSchema()] = None

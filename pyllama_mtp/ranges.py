"""Legal values of options: each class checks one value and turns it into the plain type that it stands for, numpy's
included.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from pyllama_mtp.errors import InvalidRequestError, seen


class Legal(Protocol):
    """What stands in an option's annotation: Annotated[float, Number(0, 1)]."""

    def check(self, name: str, value: object) -> object:
        """The value as the engine takes it. Raises InvalidRequestError, which names the legal range."""


class Word(Legal, Protocol):
    """Such of which a command line can say the value."""

    def argument(self) -> dict[str, Any]:
        """Keyword arguments of add_argument()."""


def items(name: str, value: object) -> Sequence[object]:
    """A list, a tuple or a one-dimensional array, as a sequence. Raises InvalidRequestError."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return list(value)
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Sequence):
        raise InvalidRequestError(f"{name} is {seen(value)}, expected a list")
    return value


def of_json_types(value: Any) -> Any:
    """A copy, with any mapping as a dict and numpy's numbers as Python's. Raises TypeError, ValueError, RecursionError
    for what JSON has not, such as a set or NaN.
    """

    def other(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{seen(value)} is of type {type(value).__name__}")

    return json.loads(json.dumps(value, default=other, allow_nan=False))


def as_integer(value: object) -> int | None:
    """An integer as an int; None if it is none, such as True or numpy's spans of time, which are among its integers."""
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, Integral):
        return None
    return int(value)


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer from low to high."""

    low: int
    high: int

    def check(self, name: str, value: object) -> int:
        integer = as_integer(value)
        if integer is None:
            raise InvalidRequestError(f"{name} is {seen(value)}, expected an integer")
        if not self.low <= integer <= self.high:
            raise InvalidRequestError(f"{name} is {seen(value)}, expected {self.low}..{self.high}")
        return integer

    def argument(self) -> dict[str, Any]:
        return {"type": int, "metavar": "N"}


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number from low to high; open_low: more than low."""

    low: float
    high: float
    open_low: bool = False

    def check(self, name: str, value: object) -> float:
        number = as_float(value)
        if number is None or math.isnan(number):
            raise InvalidRequestError(f"{name} is {seen(value)}, expected a finite number")
        if number < self.low or number > self.high or (self.open_low and number == self.low):
            within = f"{self.low:g}..{self.high:g}"
            bounds = f"more than {self.low:g} and at most {self.high:g}" if self.open_low else within
            raise InvalidRequestError(f"{name} is {seen(value)}, expected {bounds}")
        return number

    def argument(self) -> dict[str, Any]:
        return {"type": float, "metavar": "X"}


def as_float(value: object) -> float | None:
    """A real number as a float, infinite where no float is so large; None if it is no number, such as True."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf  # of either sign: it is in no range


@dataclass(frozen=True, slots=True)
class Flag:
    """True or False, numpy's included."""

    def check(self, name: str, value: object) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise InvalidRequestError(f"{name} is {seen(value)}, expected True or False")
        return bool(value)

    def argument(self) -> dict[str, Any]:
        return {"action": "store_true"}


@dataclass(frozen=True, slots=True)
class Name:
    """The name of something that the engine knows; it refuses the others, and says which there are."""

    example: str

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidRequestError(f"{name} is {seen(value)}, expected {self.example}")
        return str(value)

    def argument(self) -> dict[str, Any]:
        return {"metavar": "TYPE"}


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few names."""

    names: Sequence[str]

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise InvalidRequestError(f"{name} is {seen(value)}, expected one of {', '.join(self.names)}")
        return str(value)

    def argument(self) -> dict[str, Any]:
        return {"choices": self.names, "metavar": "NAME"}


@dataclass(frozen=True, slots=True)
class Drafts:
    """A number of drafts a round up to `high`, or "auto"."""

    high: int

    def check(self, name: str, value: object) -> int | str:
        if isinstance(value, str) and value == "auto":
            return "auto"
        return Integer(0, self.high).check(f'{name} (or "auto")', value)

    def argument(self) -> dict[str, Any]:
        return {"type": _draft_length, "metavar": "K"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens up to `high`, or "max"."""

    high: int

    def check(self, name: str, value: object) -> int | str:
        if isinstance(value, str) and value == "max":
            return "max"
        return Integer(1, self.high).check(f'{name} (or "max")', value)

    def argument(self) -> dict[str, Any]:
        return {"type": _number_of_tokens, "metavar": "N"}


def _draft_length(word: str) -> int | str:
    return word if word == "auto" else int(word)


def _number_of_tokens(word: str) -> int | str:
    """vLLM's word for "max" is "auto". What is no number is left to check()."""
    if word.isascii() and word.isdigit() and len(word) < 20:
        return int(word)
    return "max" if word == "auto" else word


@dataclass(frozen=True, slots=True)
class Texts:
    """A string, or a list of strings, none of them empty; becomes a tuple."""

    def check(self, name: str, value: object) -> tuple[str, ...]:
        texts = (value,) if isinstance(value, str) else items(name, value)
        return tuple(self._text(name, text) for text in texts)

    def _text(self, name: str, text: object) -> str:
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(f"{name} holds {seen(text)}, expected strings that are not empty")
        return str(text)

    def argument(self) -> dict[str, Any]:
        return {"action": "append", "metavar": "TEXT"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of values that are each legal; becomes a tuple."""

    each: Integer
    what: str

    def check(self, name: str, value: object) -> tuple[int, ...]:
        return tuple(self.each.check(self.what, item) for item in items(name, value))


@dataclass(frozen=True, slots=True)
class Falling:
    """Up to `most` shares of 1, none larger than the one before it; becomes a tuple."""

    most: int

    def check(self, name: str, value: object) -> tuple[float, ...]:
        rates = items(name, value)
        if len(rates) > self.most:
            raise InvalidRequestError(f"{name} has {len(rates)} rates, expected at most {self.most}")
        return tuple(self._checked(name, rates))

    def _checked(self, name: str, rates: Sequence[object]) -> Iterator[float]:
        high = 1.0
        for i, rate in enumerate(rates):
            high = Number(0, high).check(f"{name}[{i}] (rates do not increase)", rate)
            yield high


@dataclass(frozen=True, slots=True)
class Biases:
    """{token id: number to add, -inf to forbid}; becomes a dict."""

    tokens: Integer
    bias: Number

    def check(self, name: str, value: object) -> dict[int, float]:
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"{name} is {seen(value)}, expected {{token id: bias}}")
        return dict(self._checked(name, token, bias) for token, bias in value.items())

    def _checked(self, name: str, token: object, bias: object) -> tuple[int, float]:
        number = self.tokens.check(f"a token id of {name}", token)
        if isinstance(bias, float | np.floating) and bias == -math.inf:
            return number, -math.inf
        return number, self.bias.check(f"{name} of token {number} (or -inf)", bias)


def legal_of(option: "Field[Any]") -> Legal | None:
    """What an option's annotation says about legal values; None: nothing."""
    legal: Legal | None = getattr(option.type, "__metadata__", (None,))[0]
    return legal


def check_fields(options: Any) -> None:
    """Checks every field of a dataclass and gives it its plain type. A field whose default is None may be None."""
    for option in fields(options):
        legal, value = legal_of(option), getattr(options, option.name)
        if legal is not None and not (value is None and option.default is None):
            object.__setattr__(options, option.name, legal.check(option.name, value))

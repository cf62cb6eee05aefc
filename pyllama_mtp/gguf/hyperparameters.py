"""Typed, bounded access to the hyper-parameters of a GGUF: the metadata keys under its architecture's name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyllama_mtp.errors import ModelLoadError, shown
from pyllama_mtp.gguf.format import GGUFFile

REQUIRED = None  # as a default: the key must be there


@dataclass(frozen=True, slots=True)
class HyperParameters:
    """Keys are given without the architecture. Every reader raises ModelLoadError if the value has another type than
    llama.cpp reads, or is out of its range.
    """

    header: GGUFFile
    prefix: str

    def fail(self, key: str, seen: object, expected: str) -> ModelLoadError:
        return ModelLoadError(
            f"{shown(self.prefix)}.{key} of {self.header.path} is {shown(seen)}, expected {expected}. The file is "
            "damaged or of a kind that is not supported: get it again, or convert the model again."
        )

    def has(self, key: str) -> bool:
        return f"{self.prefix}.{key}" in self.header.metadata

    def integer(self, key: str, least: int, most: int, default: int | None = REQUIRED) -> int:
        value: int = self._value(key, ("u32",), default)
        if not least <= value <= most:
            raise self.fail(key, value, f"{least}..{most}")
        return value

    def integers(self, key: str, least: int, most: int, n: int, default: int | None = REQUIRED) -> list[int]:
        """One for each of n layers, or one for all."""
        value = self._value(key, ("u32", "[u32]", "[i32]"), default)
        values: list[int] = [value] * n if isinstance(value, int) else value.tolist()
        if len(values) != n or not all(least <= v <= most for v in values):
            raise self.fail(key, values[:8], f"{n} values of {least}..{most}")
        return values

    def flags(self, key: str, n: int) -> list[bool]:
        """One for each of n layers."""
        values: np.ndarray = self._value(key, ("[bool]", "[i32]", "[u32]"), REQUIRED)
        if len(values) != n:
            raise self.fail(key, f"a list of {len(values)}", f"{n} values")
        return [bool(value) for value in values != 0]

    def real(self, key: str, least: float, most: float, default: float | None = REQUIRED) -> float:
        """least and most: of the numbers that a file holds as f32, as the nearest ones."""
        value: float = self._value(key, ("f32",), default)
        if not (math.isfinite(value) and np.float32(least) <= value <= np.float32(most)):
            raise self.fail(key, value, f"{least:g}..{most:g}")
        return value

    def reals(self, key: str, n: int) -> np.ndarray:
        """A finite f32 array of n values."""
        values: np.ndarray = self._value(key, ("[f32]",), REQUIRED)
        if len(values) != n or not np.isfinite(values).all():
            raise self.fail(key, f"{len(values)} values, some of them not finite", f"{n} finite values")
        return values

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value: str = self._value(key, ("string",), default)
        if value not in choices:
            raise self.fail(key, repr(value), " or ".join(choices))
        return value

    def require_default(self, key: str, default: int | bool) -> None:
        """The key is absent, or has the one value that changes nothing."""
        value = self.header.metadata.get(f"{self.prefix}.{key}", default)
        if not isinstance(value, int) or value != default:
            raise self.fail(key, value, repr(default))

    def _value(self, key: str, types: Sequence[str], default: object) -> Any:
        name = f"{self.prefix}.{key}"
        if name not in self.header.metadata:
            if default is REQUIRED:
                raise self.fail(key, "missing", f"a value of type {types[0]}")
            return default
        if self.header.types[name] not in types:
            raise self.fail(key, f"of type {self.header.types[name]}", f"type {' or '.join(types)}")
        return self.header.metadata[name]

"""argparse, with errors of one line, and words that may stand among options."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from pyllama_mtp.errors import one_line

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class _Help(argparse.HelpFormatter):
    """Examples keep their lines, what is told is filled."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n  " in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """words: the argument, of any number of words, that those between and behind options belong to, too. argparse has
    that only for programs without commands.
    """

    words: str | None = None

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=_Help, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}; {self.prog} --help tells more\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        parsed, rest = super().parse_known_args(args, namespace)
        if self.words is None:
            return parsed, rest
        end = rest.index("--") if "--" in rest else len(rest)
        if any(word.startswith("-") and word != "-" for word in rest[:end]):
            return parsed, rest  # an option that is none, and maybe its value
        setattr(parsed, self.words, [*getattr(parsed, self.words), *rest[:end], *rest[end + 1 :]])
        return parsed, []

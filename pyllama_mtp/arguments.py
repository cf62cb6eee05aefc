"""Arguments of the command line, made from the list of sampling options: those that have a line of help there."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

from pyllama_mtp.options import SamplingOptions
from pyllama_mtp.ranges import Word


def _spoken() -> Iterator[tuple[str, Any, Word, str]]:
    for option in fields(SamplingOptions):
        _, legal, *help_text = get_args(option.type)
        if help_text:
            yield option.name, option.default, legal, help_text[0]


_WORDS = {name: (word, help_text) for name, _, word, help_text in _spoken()}
DEFAULTS = {name: default for name, default, _, _ in _spoken()}


def add_options(
    parser: argparse._ActionsContainer, defaults: Mapping[str, Any], notes: Mapping[str, str] | None = None
) -> None:
    """An argument for each option that `defaults` names. notes: what the help says instead of the default."""
    for name, default in defaults.items():
        word, text = _WORDS[name]
        told = "" if default is None or default is False else "default: %(default)s"
        note = (notes or {}).get(name, told)
        help_text = f"{text} ({note})" if note else text
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=help_text, **word.argument())


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that add_options() added, by name."""
    return {name: value for name, value in vars(args).items() if name in _WORDS}

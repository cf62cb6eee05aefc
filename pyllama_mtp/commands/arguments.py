"""Arguments of the command line, made from the lists of options: those that have a line of help there."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

from pyllama_mtp.options import LoadOptions, SamplingOptions
from pyllama_mtp.ranges import Word


def _spoken(options: type) -> Iterator[tuple[str, Any, Word, str]]:
    for option in fields(options):
        _, legal, *help_text = get_args(option.type)
        if help_text:
            yield option.name, option.default, legal, help_text[0]


_WORDS = {name: (word, text) for options in (SamplingOptions, LoadOptions) for name, _, word, text in _spoken(options)}
SAMPLING = {name: default for name, default, _, _ in _spoken(SamplingOptions)}
LOADING = {name: default for name, default, _, _ in _spoken(LoadOptions)}


def add_options(
    parser: argparse._ActionsContainer,
    defaults: Mapping[str, Any],
    notes: Mapping[str, str] | None = None,
    aliases: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """An argument for each option that `defaults` names. notes: what the help says instead of the default. aliases:
    further names.
    """
    for name, default in defaults.items():
        word, text = _WORDS[name]
        told = "" if default is None or default is False else "default: %(default)s"
        note = (notes or {}).get(name, told)
        help_text = f"{text} ({note})" if note else text
        flags = [f"--{name.replace('_', '-')}", *(aliases or {}).get(name, ())]
        parser.add_argument(*flags, default=default, dest=name, help=help_text, **word.argument())


def read_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options among the arguments, by name."""
    return {name: value for name, value in vars(args).items() if name in SAMPLING}


def read_loading(args: argparse.Namespace) -> dict[str, Any]:
    """The options of loading among the arguments, by name."""
    return {name: value for name, value in vars(args).items() if name in LOADING}


def word_of(name: str) -> Word:
    """How a command line says the value of this option."""
    return _WORDS[name][0]

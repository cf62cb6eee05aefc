"""The command line: help that teaches, errors of one line, versions, words between options."""

import argparse
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest

from pyllama_mtp import cli
from pyllama_mtp.builds import current_build
from pyllama_mtp.commands import bench, chat, demo, info, run, serve
from pyllama_mtp.commands.model import load_options
from pyllama_mtp.commands.terminal import for_terminal

COMMANDS = {"chat": chat, "run": run, "serve": serve, "info": info, "bench": bench, "demo": demo}
# What all commands that take a model have; see docs/cli.md.
SHARED = "-hf --revision --mtp-head --speculative-config --cache-type-k --cache-type-v --cache-type-k-swa"
SHARED += " --cache-type-v-swa --n-gpu-layers --n-threads"


def parser_of(command: str) -> argparse.ArgumentParser:
    (choices,) = [a.choices for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return choices[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_every_default_and_fits_80_columns(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = parser_of(command)
    text = parser.format_help()
    assert max(map(len, text.partition("examples:")[0].splitlines())) <= 80
    for action in parser._actions:
        hidden = action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction)
        if not hidden and action.default not in (None, False, [], argparse.SUPPRESS):
            assert "default" in action.help, action.option_strings
        assert action.help, action.option_strings


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_every_command_takes_the_same_models_and_caches(command: str):
    known = {flag for action in parser_of(command)._actions for flag in action.option_strings}
    assert set(SHARED.split()) <= known


def examples(command: str) -> list[list[str]]:
    lines = COMMANDS[command].EXAMPLES.replace("\\\n", " ").replace(",\n", ",").splitlines()[1:]
    words = [shlex.split(line.partition(" > ")[0].rpartition(" | ")[2]) for line in lines]
    return [line[1:] for line in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_understood(command: str):
    assert len(examples(command)) >= 2
    for line in examples(command):
        assert line[0] == command
        args = cli._parser().parse_args(line)
        if command != "demo":
            load_options(args)


def test_words_stand_anywhere():
    def words(*line: str) -> list[str]:
        return cli._parser().parse_args(["run", *line]).words

    assert words("m.gguf", "--seed", "1", "why", "is", "--top-k", "3", "it") == ["m.gguf", "why", "is", "it"]
    assert words("-hf", "a/b:Q4_0", "hello", "-") == ["hello", "-"]
    assert words("m.gguf", "--seed", "1", "--", "-x", "--seed", "2") == ["m.gguf", "-x", "--seed", "2"]
    assert words("m.gguf", "--", "-x") == ["m.gguf", "-x"]


@pytest.mark.parametrize(
    "line, told",
    [
        ([], "COMMAND"),
        (["fly"], "'fly'"),
        (["run", "m.gguf", "--colour", "red", "hi"], "--colour red"),
        (["run", "m.gguf", "hi", "--seed", "x"], "--seed"),
        (["serve", "m.gguf", "another"], "another"),
        (["demo", "--acceptance", "al\x1b[31mways"], "\\x1b[31m"),
    ],
)
def test_usage_errors_are_one_line(line: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(line)
    assert ended.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("pyllama-mtp") and told in error and "--help tells more" in error


def test_version_and_module():
    for arguments in (["--version"], ["demo", "--help"]):
        command = [sys.executable, "-P", "-m", "pyllama_mtp", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and result.stderr == ""
        told = f"pyllama-mtp {version('pyllama-mtp')} ({current_build().name})\n"
        assert result.stdout == told or result.stdout.startswith("usage: pyllama-mtp demo")


@pytest.mark.parametrize("command", ["run", "info", "demo", "bench", "serve"])
def test_commands_do_not_import_what_others_need(command: str):
    """Every start waited for the libraries of the terminal and the server otherwise."""
    code = f"import sys; from pyllama_mtp import cli; cli._parser().parse_args(['{command}']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"prompt_toolkit", "uvicorn", "starlette", "huggingface_hub", "matplotlib"} & set(loaded.split())


def test_text_for_a_terminal():
    assert (
        for_terminal("a\tb\nc d\u00a0e\u3000\u00e4\U0001f468\u200d\U0001f469")
        == "a\tb\nc d\u00a0e\u3000\u00e4\U0001f468\u200d\U0001f469"
    )
    every = "".join(map(chr, range(0x110000)))
    shown = for_terminal(every)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]", shown)
    assert for_terminal("\x1b]0;x\x07\r\n\x9b") == "\\x1b]0;x\\x07\n\\x9b"

"""The examples of docs/cli.md and of the README run, with the embedded pair in place of the models that they name."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama_mtp import cli
from pyllama_mtp.commands.dialogue.slash import COMMANDS
from support.cmake import PROJECT
from support.terminal import Terminal

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (PROJECT / "docs" / "cli.md").read_text()
BLOCKS = BLOCK.findall(PAGE)
COMMAND_LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if " chat " not in line]
HUB = "-hf unsloth/gemma-4-E2B-it-GGUF:Q4_0 --mtp-head auto"
# Answers of the small model may go on for long; what a line says itself comes later, and counts.
PROGRAM = """#!/bin/sh
command=$1; shift
[ $command = run ] && set -- --n-threads 1 --max-tokens 8 "$@"
exec {python} -P -m pyllama_mtp $command "$@"
"""


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are run: the files that they name, and the program."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "model.gguf").symlink_to(demo.target)
    (folder / "assistant.gguf").symlink_to(demo.head)
    (folder / "notes.txt").write_text("Caches keep what was computed. They are full at times.\n")
    program = folder / "bin" / "pyllama-mtp"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=shlex.quote(sys.executable)))
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_example(folder: Path, line: str):
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    code = line.replace(HUB, "model.gguf --mtp-head assistant.gguf")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() or (folder / "name.txt").read_text().strip()


def test_the_conversation(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (lines,) = [block.splitlines() for kind, block in BLOCKS if kind == "text"]
    assert {line.removeprefix("> ").split()[0] for line in lines if line.startswith("> /")} == set(COMMANDS)
    monkeypatch.chdir(folder)
    command = [sys.executable, "-P", "-m", "pyllama_mtp", "chat", "model.gguf", "--mtp-head", "assistant.gguf"]
    with Terminal([*command, "--no-history", "--n-threads", "1", "--max-tokens", "20"], lines=50) as terminal:
        terminal.until(lambda: terminal.n_prompts == 1)
        for line in lines[:-1]:
            terminal.ask(line.removeprefix("> "))
        terminal.send(lines[-1].removeprefix("> ") + "\r")
        assert terminal.ended() == 0
    assert "saved 2 messages" in terminal.text and "loaded 2 messages" in terminal.text
    assert "pyllama-mtp: error" not in terminal.text and b"\x1b[31m" not in terminal.raw


def test_every_line_of_the_page_and_the_readme_is_understood():
    readme = (PROJECT / "README.md").read_text()
    lines = re.findall(r"^(?: {4})?(pyllama-mtp (?:chat|run|serve|info|bench|demo)\b.*)$", PAGE + readme, re.MULTILINE)
    assert len(lines) >= 12
    for line in lines:
        words = shlex.split(re.split(r" [<>|] ", line)[0], comments=True)
        if "|" not in words:  # the list of commands
            cli._parser().parse_args(words[1:])


def test_every_command_and_option_is_in_the_page():
    for name in COMMANDS:
        assert name in PAGE
    for option in ("chat", "run", "info", "serve", "bench", "demo"):
        assert f"## {option}" in PAGE or f"`{option}`" in PAGE

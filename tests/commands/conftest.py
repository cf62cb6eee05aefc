"""Copies of the embedded target that chat in the ways that tests need, and the program on a terminal."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyllama_mtp.gguf.format import Entry, read_header
from support.gguf_edit import rewrite
from support.terminal import Terminal

THINKING = """{{ bos_token }}{% for message in messages %}<|turn>{{ message.role }}
{{ message.content }}<turn|>
{% endfor %}{% if add_generation_prompt %}<|turn>model
{% if enable_thinking %}<|channel>thought
{% endif %}{% endif %}"""
HOSTILE = "\x1b[2J\x1b[H\x1b]0;pwned\x07\x9b31m\u202e\r\x08"
HOSTILE_TOKEN = "def"  # with which the embedded model begins nearly everything
END_OF_THOUGHT = "):"  # behind the arguments of that function

Chat = Callable[..., contextlib.AbstractContextManager[Terminal]]


@pytest.fixture(scope="session")
def thinking_target(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Opens a thought where it is asked to think, and ends it where the embedded one ends a function's arguments."""
    header = read_header(demo.target)
    tokens = list(header.metadata["tokenizer.ggml.tokens"])
    kinds = header.metadata["tokenizer.ggml.token_type"].copy()
    a, b = tokens.index(END_OF_THOUGHT), tokens.index("<channel|>")
    tokens[a], tokens[b] = tokens[b], tokens[a]
    kinds[a], kinds[b] = kinds[b], kinds[a]
    return _with(demo.target, tmp_path_factory, tokens, {"token_type": Entry("[i32]", kinds)})


@pytest.fixture(scope="session")
def hostile_target(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes control sequences where the embedded one writes a function, and has some in its name."""
    tokens = list(read_header(demo.target).metadata["tokenizer.ggml.tokens"])
    tokens[tokens.index(HOSTILE_TOKEN)] = HOSTILE
    return _with(demo.target, tmp_path_factory, tokens, {})


def _with(target: Path, folders: pytest.TempPathFactory, tokens: list[str], more: dict[str, Entry]) -> Path:
    metadata = {f"tokenizer.ggml.{key}": entry for key, entry in more.items()}
    metadata |= {"tokenizer.ggml.tokens": Entry("[string]", tokens)}
    metadata |= {"tokenizer.chat_template": Entry("string", THINKING), "general.name": Entry("string", f"N{HOSTILE}")}
    return rewrite(target, folders.mktemp("chat") / "target.gguf", metadata=metadata)


@pytest.fixture
def chat(demo, tmp_path: Path) -> Chat:
    """Starts `pyllama-mtp chat` and waits until it asks for a message. To be used as a context manager. With a seed, as
    one answer in twenty of the embedded pair is empty.
    """

    @contextlib.contextmanager
    def start(
        *flags: str, target: Path = demo.target, columns: int = 80, lines: int = 24, **environment: str
    ) -> Iterator[Terminal]:
        sizes = ["--mtp-head", str(demo.head), "--n-threads", "1", "--n-batch", "64", "--seed", "1"]
        command = [sys.executable, "-P", "-m", "pyllama_mtp", "chat", str(target), *sizes, *flags]
        state = {"XDG_STATE_HOME": str(tmp_path / "state")}
        with Terminal(command, columns, lines, state | environment) as terminal:
            terminal.until(lambda: terminal.n_prompts == 1)
            yield terminal

    return start


@pytest.fixture
def main(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a command in this process: its exit status, standard output and standard error."""
    from pyllama_mtp import cli

    def run(arguments: list[str], stdin: str | bytes | None = None) -> tuple[int, str, str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        (tmp_path / "stdin").write_bytes(data or b"")
        with open(os.devnull if data is None else tmp_path / "stdin") as file:
            monkeypatch.setattr(sys, "stdin", file)
            try:
                status = cli.main(arguments)
            except SystemExit as end:
                status = end.code
        return status, *capfd.readouterr()

    return run

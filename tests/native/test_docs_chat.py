"""The examples of the pages that tell how completions are asked for run, in their order."""

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyllama_mtp import Model
from support.cmake import PROJECT
from support.real_chat import GEMMA4_31B, RealChat, templates, with_template

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r'"(target|gemma-4-E2B-it-Q4_0)\.gguf"')
HEAD = re.compile(r'"(gemma-4-E2B-it-)?assistant\.gguf"')
MESSAGES = [{"role": "user", "content": "Is it cold in Oslo?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


def examples_of(page: str) -> Iterator[tuple[int, str]]:
    """With the lines before each."""
    text = (PROJECT / page).read_text()
    for found in EXAMPLE.finditer(text):
        yield text[: found.start(1)].count("\n"), found.group(1)


def run(page: str, n_lines: int, example: str, names: dict[str, Any]) -> None:
    """Also one that waits, as in an event loop."""
    code = compile("\n" * n_lines + example, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.iscoroutine(waits := eval(code, names)):
        asyncio.run(waits)


def test_examples_run(real_chat: RealChat):
    examples = list(examples_of("docs/chat.md"))
    assert len(examples) >= 11
    with Model(real_chat.target, mtp_head=real_chat.head, n_ctx=1024, n_threads=1) as model:
        names: dict[str, object] = {"model": model}
        for n_lines, example in examples:
            run("docs/chat.md", n_lines, example, names)


@pytest.mark.parametrize(("page", "least"), [("docs/python.md", 3), ("README.md", 2)])
def test_examples_of_other_pages_run(demo, archive: Path, tmp_path: Path, page: str, least: int):
    """Each with a model that is loaded, or with one that it loads; but for those that convert checkpoints."""
    target = with_template(demo.target, tmp_path / "target.gguf", templates(archive)[GEMMA4_31B])
    examples = [(n, example) for n, example in examples_of(page) if "pyllama_mtp.convert" not in example]
    assert len(examples) >= least
    with Model(target, mtp_head=demo.head, n_ctx=1024, n_threads=1) as model:
        names = {"messages": MESSAGES, "tools": TOOLS, "prompts": ["def f():", MESSAGES], "prompt": "def g():"}
        for n_lines, example in examples:
            with_files = HEAD.sub(repr(str(demo.head)), TARGET.sub(repr(str(target)), example))
            run(page, n_lines, with_files, names | {"model": model})

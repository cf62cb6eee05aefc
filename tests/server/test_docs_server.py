"""Every example of docs/server.md runs, one after the other as a reader would run them."""

import re
from pathlib import Path

import pytest

from support.cmake import PROJECT
from support.serving import Served

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = FENCE.findall((PROJECT / "docs" / "server.md").read_text())


@pytest.fixture(scope="module")
def names(demo) -> dict:
    """What the examples before have defined."""
    return {"TARGET": demo.target}


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example(served: Served, names: dict, index: int, capsys: pytest.CaptureFixture):
    code = EXAMPLES[index]
    exec(compile(code.replace("http://localhost:8000", served.url), f"server.md, example {index}", "exec"), names)
    assert capsys.readouterr().out or "assert" in code or "create_app" in code


def test_all_endpoints_and_flags_are_in_the_page(served: Served):
    text = (PROJECT / "docs" / "server.md").read_text()
    for path in served.ask("GET", "/openapi.json").json["paths"]:
        assert path.partition("{")[0].removeprefix("/v1").rstrip("/").split("/")[-1] in text
    package = Path(PROJECT / "pyllama_mtp" / "commands" / "serve.py").read_text()
    for flag in re.findall(r'"(--max-[\w-]+|--[\w-]+-seconds|--allowed-\w+)"', package):
        assert flag in text, flag

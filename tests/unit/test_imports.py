"""What importing the package costs: the converter's libraries stay out of it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyllama_mtp

SERVERS = {"anyio", "prometheus_client", "starlette", "uvicorn"}
CONVERTERS = {"gguf", "ml_dtypes", "safetensors"}
HUBS = {"huggingface_hub", "hf_xet", "httpx2"}


@pytest.mark.parametrize("module", ["pyllama_mtp", "pyllama_mtp.cli", "pyllama_mtp.commands.bench"])
def test_the_converters_libraries_are_not_imported(module: str):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not (CONVERTERS | HUBS | {"pyllama_mtp.convert", "torch", "transformers"}) & set(loaded.split())
    assert module != "pyllama_mtp" or "tqdm" not in loaded.split()
    assert not SERVERS & set(loaded.split())
    assert "prompt_toolkit" not in loaded.split()


def test_nothing_but_the_converter_uses_it_or_its_libraries():
    """Not lazily either: no import statement outside convert/ names them, but for hub/heads.py, which calls it."""
    package = Path(pyllama_mtp.__file__).parent
    seen = 0
    for path in package.rglob("*.py"):
        if "convert" in path.relative_to(package).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            seen += len(names)
            for name in names:
                assert name.split(".")[0] not in CONVERTERS, path
                assert not name.startswith("pyllama_mtp.convert") or path.match("hub/heads.py"), path
    assert seen > 100

"""Configures this project as a caller of CMake would."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
SOURCE_SCRIPT = PROJECT / "cmake" / "llama_cpp_source.py"
LOCK = tomllib.loads((PROJECT / "csrc" / "llama" / "llama.cpp.lock").read_text())
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]

# The caller's own choice of source must not reach the builds configured here.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_CPP_")}


def cmake(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([shutil.which("cmake"), *arguments], capture_output=True, text=True, env=ENVIRONMENT)


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return cmake("-S", PROJECT, "-B", folder, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", *options)

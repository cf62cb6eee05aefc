"""The tables of docs/models.md."""

import subprocess
import sys

from support.cmake import PROJECT


def test_the_tables_are_those_of_the_shapes_and_of_the_estimate():
    command = [sys.executable, "-P", str(PROJECT / "tools" / "memory_tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

"""The pinned source's test-backend-ops, linked with the patched ggml (tests/native/backend_ops)."""

import re
import subprocess
from pathlib import Path

from support.cmake import cmake

OUTPUT = re.compile(r"(\d+)/(\d+) tests passed")


def build_program(folder: Path) -> Path:
    """The program, built in a build folder of this tree."""
    built = cmake("--build", folder, "--target", "backend_ops")
    assert built.returncode == 0, (built.stdout + built.stderr)[-2000:]
    return folder / "tests" / "native" / "backend_ops" / "backend_ops"


def run_program(program: Path, backend: str, operations: str, parameters: str = ".", workers: int = 1) -> int:
    """Compares the operations with ggml's reference on the CPU; the number of cases, none of which may differ."""
    command = [program, "test", "-b", backend, "-o", operations, "-p", parameters, "-j", str(workers)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = OUTPUT.search(result.stdout)
    failed = [line for line in result.stdout.splitlines() if "FAIL" in line]
    assert result.returncode == 0 and found is not None, (result.returncode, failed[:10], result.stderr[-2000:])
    passed, run = map(int, found.groups())
    assert passed == run
    return run

"""The C programs of c_api/ with the installed library; .ci/run runs them in sanitised builds too."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pyllama_mtp import get_include, get_library

FOLDER = Path(__file__).resolve().parent / "c_api"


@pytest.mark.parametrize(
    "program, folders, said",
    [
        ("calls", 1, "every call behaved"),
        ("grammars", 0, "every grammar"),
        ("lives", 0, "every life"),
        ("sequences", 0, "every sequence"),
        ("threads", 0, "every thread"),
    ],
)
def test_the_library_keeps_the_promises_of_its_header(tmp_path: Path, demo, program: str, folders: int, said: str):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = get_library().parent
    options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-I", get_include(), "-L", library]
    libraries = ["-lpyllama_mtp", "-lm", "-pthread", f"-Wl,-rpath,{library}"]
    subprocess.run([compiler, *options, FOLDER / f"{program}.c", *libraries, "-o", tmp_path / program], check=True)
    command = [tmp_path / program, demo.target, demo.head, *[tmp_path] * folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith(said), done.stderr


def test_failing_allocations_leave_a_usable_model(tmp_path: Path, demo):
    """A graph of other drafts that found no memory ended the process, or left pmtp_model_get_info() a NULL to follow.
    A load whose graph's free blocks, thread pool or context found none ended it too. Every 20th allocation of a
    completion fails, and 90 of loads; .ci/run lets more fail in a sanitised build.
    """
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = get_library().parent
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-I", get_include(), "-L", library]
    libraries = ["-lpyllama_mtp", "-pthread", f"-Wl,-rpath,{library}"]
    program = tmp_path / "allocations"
    subprocess.run([compiler, *options, FOLDER / "allocations.cpp", *libraries, "-o", program], check=True)
    command = [program, demo.target, demo.head, "20", "1000", "90"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("every failure was survived"), done.stderr
    assert "loads: " in done.stdout

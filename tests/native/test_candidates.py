"""Choosing from a row's candidates gives what choosing from the row gives, or says that it needs the row."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple[int, int, int]]:
    """name -> (rows, rows whose candidates were enough, of those the ones that differ)."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("candidates") / "check"
    sources = [CSRC / "sampling" / f"{name}.cpp" for name in ("candidates", "distribution", "logits")]
    command = [compiler, "-std=c++17", "-O2", "-I", CSRC, HERE / "candidates_check.cpp", *sources, "-o", program]
    subprocess.run(command, check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: tuple(map(int, numbers)) for name, *numbers in map(str.split, lines)}


def test_candidates_choose_what_the_row_chooses(results):
    assert {name: different for name, (_, _, different) in results.items() if different} == {}


@pytest.mark.parametrize(
    "name",
    ["top_p", "min_p", "temperature", "temperature-low", "temperature-tiny", "masked-top_p", "masked-temperature"],
)
def test_candidates_are_enough_for_usual_options(results, name):
    rows, enough, _ = results[name]
    assert enough > 0.7 * rows  # a quarter of the rows has too many equal logits for some


@pytest.mark.parametrize("name", ["top_k", "top_k-top_p"])
def test_too_many_equal_logits_need_the_row(results, name):
    rows, enough, _ = results[name]
    assert 0.7 * rows < enough < rows


@pytest.mark.parametrize("name", ["top_p-flat", "not-numbers", "nothing-allowed"])
def test_the_row_is_asked_for(results, name):
    assert results[name][1] == 0

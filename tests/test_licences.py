"""Every notice that the wheel owes travels with it."""

import importlib.metadata
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAIR_NOTICE = "pyllama_mtp/demo/LICENSE-python.txt"  # of the text that the embedded pair was trained on

# file in licenses/ -> text that only the right notice has; the library is linked with code under each of these
NOTICES = {
    "llama.cpp.txt": "The ggml authors",
    "xllamacpp.txt": "Shakeeb Alireza",
    "llamafile-sgemm.txt": "Copyright 2024 Mozilla Foundation",
    "yarn.txt": "Jeffrey Quesnelle and Bowen Peng",
    "arm-optimized-routines.txt": "Arm Limited",
    "apache-2.0.txt": "Apache License",
    "unicode.txt": "UNICODE LICENSE V3",
}


def test_every_notice_is_in_the_installed_distribution():
    distribution = importlib.metadata.distribution("pyllama-mtp")
    listed = distribution.metadata.get_all("License-File")
    assert sorted(listed) == sorted(
        ["LICENSE", "licenses/README.md", PAIR_NOTICE, *(f"licenses/{name}" for name in NOTICES)]
    )
    for name in listed:
        shipped = [path for path in distribution.files if path.as_posix().endswith(f".dist-info/licenses/{name}")]
        assert len(shipped) == 1, name
        assert shipped[0].read_text(encoding="utf-8") == (PROJECT / name).read_text(encoding="utf-8")


def test_every_notice_holds_the_text_it_stands_for():
    assert "The pyllama-mtp authors" in (PROJECT / "LICENSE").read_text()
    for name, phrase in NOTICES.items():
        assert phrase in (PROJECT / "licenses" / name).read_text(encoding="utf-8"), name


def test_the_index_names_every_notice():
    index = (PROJECT / "licenses" / "README.md").read_text()
    assert set(re.findall(r"\]\(([^)]+)\)", index)) == set(NOTICES)


def test_ported_code_in_the_library_is_credited():
    """llama.cpp's DRY sampler came from another project, and is linked: its notice was missing."""
    index = (PROJECT / "licenses" / "README.md").read_text()
    assert "pi6am" in index and "KoboldCpp" in index


def test_embedded_models_carry_a_notice():
    files = [path for path in importlib.metadata.files("pyllama-mtp") if path.parent.as_posix() == "pyllama_mtp/demo"]
    assert any(path.suffix == ".gguf" for path in files)
    assert any("LICEN" in path.name.upper() or "NOTICE" in path.name.upper() for path in files)

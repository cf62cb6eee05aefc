"""Files that another process changes while their header is read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama_mtp import ModelLoadError
from pyllama_mtp.gguf.format import MAX_HEADER_BYTES, Entry, Writer, read_header


def write(path: Path, n_tokens: int) -> Path:
    with open(path, "wb") as file:
        Writer(file, {"a.tokens": Entry("[string]", [f"token {i}" for i in range(n_tokens)])}, [])
    return path


def test_a_file_cut_short_while_it_is_read_is_refused(tmp_path: Path):
    """With a mapped file this ends the process by SIGBUS: the pages behind the end are gone."""
    path = write(tmp_path / "file.gguf", 100_000)
    script = f"""
import os
from pyllama_mtp import ModelLoadError
from pyllama_mtp.gguf import format as gguf
strings = gguf._Reader.strings
def cut_first(reader, key):
    os.truncate({str(path)!r}, 4096)
    return strings(reader, key)
gguf._Reader.strings = cut_first
try:
    gguf.read_header({str(path)!r})
except ModelLoadError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "shortened while it was read" in ended.stdout, ended


def test_a_sparse_file_of_a_tebibyte_takes_no_memory(tmp_path: Path):
    path = write(tmp_path / "file.gguf", 1)
    data = path.read_bytes()
    at = data.index(b"token 0") - 8
    path.write_bytes(data[:at] + (1 << 39).to_bytes(8, "little") + data[at + 8 :])
    os.truncate(path, 1 << 40)
    with pytest.raises(ModelLoadError, match=f"at most {MAX_HEADER_BYTES} bytes"):
        read_header(path)

"""The C header and what Python makes of it agree on every struct, byte for byte."""

import shutil
import subprocess
from pathlib import Path

import cffi
import pytest

from pyllama_mtp import _library, get_include

STRUCTS = (
    "pmtp_watch",
    "pmtp_model_params",
    "pmtp_model_info",
    "pmtp_usage",
    "pmtp_logit_bias",
    "pmtp_token_logprob",
    "pmtp_grammar",
    "pmtp_matcher",
    "pmtp_sequence_params",
    "pmtp_segment",
    "pmtp_text",
    "pmtp_burst",
    "pmtp_stats",
)


def test_sizes_and_offsets_agree(tmp_path: Path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    ffi = cffi.FFI()
    ffi.cdef(_library.declarations())
    seen = {}
    lines = []
    for struct in STRUCTS:
        kind = ffi.typeof(struct)
        seen[struct] = ffi.sizeof(kind)
        lines.append(f'printf("{struct} %zu\\n", sizeof({struct}));')
        for name, _ in kind.fields:
            seen[f"{struct}.{name}"] = ffi.offsetof(kind, name)
            lines.append(f'printf("{struct}.{name} %zu\\n", offsetof({struct}, {name}));')
    source = tmp_path / "abi.c"
    source.write_text(
        '#include "pyllama_mtp.h"\n#include <stdio.h>\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    program = tmp_path / "abi"
    subprocess.run([compiler, "-std=c99", "-Wall", "-Werror", "-I", get_include(), source, "-o", program], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert {name: int(value) for name, value in (line.split() for line in output.splitlines())} == seen


def test_every_struct_is_compared():
    declared = {
        line.split("{")[0].split()[2]
        for line in _library.declarations().splitlines()
        if "typedef struct" in line and "{" in line
    }
    assert declared == set(STRUCTS)


def test_another_abi_version_is_refused(tmp_path: Path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "other.c", tmp_path / "libpyllama_mtp.so"
    source.write_text("int pmtp_abi_version(void) { return 99; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    with pytest.raises(_library.NativeLibraryError, match=f"ABI version 99, this package needs {_library.ABI_VERSION}"):
        _library._load(library)

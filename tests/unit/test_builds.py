"""Of several builds of the library that one is used which the CPU runs and that uses most of it."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyllama_mtp
from pyllama_mtp import builds
from pyllama_mtp.builds import Build, choose, cpu_features, read_builds
from pyllama_mtp.errors import NativeLibraryError

V3 = frozenset({"avx2", "fma"})
WIDE = V3 | {"avx512f", "avx512_vnni"}
PORTABLE = [
    Build("avx512_vnni", Path("lib/avx512_vnni/libpyllama_mtp.so"), "x86_64", WIDE, False),
    Build("x86-64-v3", Path("lib/libpyllama_mtp.so"), "x86_64", V3, False),
]
PACKAGE = Path(pyllama_mtp.__file__).parent
NAMES = """
import json, pyllama_mtp
from pyllama_mtp import _library
mapped = {line.split()[-1] for line in open("/proc/self/maps") if "libpyllama_mtp" in line}
print(json.dumps([_library.BUILD.name, str(pyllama_mtp.get_library()), *mapped]))
"""


@pytest.mark.parametrize(
    "features, wanted, name",
    [
        (WIDE | {"sse"}, "", "avx512_vnni"),
        (WIDE - {"avx512_vnni"}, "", "x86-64-v3"),  # Skylake-X: AVX-512 without VNNI
        (V3, "", "x86-64-v3"),
        (WIDE, "x86-64-v3", "x86-64-v3"),
    ],
)
def test_the_best_build_that_the_cpu_runs_is_chosen(features: frozenset[str], wanted: str, name: str):
    assert choose(PORTABLE, "x86_64", set(features), wanted).name == name


def test_a_cpu_that_runs_none_is_told_what_it_lacks():
    with pytest.raises(NativeLibraryError, match=r"\(x86-64-v3\) was built for a CPU with avx2, which this CPU lacks"):
        choose(PORTABLE, "x86_64", {"fma"})
    with pytest.raises(ImportError, match="built for x86_64, this is aarch64"):
        choose(PORTABLE, "aarch64", {"asimd"})
    native = Build("native", Path("lib/libpyllama_mtp.so"), "x86_64", WIDE, False)
    with pytest.raises(NativeLibraryError, match="avx512_vnni, avx512f.*PYLLAMA_MTP_PORTABLE"):
        choose([native], "x86_64", set(V3))


def test_a_build_that_is_asked_for_is_used_or_refused():
    """Nothing else is used in its stead."""
    with pytest.raises(NativeLibraryError, match=r"\(avx512_vnni\).*avx512_vnni, avx512f, which this CPU lacks"):
        choose(PORTABLE, "x86_64", set(V3), "avx512_vnni")
    with pytest.raises(
        NativeLibraryError, match="PYLLAMA_MTP_BUILD is 'fast', expected one of: avx512_vnni, x86-64-v3"
    ):
        choose(PORTABLE, "x86_64", set(WIDE), "fast")


def test_features_are_those_of_cpuinfo():
    assert cpu_features("processor\t: 0\nflags\t\t: fpu avx2\nprocessor\t: 1\nflags\t\t: fpu\n") == {"fpu", "avx2"}
    assert cpu_features("Features\t: fp asimd\n") == {"fp", "asimd"}
    assert cpu_features("") == set()


def test_without_proc_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in a chroot where it is not mounted. A raw FileNotFoundError came."""
    monkeypatch.setattr(builds, "CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(NativeLibraryError, match="Mount /proc"):
        builds.current_build.__wrapped__()


@pytest.fixture
def two_builds(tmp_path: Path) -> Path:
    """The installed package, with its library twice: for every CPU, and for one that does not exist."""
    package = tmp_path / "site" / "pyllama_mtp"
    left_out = shutil.ignore_patterns("__pycache__", "lib", "_build_info.json")
    shutil.copytree(PACKAGE, package, ignore=left_out, copy_function=os.symlink)
    add_build(package / "lib", package / "_build_info.json", "any", [])
    add_build(package / "lib" / "future", package / "lib" / "future" / "_build_info.json", "future", ["avx9999"])
    return package


def add_build(folder: Path, info: Path, name: str, features: list[str]) -> None:
    current = builds.current_build()
    folder.mkdir()
    shutil.copy(current.library, folder / "libpyllama_mtp.so")
    written = {"build": name, "machine": platform.machine(), "cpu_features": features, "cuda": current.cuda}
    info.write_text(json.dumps(written))


def imported(package: Path, wanted: str = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(package.parent), "PYLLAMA_MTP_BUILD": wanted}
    return subprocess.run([sys.executable, "-P", "-c", NAMES], env=env, capture_output=True, text=True, timeout=60)


def test_a_process_loads_the_build_that_was_chosen(two_builds: Path):
    """And no other."""
    library = two_builds / "lib" / "libpyllama_mtp.so"
    assert json.loads(imported(two_builds).stdout) == ["any", str(library), str(library)]
    refused = imported(two_builds, "future")
    assert refused.returncode != 0 and "avx9999, which this CPU lacks" in refused.stderr

    info = two_builds / "lib" / "future" / "_build_info.json"
    some = sorted(builds.cpu_features(builds.CPUINFO.read_text()))[0]
    info.write_text(info.read_text().replace("avx9999", some))
    better = two_builds / "lib" / "future" / "libpyllama_mtp.so"
    assert json.loads(imported(two_builds).stdout) == ["future", str(better), str(better)]
    assert json.loads(imported(two_builds, "any").stdout) == ["any", str(library), str(library)]


def test_a_build_without_its_library_is_told(two_builds: Path):
    assert [build.name for build in read_builds(two_builds)] == ["future", "any"]
    (two_builds / "lib" / "libpyllama_mtp.so").unlink()
    with pytest.raises(NativeLibraryError, match="missing from .*pip install"):
        read_builds(two_builds)

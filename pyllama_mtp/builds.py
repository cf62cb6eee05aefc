"""Which build of the library this process uses: a wheel for many machines holds several, other installations one.

A build is known by what cmake/build_info.py wrote when it was made. The one in lib/ demands least of the CPU; others
lie beside it, in folders with their names.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pyllama_mtp.errors import NativeLibraryError, shown

VARIABLE = "PYLLAMA_MTP_BUILD"  # of the environment: a build's name, to be used instead of the best one
CPUINFO = Path("/proc/cpuinfo")
_INFO = "_build_info.json"
_LIBRARY = "libpyllama_mtp.so"


@dataclass(frozen=True, slots=True)
class Build:
    """name: "native" for the machine that it was built on, else of the CPUs that it is for. cpu_features: what it may
    use, named as in /proc/cpuinfo. cuda: it has kernels for GPUs.
    """

    name: str
    library: Path
    machine: str
    cpu_features: frozenset[str]
    cuda: bool

    def refusal(self, machine: str, features: set[str]) -> str | None:
        """Why a CPU cannot run it."""
        if self.machine != machine:
            return f"was built for {self.machine}, this is {machine}"
        if missing := sorted(self.cpu_features - features):
            return f"was built for a CPU with {', '.join(missing)}, which this CPU lacks"
        return None


def cpu_features(cpuinfo: str) -> set[str]:
    """Instruction sets that a /proc/cpuinfo names for its first CPU: those that the kernel lets programs use."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def read_builds(package: Path) -> list[Build]:
    """Those of an installed package, best first. Raises NativeLibraryError if there is none."""
    library = package / "lib"
    folders = sorted((path.parent for path in library.glob(f"*/{_INFO}")), key=lambda folder: folder.name)
    builds = [_read(folder / _INFO, folder / _LIBRARY) for folder in folders]
    builds.append(_read(package / _INFO, library / _LIBRARY))
    return sorted(builds, key=lambda build: -len(build.cpu_features))


def _read(info: Path, library: Path) -> Build:
    if not (info.is_file() and library.is_file()):
        raise NativeLibraryError(
            f"{_LIBRARY} is missing from {library.parent}, as in a checkout: install the package (pip install .)"
        )
    written: dict[str, Any] = json.loads(info.read_text(encoding="utf-8"))
    features = frozenset(written["cpu_features"])
    return Build(written["build"], library, written["machine"], features, written["cuda"])


def choose(builds: Sequence[Build], machine: str, features: set[str], wanted: str = "") -> Build:
    """The first of them that this CPU runs. wanted: the name of one that is to be used. Raises NativeLibraryError."""
    named = [build for build in builds if build.name == wanted]
    if wanted and not named:
        known = ", ".join(build.name for build in builds)
        raise NativeLibraryError(f"{VARIABLE} is {shown(repr(wanted))}, expected one of: {known}")
    for build in named or builds:
        if build.refusal(machine, features) is None:
            return build
    build = (named or builds)[-1]
    fix = "Rebuild on this machine (pip install --force-reinstall --no-cache-dir .)"
    if build.name == "native":
        fix += " or for any machine (pip install . -C cmake.define.PYLLAMA_MTP_PORTABLE=ON)"
    raise NativeLibraryError(f"{_LIBRARY} ({build.name}) {build.refusal(machine, features)}. {fix}.")


@cache
def current_build() -> Build:
    """The build that this process uses. Raises NativeLibraryError."""
    try:
        features = cpu_features(CPUINFO.read_text(encoding="utf-8"))
    except OSError as error:
        raise NativeLibraryError(
            f"cannot read {CPUINFO}, which says what this CPU can do: {error.strerror}. Mount /proc."
        ) from error
    builds = read_builds(Path(__file__).parent)
    return choose(builds, platform.machine(), features, os.environ.get(VARIABLE, ""))

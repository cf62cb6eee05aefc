"""Where things lie: the C library of this package, as a program needs it to compile and link (docs/c.md), and what is
made from downloads (docs/models.md).
"""

import os
from pathlib import Path

from pyllama_mtp.builds import current_build

_PACKAGE = Path(__file__).parent


def get_include() -> Path:
    """The folder that holds pyllama_mtp.h."""
    return _PACKAGE / "include"


def get_library() -> Path:
    """The shared library that this process uses: of several builds, the one for this CPU."""
    return current_build().library


def get_pkgconfig_dir() -> Path:
    """The folder that holds pyllama_mtp.pc, for PKG_CONFIG_PATH."""
    return _PACKAGE / "lib" / "pkgconfig"


def get_cmake_dir() -> Path:
    """The folder that holds pyllama_mtpConfig.cmake, for pyllama_mtp_DIR."""
    return _PACKAGE / "lib" / "cmake" / "pyllama_mtp"


def get_cache_dir() -> Path:
    """The folder of converted heads: PYLLAMA_MTP_CACHE, else pyllama-mtp in XDG_CACHE_HOME or ~/.cache. It need not be
    there.
    """
    if named := os.environ.get("PYLLAMA_MTP_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyllama-mtp"

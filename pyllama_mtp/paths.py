"""Where the C library of this package lies: what a program needs to compile and link with it (docs/c.md)."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def get_include() -> Path:
    """The folder that holds pyllama_mtp.h."""
    return _PACKAGE / "include"


def get_library() -> Path:
    """The shared library."""
    return _PACKAGE / "lib" / "libpyllama_mtp.so"


def get_pkgconfig_dir() -> Path:
    """The folder that holds pyllama_mtp.pc, for PKG_CONFIG_PATH."""
    return _PACKAGE / "lib" / "pkgconfig"


def get_cmake_dir() -> Path:
    """The folder that holds pyllama_mtpConfig.cmake, for pyllama_mtp_DIR."""
    return _PACKAGE / "lib" / "cmake" / "pyllama_mtp"

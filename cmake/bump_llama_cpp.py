"""Moves the project to another build of the vendored llama.cpp, or checks the present one from scratch.

    python cmake/bump_llama_cpp.py VERSION [--archive FILE] [--skip-tests]

VERSION is one of the package that csrc/llama/llama.cpp.lock names; its last number is llama.cpp's build number. In
turn:

1. source: downloads both source distributions and unpacks them below build/bump/;
2. patches: finds the place of every hunk of csrc/llama/patches in the new one. If some have none, all of them are
   listed and nothing is changed: correct them against the unpacked tree (line numbers do not matter) and run again;
3. review: lists the licences, and the headers that a file of csrc/ includes, that differ between the two;
4. lock: writes the patches' line numbers, csrc/llama/llama.cpp.lock, and the version in the files that name it;
5. build and tests: `pip install '.[test]'` with the running interpreter, which should be one of a new virtual
   environment, and `pytest`.

Ends with exit status 1 at the first step that fails; after step 4 `git checkout .` goes back.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from llama_cpp_source import LOCK, PATCHES, PROJECT, SourceError, checksum, download, unpack

sys.path.insert(0, str(PATCHES))
from apply import PatchError, refreshed  # noqa: E402  (the applier lies beside the series it applies)

# Files that name the version or the build number.
NAMING = (
    "pyproject.toml",
    "README.md",
    "docs/converter.md",
    "docs/development.md",
    "docs/benchmark.md",
    "pyllama_mtp/bench/peer.py",
)
# Where llama.cpp's headers lie that our sources name without a folder.
INCLUDE_FOLDERS = ("include", "src", "ggml/include", "ggml/src", "ggml/src/ggml-cpu", "ggml/src/ggml-cuda")


def new_lock(old: dict, version: str, sha256: str) -> dict:
    """The lock of `version`; raises SourceError if it does not end in a build number."""
    build = version.rpartition(".")[2]
    if not re.fullmatch(r"\d+(\.\d+)+", version):
        raise SourceError(f"the version is {version!r}, expected numbers, the last one llama.cpp's build number")
    folder = old["folder"].replace(old["version"], version)
    return old | {"version": version, "sha256": sha256, "folder": folder, "build": int(build)}


def write_lock(path: Path, old: dict, new: dict) -> None:
    text = path.read_text()
    for key in ("version", "sha256", "folder"):
        text = text.replace(f'{key} = "{old[key]}"', f'{key} = "{new[key]}"')
    path.write_text(re.sub(r"(?m)^build = .*$", f"build = {new['build']}", text))
    if tomllib.loads(path.read_text()) != new:
        raise SourceError(f"{path} does not hold what was written: expected lines of the form key = value")


def write_names(project: Path, old: dict, new: dict) -> list[str]:
    """Replaces version and build number in the files that name them; returns those that changed."""
    changed = []
    for name in NAMING:
        text = (project / name).read_text()
        found = text.replace(old["version"], new["version"]).replace(f"b{old['build']}", f"b{new['build']}")
        if found != text:
            (project / name).write_text(found)
            changed.append(name)
    return changed


def differences(old_tree: Path, new_tree: Path, csrc: Path) -> list[str]:
    """Licence files, and headers of llama.cpp that a file of ours includes, that are not the same in both trees."""
    sources = [path for path in csrc.rglob("*") if path.suffix in (".h", ".c", ".cpp", ".cu", ".cuh", ".inc")]
    include = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
    included = {name for path in sources for name in include.findall(path.read_text())}
    names = {f"{folder}/{name}" for folder in INCLUDE_FOLDERS for name in included} | {"LICENSE"}
    names |= {path.relative_to(tree).as_posix() for tree in (old_tree, new_tree) for path in tree.glob("licenses/*")}

    def content(tree: Path, name: str) -> bytes | None:
        return (tree / name).read_bytes() if (tree / name).is_file() else None

    return sorted(name for name in names if content(old_tree, name) != content(new_tree, name))


def run(*command: str) -> None:
    print("  " + " ".join(command))
    if (status := subprocess.run(command, cwd=PROJECT).returncode) != 0:
        sys.exit(f"{command[-1]} failed with exit status {status}")


def prepare(version: str, archive: Path | None) -> tuple[dict, dict, dict[Path, str]]:
    """Steps 1 to 3; returns the old and the new lock, and the new text of patches whose line numbers change."""
    old = tomllib.loads(LOCK.read_text())
    folder = PROJECT / "build" / "bump"
    print(f"source: {old['package']} {old['version']} -> {version}")
    if archive is None:
        archive = download(folder, old | {"version": version, "sha256": ""})
    new = new_lock(old, version, checksum(archive))
    if version == old["version"] and new["sha256"] != old["sha256"]:
        raise SourceError(f"{archive} has sha256 {new['sha256']}, the lock of the same version {old['sha256']}")
    new_tree = unpack(archive, folder, new)
    patches, moved = refreshed(new_tree, PATCHES)
    print(f"patches: every hunk fits {new_tree}, {moved} at another line")
    old_tree = new_tree if new == old else unpack(download(folder, old), folder, old)
    for name in differences(old_tree, new_tree, PROJECT / "csrc"):
        print(f"review: {name} differs")
    return old, new, patches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version")
    parser.add_argument("--archive", type=Path, help="the new source distribution, instead of a download")
    parser.add_argument("--skip-tests", action="store_true", help="stop after step 4")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # in order with what the commands print, also into a file
    try:
        old, new, patches = prepare(args.version, args.archive)
        write_lock(LOCK, old, new)
        for path, text in patches.items():
            path.write_text(text)
    except (SourceError, PatchError, OSError) as error:
        sys.exit(f"bump: {error}")
    print(
        f"lock: build {new['build']}, sha256 {new['sha256']}; also changed: {write_names(PROJECT, old, new) or 'none'}"
    )
    if not args.skip_tests:
        print("build and tests:")
        run(sys.executable, "-m", "pip", "install", ".[test]")
        run(sys.executable, "-P", "-m", "pytest")  # -P: the installed package, not the checkout's


if __name__ == "__main__":
    main()

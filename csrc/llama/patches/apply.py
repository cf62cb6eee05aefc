"""Applies unified diffs strictly: every line of context matches at the stated line, or nothing is applied.

No fuzz, no offsets, no rejects: a hunk that does not fit means that the series and the pinned source have drifted
apart, and a guess at what was meant would be built into a library. `apply_series` is a function of the pristine tree
and the patch files alone, so applying twice from the same tree gives the same bytes.

`series` lists the patch files, one a line, in order; `#` starts a comment.
"""

import re
from pathlib import Path

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """A patch is malformed or does not apply; names the patch, the file and the line."""


def read_series(folder: Path) -> list[Path]:
    """The patch files that `folder/series` names, in order; `PatchError` if one is missing or not listed."""
    lines = (line.partition("#")[0].strip() for line in (folder / "series").read_text().splitlines())
    names = [line for line in lines if line]
    present = sorted(path.name for path in folder.glob("*.patch"))
    if sorted(names) != present:
        raise PatchError(f"{folder / 'series'} lists {sorted(names)}, but the folder holds {present}: make them agree")
    return [folder / name for name in names]


def apply_series(tree: Path, folder: Path) -> dict[str, bytes]:
    """New contents, keyed by path inside the tree, of every file that the series in `folder` changes or adds."""
    changed: dict[str, bytes] = {}
    for patch in read_series(folder):
        for name, hunks in parse(patch):
            old = changed.get(name)
            if old is None and (tree / name).is_file():
                old = (tree / name).read_bytes()
            changed[name] = _apply_hunks(patch, name, old, hunks)
    return changed


def parse(patch: Path) -> list[tuple[str, list[tuple[int, list[str], list[str]]]]]:
    """(file, hunks) pairs of one patch; a hunk is (first old line counted from 1, old lines, new lines).

    A new file has `--- /dev/null` and one hunk that starts at line 0. Deletions and renames are not supported.
    """
    lines = patch.read_text().splitlines()
    files: list[tuple[str, list[tuple[int, list[str], list[str]]]]] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            new = lines[at + 1][4:].split("\t")[0].strip()
            if not new.startswith("b/") or ".." in Path(new).parts:
                raise PatchError(f"{patch.name}:{at + 2}: expected '+++ b/PATH', found {lines[at + 1]!r}")
            files.append((new[2:], []))
            at += 2
        elif line.startswith("@@"):
            if not files:
                raise PatchError(f"{patch.name}:{at + 1}: a hunk before any '--- a/PATH' and '+++ b/PATH'")
            hunk, at = _parse_hunk(patch, lines, at)
            files[-1][1].append(hunk)
        else:
            at += 1
    if not any(hunks for _, hunks in files):
        raise PatchError(f"{patch.name}: no hunk found; expected a unified diff (diff -u, git diff)")
    return files


def _parse_hunk(patch: Path, lines: list[str], at: int) -> tuple[tuple[int, list[str], list[str]], int]:
    """The hunk whose '@@' line is lines[at], and the index of the line after it."""
    match = HUNK.match(lines[at])
    if not match:
        raise PatchError(f"{patch.name}:{at + 1}: expected '@@ -A,B +C,D @@', found {lines[at]!r}")
    n_old, n_new = (int(count) if count is not None else 1 for count in match.group(2, 4))
    header, old, new = at + 1, [], []
    while len(old) < n_old or len(new) < n_new:
        at += 1
        line = lines[at] if at < len(lines) else "end of file"
        if line[:1] in {" ", "-", ""}:
            old.append(line[1:])
        if line[:1] in {" ", "+", ""}:
            new.append(line[1:])
        if line[:1] not in {" ", "-", "+", ""} or len(old) > n_old or len(new) > n_new:
            raise PatchError(
                f"{patch.name}:{header}: the hunk announces {n_old} old and {n_new} new lines, "
                f"but line {at + 1} is {line!r}"
            )
    return (int(match.group(1)), old, new), at + 1


def _apply_hunks(patch: Path, name: str, content: bytes | None, hunks: list[tuple[int, list[str], list[str]]]) -> bytes:
    creates = hunks[0][0] == 0
    if creates != (content is None):
        seen = "exists already" if creates else "does not exist"
        raise PatchError(f"{patch.name} does not apply: {name} {seen} in the pinned llama.cpp")
    source = [] if content is None else content.decode("utf-8").split("\n")
    result: list[str] = []
    done = 0
    for first, old, new in hunks:
        start = first - 1 if old else first  # a hunk with no old line counts from the line before it
        if not done <= start <= len(source):
            raise PatchError(
                f"{patch.name} does not apply to {name}: the hunk at line {first} overlaps or is past the end"
            )
        for number, expected in enumerate(old, start + 1):
            found = source[number - 1] if number <= len(source) else "end of file"
            if found != expected:
                raise PatchError(
                    f"{patch.name} does not apply to {name}:{number}: expected {expected!r}, found {found!r}. "
                    f"Refresh the patch against the source that csrc/llama/llama.cpp.lock names"
                )
        result += source[done:start] + new
        done = start + len(old)
    text = "\n".join(result + source[done:])
    return (text if content is not None else text + "\n").encode("utf-8")

"""Applies unified diffs strictly: every line of context matches at the stated line, or nothing is applied.

    python csrc/llama/patches/apply.py refresh TREE    line numbers of another llama.cpp into the patches
    python csrc/llama/patches/apply.py count           what the series touches

No fuzz, no offsets, no rejects: a hunk that does not fit means that the series and the pinned source have drifted
apart, and a guess at what was meant would be built into a library. `apply_series` is a function of the pristine tree
and the patch files alone, so applying twice from the same tree gives the same bytes.

`refresh` is for moving to another tree. It guesses no more: a hunk goes where its old lines are, all of them and in one
place only, and every hunk without such a place is named, for a person to correct.

`series` lists the patch files, one a line, in order; `#` starts a comment.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """A patch is malformed or does not apply; names the patch, the file and the line."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """A hunk of a patch file: where its '@@' line is there, the first line that it changes, both counted from 1."""

    header: int
    first: int
    lines: tuple[str, ...]  # the first character of each is ' ', '-' or '+'

    @property
    def old(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] != "+"]

    @property
    def new(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] != "-"]

    @property
    def start(self) -> int:
        """Lines of the file before it. A hunk with no old line counts from the line before it."""
        return self.first - 1 if self.old else self.first


Files = list[tuple[str, list[Hunk]]]


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
            changed[name] = _apply_hunks(patch, name, _content(tree, name, changed), hunks)
    return changed


def refreshed(tree: Path, folder: Path) -> tuple[dict[Path, str], int]:
    """The patch files whose line numbers change if the series is to fit `tree`, with their new text; and how many hunks
    move. PatchError names every hunk that has no place or several; one that needs the lines of such a hunk is among
    them.
    """
    changed: dict[str, bytes] = {}
    texts: dict[Path, str] = {}
    misfits: list[str] = []
    moved = 0
    for patch in read_series(folder):
        lines = patch.read_text().splitlines()
        for name, hunks in parse(patch):
            content = _content(tree, name, changed)
            placed: list[Hunk] = []
            done = shift = 0  # lines of the file that earlier hunks have passed, and that they have added
            for hunk in hunks:
                starts = _places(hunk, content)
                if len(starts) != 1 or starts[0] < done:
                    misfits.append(f"{patch.name}:{hunk.header}: {_misfit(name, hunk, starts, content)}")
                    continue
                first = starts[0] + (1 if hunk.old else 0)
                moved += first != hunk.first
                placed.append(Hunk(hunk.header, first, hunk.lines))
                done = starts[0] + len(hunk.old)
                lines[hunk.header - 1] = _header(lines[hunk.header - 1], placed[-1], shift)
                shift += len(hunk.new) - len(hunk.old)
            if placed:
                changed[name] = _apply_hunks(patch, name, content, placed)
        text = "\n".join(lines) + "\n"
        if text != patch.read_text():
            texts[patch] = text
    if misfits:
        raise PatchError(f"hunks that do not fit {tree}: {len(misfits)}\n" + "\n".join(f"  {m}" for m in misfits))
    return texts, moved


def count(folder: Path) -> str:
    """How much of upstream the series touches."""
    files = [(name, hunk) for patch in read_series(folder) for name, hunks in parse(patch) for hunk in hunks]
    lines = [line[0] for _, hunk in files for line in hunk.lines]
    return (
        f"{len({name for name, _ in files})} files, {len(files)} hunks, {lines.count('+')} lines added, "
        f"{lines.count('-')} removed"
    )


def parse(patch: Path) -> Files:
    """(file, hunks) pairs of one patch.

    A new file has `--- /dev/null` and one hunk that starts at line 0. Deletions and renames are not supported.
    """
    lines = patch.read_text().splitlines()
    files: Files = []
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
            hunk = _parse_hunk(patch, lines, at)
            files[-1][1].append(hunk)
            at += 1 + len(hunk.lines)
        else:
            at += 1
    if not any(hunks for _, hunks in files):
        raise PatchError(f"{patch.name}: no hunk found; expected a unified diff (diff -u, git diff)")
    return files


def _parse_hunk(patch: Path, lines: list[str], at: int) -> Hunk:
    """The hunk whose '@@' line is lines[at]."""
    match = HUNK.match(lines[at])
    if not match:
        raise PatchError(f"{patch.name}:{at + 1}: expected '@@ -A,B +C,D @@', found {lines[at]!r}")
    n_old, n_new = (int(count) if count is not None else 1 for count in match.group(2, 4))
    header, body = at + 1, []
    while n_old > 0 or n_new > 0:
        at += 1
        line = (lines[at] or " ") if at < len(lines) else "end of file"
        n_old -= line[0] in " -"
        n_new -= line[0] in " +"
        if line[0] not in " -+" or n_old < 0 or n_new < 0:
            raise PatchError(
                f"{patch.name}:{header}: the hunk announces {match.group(2) or 1} old and {match.group(4) or 1} new "
                f"lines, but line {at + 1} is {line!r}"
            )
        body.append(line)
    return Hunk(header, int(match.group(1)), tuple(body))


def _content(tree: Path, name: str, changed: dict[str, bytes]) -> bytes | None:
    """A file as the patches before have left it; None if there is none."""
    if name in changed:
        return changed[name]
    return (tree / name).read_bytes() if (tree / name).is_file() else None


def _places(hunk: Hunk, content: bytes | None) -> list[int]:
    """Where the hunk's old lines are: the numbers of lines before them."""
    if hunk.first == 0 or content is None:
        return [0] if hunk.first == 0 and content is None else []
    old, source = hunk.old, content.decode("utf-8").split("\n")
    if not old:
        return []
    return [at for at in range(len(source) - len(old) + 1) if source[at : at + len(old)] == old]


def _misfit(name: str, hunk: Hunk, starts: list[int], content: bytes | None) -> str:
    if len(starts) == 1:
        return f"{name}: the place for the hunk at line {hunk.first} is line {starts[0] + 1}, before the hunk above it"
    if starts:
        places = ", ".join(str(start + 1) for start in starts[:5]) + (" ..." if len(starts) > 5 else "")
        return f"{name}: {len(starts)} places for the hunk at line {hunk.first} ({places}): give it more context"
    if (content is None) != (hunk.first == 0):
        return f"{name} {'does not exist' if content is None else 'exists already'}"
    if not hunk.old:
        return f"{name}: the hunk at line {hunk.first} has no context to be found by"
    return f"{name}: no place for the hunk at line {hunk.first}"


def _header(line: str, hunk: Hunk, shift: int) -> str:
    """The '@@' line with the hunk's place, after hunks that have added `shift` lines; the rest as it was."""
    match = HUNK.match(line)
    assert match is not None, line
    new = hunk.start + shift + (1 if hunk.new else 0)
    old_count, new_count = ("" if n == 1 and m is None else f",{n}" for n, m in _counts(hunk, match))
    return f"@@ -{hunk.first}{old_count} +{new}{new_count} @@" + line[match.end() :]


def _counts(hunk: Hunk, match: re.Match[str]) -> Iterator[tuple[int, str | None]]:
    yield len(hunk.old), match.group(2)
    yield len(hunk.new), match.group(4)


def _apply_hunks(patch: Path, name: str, content: bytes | None, hunks: list[Hunk]) -> bytes:
    creates = hunks[0].first == 0
    if creates != (content is None):
        seen = "exists already" if creates else "does not exist"
        raise PatchError(f"{patch.name} does not apply: {name} {seen} in the pinned llama.cpp")
    source = [] if content is None else content.decode("utf-8").split("\n")
    result: list[str] = []
    done = 0
    for hunk in hunks:
        if not done <= hunk.start <= len(source):
            raise PatchError(
                f"{patch.name} does not apply to {name}: the hunk at line {hunk.first} overlaps or is past the end"
            )
        for number, expected in enumerate(hunk.old, hunk.start + 1):
            found = source[number - 1] if number <= len(source) else "end of file"
            if found != expected:
                raise PatchError(
                    f"{patch.name} does not apply to {name}:{number}: expected {expected!r}, found {found!r}. "
                    f"Refresh the patch against the source that csrc/llama/llama.cpp.lock names"
                )
        result += source[done : hunk.start] + hunk.new
        done = hunk.start + len(hunk.old)
    text = "\n".join(result + source[done:])
    return (text if content is not None else text + "\n").encode("utf-8")


def main(arguments: list[str]) -> None:
    folder = Path(__file__).parent
    try:
        match arguments:
            case ["refresh", tree] if Path(tree).is_dir():
                texts, moved = refreshed(Path(tree), folder)
                for path, text in texts.items():
                    path.write_text(text)
                print(f"every hunk fits, {moved} at another line; patches rewritten: {len(texts)}")
            case ["count"]:
                print(count(folder))
            case _:
                sys.exit("\n".join((__doc__ or "").splitlines()[2:4]))
    except PatchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])

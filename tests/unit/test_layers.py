"""The arrows between the folders of csrc/ and of the package go one way."""

import ast
import graphlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.cmake import PROJECT

ROOT = PROJECT / "csrc"
CONTRACT = "pyllama_mtp.h"
INTERNAL = "llama/internal.h"

# Folder -> folders that it may include beside itself; "" is csrc/ itself: the C interface.
ARROWS = {
    "": {"engine", "base"},
    "engine": {"drafters", "sampling", "base"},
    "drafters": {"sampling", "base"},
    "sampling": {"base"},
    "base": set(),
    "kernels": {"turboquant"},
    "turboquant": set(),
    "llama": set(),
}
# Headers that more files may include than the arrows allow: by folder, or by file.
ALSO = {
    "kernels": {"sampling/noise.h", "sampling/candidates.h", "sampling/draw_ops.h"},
    "drafters/gemma4": {INTERNAL},
    "engine/batch_invariance.cpp": {INTERNAL, "kernels/invariance.h"},
    "engine/engine.cpp": {"llama/hooks/reserve.h"},
    "engine/kv_cache.cpp": {INTERNAL},
    "engine/model.cpp": {INTERNAL, "llama/hooks/cache_types.h", "llama/hooks/weight_loads.h"},
    "engine/output_rows.cpp": {INTERNAL, "llama/hooks/keep_logits.h"},
    "engine/rounds.cpp": {"llama/hooks/reserve.h"},
    "engine/target.cpp": {INTERNAL, "llama/hooks/placed_tokens.h"},
    "engine/target_weights.cpp": {INTERNAL, "llama/hooks/weight_loads.h"},
    "engine/tokenize.cpp": {INTERNAL, "llama/hooks/tokenizing.h"},
    "pyllama_mtp.cpp": {CONTRACT},
}


def read(folder: Path) -> dict[str, str]:
    """Every source below the folder, keyed by its path there."""
    files = (path for path in folder.rglob("*") if path.suffix in (".h", ".c", ".cpp", ".cu", ".cuh", ".inc"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def folder_of(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def includes(sources: dict[str, str]) -> list[tuple[str, str]]:
    """(file, what it includes) of every quoted include."""
    found = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
    return [(name, included) for name, text in sorted(sources.items()) for included in found.findall(text)]


def faults(sources: dict[str, str]) -> list[str]:
    """The includes that section 2 of the architecture forbids, as lines of text."""
    own_names = {name.rpartition("/")[2] for name in sources}
    lines = []
    for name, included in includes(sources):
        if included not in sources:  # a header of llama.cpp, whose names have no folder
            if "/" in included or included in own_names:
                lines.append(f'{name} includes "{included}", which is not written from the root csrc/')
            continue
        folders = ARROWS[folder_of(name)] | {folder_of(name)} - {""}
        also = set().union(*(more for place, more in ALSO.items() if name == place or name.startswith(place + "/")))
        if not (folder_of(included) in folders or included in also):
            lines.append(f'{name} includes "{included}"')
    return lines


def arrows(sources: dict[str, str], node_of) -> set[tuple[str, str]]:
    """From node to another node, for every include between files of ours."""
    pairs = {(node_of(name), node_of(included)) for name, included in includes(sources) if included in sources}
    return {(a, b) for a, b in pairs if a != b}


def floors(pairs: Iterable[tuple[str, str]]) -> int:
    """Nodes on the longest way along the arrows; raises graphlib.CycleError if there is a cycle."""
    below: dict[str, set[str]] = {}
    for a, b in pairs:
        below.setdefault(a, set()).add(b)
    height: dict[str, int] = {}
    for node in graphlib.TopologicalSorter(below).static_order():
        height[node] = 1 + max((height[b] for b in below.get(node, ())), default=0)
    return max(height.values(), default=0)


def unit(name: str) -> str:
    """A source with its header."""
    return str(Path(name).with_suffix(""))


def test_no_include_goes_up_or_aside():
    assert faults(read(ROOT)) == []


def test_nothing_below_the_c_interface_knows_its_header():
    assert {name for name, included in includes(read(ROOT)) if included == CONTRACT} == {"pyllama_mtp.cpp"}


def test_folders_and_files_have_no_cycles(capsys):
    """The 41 sources that once lay side by side in csrc/ had 9 floors and 60 arrows, counted likewise."""
    sources = read(ROOT)
    folders = arrows(sources, lambda name: folder_of(name) or unit(name))
    counted = {"folders": (floors(folders), len(folders)), "files": (floors(p := arrows(sources, unit)), len(p))}
    with capsys.disabled():
        print("".join(f"\n{kind}: {n} floors, {m} arrows" for kind, (n, m) in counted.items()), end=" ")
    assert counted["folders"][0] <= 5 and counted["folders"][1] <= 16


@pytest.mark.parametrize(
    "name, line, fault",
    [
        ("base/log.cpp", '#include "engine/engine.h"', "base/log.cpp"),  # up
        ("kernels/rows/cpu/tanh.cpp", '#include "sampling/sampler.h"', "sampling/sampler.h"),  # not one of the three
        ("turboquant/cpu.c", '  #  include "kernels/cpu/simd.h"', "kernels/cpu/simd.h"),
        ("sampling/logits.cpp", '#include "llama/internal.h"', "llama/internal.h"),
        ("sampling/logits.cpp", '#include "pyllama_mtp.h"', "pyllama_mtp.h"),
        ("engine/target.cpp", '#include "kernels/products/hook.h"', "kernels/products/hook.h"),
        ("engine/target.cpp", '#include "model.h"', "not written from the root"),  # bare
        ("engine/target.cpp", '#include "../base/log.h"', "not written from the root"),
        ("kernels/cuda/fusion.cu", '#include "drafters/drafter.h"', "drafters/drafter.h"),
    ],
)
def test_a_forbidden_include_is_found(name, line, fault):
    sources = read(ROOT)
    sources[name] += line + "\n"
    (found,) = faults(sources)
    assert name in found and fault in found


def test_a_cycle_is_found():
    sources = read(ROOT)
    sources["base/error.h"] += '#include "base/log.h"\n'
    sources["base/log.h"] += '#include "base/error.h"\n'
    with pytest.raises(graphlib.CycleError):
        floors(arrows(sources, unit))


def test_hooks_in_llama_cpp_reach_what_is_reached_through_hooks_alone():
    """A patch that included the engine would turn every arrow round."""
    added = re.compile(r'^\+#include "([\w./-]+)"', re.MULTILINE)
    patches = "".join(path.read_text() for path in (ROOT / "llama" / "patches").glob("*.patch"))
    assert {folder_of(name) for name in added.findall(patches)} <= {"kernels", "turboquant", "llama"}
    assert all((ROOT / name).is_file() for name in added.findall(patches))


def imports(path: Path) -> set[str]:
    """Modules that a Python file imports, names imported from packages included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


CALLS_CONVERTER = "hub/heads.py"  # when a head is converted, and not before: tests/unit/test_imports.py


def python_faults(package: Path) -> list[str]:
    allowed = ("pyllama_mtp.gguf", "pyllama_mtp.errors", "pyllama_mtp.part_files")
    lines = []
    for path in sorted(package.rglob("*.py")):
        for module in sorted(imports(path)):
            ours = module.startswith("pyllama_mtp.")
            below = path.parent.name != "gguf" or not ours or module.startswith(allowed)
            name = path.relative_to(package).as_posix()
            if (module.startswith("pyllama_mtp.convert") and name != CALLS_CONVERTER) or not below:
                lines.append(f"{name} imports {module}")
    return lines


HUB_BELOW = ("errors", "gguf", "hub", "part_files", "paths", "progress")


def hub_faults(package: Path, convert: Path) -> list[str]:
    """Imports of hub/ from above it, and those of it in the converter, but for its command."""
    lines = [
        f"hub/{path.name} imports {module}"
        for path in sorted((package / "hub").glob("*.py"))
        for module in sorted(imports(path))
        if module.startswith("pyllama_mtp.") and not module.startswith(tuple(f"pyllama_mtp.{n}" for n in HUB_BELOW))
        and not (f"hub/{path.name}" == CALLS_CONVERTER and module.startswith("pyllama_mtp.convert"))
    ]  # fmt: skip
    return lines + [
        f"convert/{path.name} imports {module}"
        for path in sorted(convert.glob("*.py"))
        for module in sorted(imports(path))
        if module.startswith("pyllama_mtp.hub") and path.name != "cli.py"
    ]


def test_the_hub_stands_on_formats_and_nothing_of_the_converter_but_its_command_on_the_hub(tmp_path):
    assert hub_faults(PROJECT / "pyllama_mtp", PROJECT / "convert") == []
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "finding.py").write_text("def f():\n    from pyllama_mtp.convert import convert_assistant\n")
    (tmp_path / "assistant.py").write_text("from pyllama_mtp.hub import find_files\n")
    faults = hub_faults(tmp_path, tmp_path)
    assert "hub/finding.py imports pyllama_mtp.convert" in faults
    assert "convert/assistant.py imports pyllama_mtp.hub" in faults


SERVERS_BELOW = {"errors", "info", "model", "options", "ranges", "results", "stream"}  # Model and what it gives out


def command_faults(package: Path) -> list[str]:
    """Nothing but the program imports commands, whose arguments and terminals are no library's concern."""
    lines = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith("commands/") and name not in ("cli.py", "__main__.py"):
            lines += [f"{name} imports {m}" for m in sorted(imports(path)) if m.startswith("pyllama_mtp.commands")]
    return lines


def test_nothing_stands_on_the_commands(tmp_path):
    assert command_faults(PROJECT / "pyllama_mtp") == []
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "plan.py").write_text("from pyllama_mtp.commands.model import add_files\n")
    assert "bench/plan.py imports pyllama_mtp.commands.model" in command_faults(tmp_path)


def server_faults(package: Path) -> list[str]:
    lines = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        for module in sorted(imports(path)):
            below = module.removeprefix("pyllama_mtp.").partition(".")[0]
            if (
                not module.startswith("pyllama_mtp.")
                or below == "server"
                and name.startswith(("server/", "commands/serve.py"))
            ):
                continue
            if below == "server" or name.startswith("server/") and below not in SERVERS_BELOW:
                lines.append(f"{name} imports {module}")
    return lines


def test_the_server_stands_on_model_alone_and_nothing_stands_on_it(tmp_path):
    assert server_faults(PROJECT / "pyllama_mtp") == []
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "app.py").write_text("from pyllama_mtp.loop import EngineLoop\n")
    (tmp_path / "model.py").write_text("import pyllama_mtp.server.state\n")
    faults = server_faults(tmp_path)
    assert "model.py imports pyllama_mtp.server.state" in faults
    assert "server/app.py imports pyllama_mtp.loop" in faults


def test_the_engine_does_not_import_the_converter_and_the_formats_import_nothing_above_them(tmp_path):
    assert python_faults(PROJECT / "pyllama_mtp") == []
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "format.py").write_text("def f():\n    from pyllama_mtp.model import Model\n")
    (tmp_path / "cli.py").write_text("from pyllama_mtp import convert\n")
    faults = python_faults(tmp_path)
    assert faults[0] == "cli.py imports pyllama_mtp.convert" and "gguf/format.py imports pyllama_mtp.model" in faults

"""The build: the pinned source arrives intact, failures name the command that fixes them, and the product is sealed."""

import hashlib
import importlib.metadata
import importlib.resources
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pyllama_mtp import get_include, get_library
from support.cmake import LOCK, PROJECT, SOURCE_SCRIPT, configure

HELLO = b"".join(b"line %d\n" % i for i in range(1, 9))
TREE = {
    "CMakeLists.txt": b"# llama\n",
    "include/llama.h": b"// api\n",
    "src/hello.cpp": HELLO,
    "docs/unused.md": b"no\n",
}
PATCH = """Description: says hello
--- a/src/hello.cpp
+++ b/src/hello.cpp
@@ -2,3 +2,4 @@
 line 2
-line 3
+line three
+line three and a half
 line 4
"""


@pytest.fixture
def pinned(tmp_path):
    """A tiny pinned source: archive, lock and patch folder, and `run(*arguments)` of the script that unpacks it."""
    return Pinned(tmp_path)


class Pinned:
    def __init__(self, folder: Path):
        self.tree, self.archive = folder / "tree", folder / "tiny-1.0.tar.gz"
        self.lock, self.patches = folder / "llama.cpp.lock", folder / "patches"
        self.destination = folder / "build" / "llama.cpp"
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, content in TREE.items():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                (self.tree / name).write_bytes(content)
                member = tarfile.TarInfo(f"tiny-1.0/llama.cpp/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.write_lock(hashlib.sha256(self.archive.read_bytes()).hexdigest())
        self.patches.mkdir()
        self.write_series({})

    def write_lock(self, sha256: str) -> None:
        self.lock.write_text(
            f'package = "tiny"\nversion = "1.0"\nsha256 = "{sha256}"\nfolder = "tiny-1.0/llama.cpp"\nbuild = 1\n'
        )

    def write_series(self, patches: dict[str, str]) -> None:
        for name, text in patches.items():
            (self.patches / name).write_text(text)
        (self.patches / "series").write_text("# applied in this order\n" + "".join(f"{name}\n" for name in patches))

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        command = [sys.executable, SOURCE_SCRIPT, self.destination, "--lock", self.lock, "--patches", self.patches]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, env=os.environ | (env or {}))

    def unpack(self) -> None:
        result = self.run("--archive", self.archive)
        assert result.returncode == 0, result.stderr

    def fail(self) -> str:
        """The message of a run that must fail and leave no half-made tree."""
        result = self.run("--archive", self.archive)
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
        assert not self.destination.exists()
        return result.stderr

    def written(self) -> dict[str, bytes]:
        files = (path for path in self.destination.rglob("*") if path.is_file())
        return {path.relative_to(self.destination).as_posix(): path.read_bytes() for path in files}


def test_unpacks_what_the_build_needs_and_applies_the_series(pinned):
    pinned.write_series({"hello.patch": PATCH})
    pinned.unpack()
    patched = HELLO.replace(b"line 3\n", b"line three\nline three and a half\n")
    expected = {name: content for name, content in TREE.items() if not name.startswith("docs/")}
    assert pinned.written() == expected | {"src/hello.cpp": patched}


def test_a_python_without_filters_for_archives_unpacks_too(pinned):
    """Debian 12's own, 3.11.2: `pip install .` failed there with a TypeError."""
    code = """
import runpy, sys, tarfile
del tarfile.data_filter
whole = tarfile.TarFile.extractall
tarfile.TarFile.extractall = lambda self, path, members: whole(self, path, members)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    place = ["--lock", pinned.lock, "--patches", pinned.patches, "--archive", pinned.archive]
    command = [sys.executable, "-W", "ignore", "-c", code, SOURCE_SCRIPT, pinned.destination, *place]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert pinned.written()["src/hello.cpp"] == HELLO


def test_a_second_run_touches_nothing_and_a_new_patch_only_its_file(pinned):
    pinned.unpack()
    times = {name: (pinned.destination / name).stat().st_mtime_ns for name in pinned.written()}
    pinned.unpack()
    assert times == {name: (pinned.destination / name).stat().st_mtime_ns for name in times}
    pinned.write_series({"hello.patch": PATCH})
    pinned.unpack()
    changed = [name for name in times if (pinned.destination / name).stat().st_mtime_ns != times[name]]
    assert changed == ["src/hello.cpp"]


def test_a_patch_taken_out_of_the_series_is_undone(pinned):
    pinned.write_series({"hello.patch": PATCH, "new.patch": "--- /dev/null\n+++ b/src/new.cpp\n@@ -0,0 +1 @@\n+new\n"})
    pinned.unpack()
    assert pinned.written()["src/new.cpp"] == b"new\n"
    for patch in pinned.patches.glob("*.patch"):
        patch.unlink()
    pinned.write_series({})
    pinned.unpack()
    assert pinned.written()["src/hello.cpp"] == HELLO and "src/new.cpp" not in pinned.written()


def test_source_directory_is_copied_and_stays_pristine(pinned):
    pinned.write_series({"hello.patch": PATCH})
    result = pinned.run("--source-dir", pinned.tree)
    assert result.returncode == 0, result.stderr
    assert (pinned.tree / "src/hello.cpp").read_bytes() == HELLO
    assert b"line three\n" in pinned.written()["src/hello.cpp"]


def test_wrong_source_directory(pinned):
    result = pinned.run("--source-dir", pinned.patches)
    assert result.returncode == 1 and "LLAMA_CPP_SOURCE_DIR" in result.stderr and "llama.h" in result.stderr


def test_several_hunks_insertions_without_context_and_a_second_patch_on_the_same_file(pinned):
    header = "--- a/src/hello.cpp\n+++ b/src/hello.cpp\n"
    first = (
        header + "@@ -1 +1 @@\n-line 1\n+line one\n@@ -3,0 +4,2 @@\n+a\n+b\n@@ -8,1 +10,1 @@\n-line 8\n+line eight\n"
    )
    second = header + "@@ -3,3 +3,2 @@\n line 3\n-a\n b\n"
    pinned.write_series({"1.patch": first, "2.patch": second})
    pinned.unpack()
    expected = b"line one\nline 2\nline 3\nb\nline 4\nline 5\nline 6\nline 7\nline eight\n"
    assert pinned.written()["src/hello.cpp"] == expected


@pytest.mark.parametrize(
    "old, new, where",
    [
        (" line 4\n", " line four\n", "src/hello.cpp:4"),  # context that differs
        ("@@ -2,3 +2,4 @@", "@@ -3,3 +3,4 @@", "src/hello.cpp:3"),  # right text, one line off: no fuzz
        ("@@ -2,3 +2,4 @@", "@@ -2,4 +2,5 @@", "bad.patch:4"),  # announces more lines than it has
        ("@@ -2,3 +2,4 @@", "@@ -20,3 +20,4 @@", "line 20 overlaps or is past the end"),
        ("b/src/hello.cpp", "b/src/absent.cpp", "src/absent.cpp does not exist"),
        ("b/src/hello.cpp", "b/../hello.cpp", "bad.patch:3"),
    ],
)
def test_a_patch_that_does_not_apply_names_itself_and_the_place(pinned, old, new, where):
    pinned.write_series({"bad.patch": PATCH.replace(old, new)})
    message = pinned.fail()
    assert "bad.patch" in message and where in message


def test_a_patch_missing_from_the_series_is_an_error(pinned):
    (pinned.patches / "forgotten.patch").write_text(PATCH)
    assert "forgotten.patch" in pinned.fail()


def test_checksum_mismatch_names_both_sums_and_the_way_out(pinned):
    seen = hashlib.sha256(pinned.archive.read_bytes()).hexdigest()
    pinned.write_lock("0" * 64)
    message = pinned.fail()
    assert seen in message and "0" * 64 in message and "unearth 'tiny==1.0' --no-binary" in message


def test_missing_archive_names_the_way_out(pinned):
    pinned.archive.unlink()
    assert "unearth 'tiny==1.0' --no-binary" in pinned.fail()


def test_no_network_names_the_archive_option(pinned):
    result = pinned.run(env={"PIP_INDEX_URL": "http://127.0.0.1:9/simple"})
    assert result.returncode == 1 and "could not download tiny==1.0" in result.stderr
    assert "unearth 'tiny==1.0' --no-binary" in result.stderr
    assert "pip install . -C cmake.define.LLAMA_CPP_ARCHIVE=/path/to/tiny-1.0.tar.gz" in result.stderr


def test_a_finished_download_is_not_repeated(pinned):
    downloads = pinned.destination.parent / "download"
    downloads.mkdir(parents=True)
    shutil.copy(pinned.archive, downloads / "tiny-1.0.tar.gz")
    result = pinned.run(env={"PIP_INDEX_URL": "http://127.0.0.1:9/simple"})
    assert result.returncode == 0, result.stderr
    assert pinned.written()["src/hello.cpp"] == HELLO


@pytest.mark.parametrize("named", [{}, {"CC": "gcc", "CXX": "g++ -m64"}])
def test_cmake_without_a_compiler_says_how_to_install_one(tmp_path, named):
    """Pip's build sets CC and CXX, a plain CMake call does not."""
    result = subprocess.run(
        [shutil.which("cmake"), "-S", PROJECT, "-B", tmp_path],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), **named},
    )
    assert result.returncode != 0 and "apt-get install g++" in result.stderr


def test_cmake_passes_the_reason_on(tmp_path):
    (tmp_path / "damaged.tar.gz").write_bytes(b"half a download")
    result = configure(tmp_path / "build", f"-DLLAMA_CPP_ARCHIVE={tmp_path / 'damaged.tar.gz'}")
    assert result.returncode != 0 and LOCK["sha256"] in result.stderr
    assert "pip install . -C cmake.define.LLAMA_CPP_ARCHIVE=" in result.stderr


def test_a_cuda_build_names_what_is_missing(tmp_path):
    """The toolkit, or cuBLAS and the package on PyPI that brings it."""
    result = configure(tmp_path / "build", "-DGGML_CUDA=ON", f"-DLLAMA_CPP_ARCHIVE={tmp_path / 'none.tar.gz'}")
    if "none.tar.gz" in result.stderr:
        pytest.skip("nothing is missing: this machine has the CUDA toolkit with cuBLAS")
    assert result.returncode != 0
    missing = "pip install nvidia-cublas" if shutil.which("nvcc") else "needs the CUDA toolkit"
    assert missing in result.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64-v3 is an x86 level")
def test_a_portable_build_uses_x86_64_v3_and_nothing_newer(portable_build):
    """Looks at every compiler call of a configured build, and at what the library will demand of the CPU."""
    entries = json.loads((portable_build / "compile_commands.json").read_text())
    flags = {flag for entry in entries for flag in entry["command"].split() if flag.startswith("-m")}
    flags = {flag for flag in flags if not flag.startswith("-mno-")}
    assert "-march=x86-64-v3" in flags
    assert flags <= {"-march=x86-64-v3", "-msse4.2", "-mavx", "-mavx2", "-mfma", "-mf16c", "-mbmi2"}
    v3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}
    info = json.loads((portable_build / "_build_info.json").read_text())
    assert set(info["cpu_features"]) == v3 and info["build"] == "x86-64-v3"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is of x86")
def test_a_build_for_avx512_vnni_uses_nothing_newer(tmp_path, archive):
    """Not what the machine that builds has besides: AVX-512 BF16, VBMI."""
    result = configure(tmp_path, "-DPYLLAMA_MTP_PORTABLE=avx512_vnni", f"-DLLAMA_CPP_ARCHIVE={archive}")
    assert result.returncode == 0, result.stderr
    entries = json.loads((tmp_path / "compile_commands.json").read_text())
    flags = {flag for entry in entries for flag in entry["command"].split() if flag.startswith("-m")}
    flags = {flag for flag in flags if not flag.startswith("-mno-")}
    assert {"-march=x86-64-v4", "-mavx512vnni"} <= flags
    v4 = {f"-mavx512{part}" for part in ("f", "cd", "vl", "dq", "bw")}
    v3 = {"-msse4.2", "-mavx", "-mavx2", "-mfma", "-mf16c", "-mbmi2"}
    assert flags <= {"-march=x86-64-v4", "-mavx512vnni"} | v4 | v3
    info = json.loads((tmp_path / "_build_info.json").read_text())
    wide = {name for name in info["cpu_features"] if name.startswith("avx512")}
    assert info["build"] == "avx512_vnni"
    assert wide == {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw", "avx512_vnni"}


def test_another_word_for_a_portable_build_is_refused(tmp_path):
    """It was taken for ON."""
    result = configure(tmp_path, "-DPYLLAMA_MTP_PORTABLE=avx512")
    assert result.returncode != 0 and "expected OFF, ON or avx512_vnni" in result.stderr


def cpu_features(tmp_path, flag: str) -> set[str]:
    output = tmp_path / "_build_info.json"
    command = [sys.executable, PROJECT / "cmake" / "build_info.py", output, "--build", "a"]
    command += ["--llama-build", "1", "--compiler", "g++"]
    subprocess.run([*command, f"--flag={flag}"], check=True)
    return set(json.loads(output.read_text())["cpu_features"])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 flags")
def test_build_info_knows_newer_instructions(tmp_path):
    assert {"avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"} <= cpu_features(tmp_path, "-march=sapphirerapids")


def test_a_native_build_demands_only_what_this_machine_has(tmp_path):
    flag, key = ("-march=native", "flags") if platform.machine() == "x86_64" else ("-mcpu=native", "Features")
    line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(key))
    assert cpu_features(tmp_path, flag) <= set(line.partition(":")[2].split())


def installed(name: str) -> Path:
    return Path(str(importlib.resources.files("pyllama_mtp") / name))


def test_the_package_holds_library_header_and_build_info():
    assert (get_include() / "pyllama_mtp.h").read_bytes() == (PROJECT / "csrc" / "pyllama_mtp.h").read_bytes()
    assert json.loads(installed("_build_info.json").read_text())["llama_cpp_build"] == LOCK["build"]


def test_the_library_exports_its_own_entry_points_only():
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", get_library()], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    assert names and all(name.startswith("pmtp_") for name in names), sorted(names)[:20]


BESIDE = """
import sys

def ours(target):
    import pyllama_mtp
    with pyllama_mtp.Model(target, n_ctx=256, n_threads=1) as model:
        return model.generate("import os", max_tokens=16, temperature=0).text()

def theirs(target):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = target, 256, 1, False
    params.cpuparams.n_threads = 1
    request = {"prompt": "import os", "max_tokens": 16, "temperature": 0}
    return xllamacpp.Server(params).handle_completions(request)["choices"][0]["text"]

for name in sys.argv[2:]:
    print(name, repr({"ours": ours, "theirs": theirs}[name](sys.argv[1])))
"""


def test_two_llama_cpps_in_one_process_do_not_meet(tmp_path):
    """Loads and runs this library and an unmodified llama.cpp, either first, and alone: always the same two texts."""
    target = next(installed("demo").glob("*target*.gguf"))

    def run(*order: str) -> set[str]:
        command = [sys.executable, "-c", BESIDE, target, *order]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert result.returncode == 0, result.stderr[-4000:]
        return {line for line in result.stdout.splitlines() if line.startswith(("ours ", "theirs "))}

    alone = run("ours") | run("theirs")
    assert len(alone) == 2
    assert run("ours", "theirs", "ours") == alone
    assert run("theirs", "ours", "theirs") == alone


def test_the_peer_of_the_tests_is_the_pinned_llama_cpp():
    requirement = f"{LOCK['package']}=={LOCK['version']}"
    assert any(line.startswith(requirement) for line in importlib.metadata.requires("pyllama-mtp"))

"""Programs in C and C++ find, link and run the library, of an installed wheel and of `cmake --install` alike."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pyllama_mtp
from pyllama_mtp import get_cmake_dir, get_include, get_library, get_pkgconfig_dir
from support.cmake import PROJECT, VERSION, cmake

EXAMPLES = PROJECT / "examples"
PROMPT = "import os\n\ndef main():"
HEADER = (PROJECT / "csrc" / "pyllama_mtp.h").read_text()
ABI_VERSION = re.search(r"PMTP_ABI_VERSION = (\d+)", HEADER)[1]


@pytest.fixture(scope="session")
def installed_prefix(tmp_path_factory: pytest.TempPathFactory, portable_build: Path) -> Path:
    """What `cmake --install --prefix` makes, moved afterwards. Not built again: the tested library stands in for it."""
    for name in ("libpyllama_mtp.so", f"libpyllama_mtp.so.{ABI_VERSION}", f"libpyllama_mtp.so.{VERSION}"):
        shutil.copy(get_library().resolve(), portable_build / name)
    folder = tmp_path_factory.mktemp("prefix")
    result = cmake("--install", portable_build, "--prefix", folder / "first")
    assert result.returncode == 0, result.stderr
    return (folder / "first").rename(folder / "second")


@pytest.fixture(params=["wheel", "prefix"])
def prefix(request: pytest.FixtureRequest) -> Path:
    """A folder with include/ and lib/."""
    return get_include().parent if request.param == "wheel" else request.getfixturevalue("installed_prefix")


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}), timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_cmake_install_gives_header_library_packages_and_notices(installed_prefix: Path):
    files = {path.relative_to(installed_prefix).as_posix() for path in installed_prefix.rglob("*") if path.is_file()}
    library = {f"lib/libpyllama_mtp.so{end}" for end in ("", f".{ABI_VERSION}", f".{VERSION}")}
    packages = {f"lib/cmake/pyllama_mtp/pyllama_mtpConfig{end}.cmake" for end in ("", "-release", "Version")}
    notices = {path for path in files if path.startswith("share/doc/pyllama_mtp/")}
    assert files - notices == {"include/pyllama_mtp.h", "lib/pkgconfig/pyllama_mtp.pc"} | library | packages
    assert {Path(path).name for path in notices} >= {"LICENSE", "llama.cpp.txt"}


def test_no_package_file_knows_where_it_was_built_or_installed(prefix: Path, portable_build: Path):
    for path in [*prefix.glob("lib/pkgconfig/*"), *prefix.glob("lib/cmake/pyllama_mtp/*")]:
        text = path.read_text()
        assert str(prefix) not in text and str(portable_build) not in text and str(PROJECT) not in text, path


def test_the_package_says_where_everything_is():
    assert (get_include() / "pyllama_mtp.h").read_text() == HEADER
    assert get_library().is_file()
    assert (get_pkgconfig_dir() / "pyllama_mtp.pc").is_file()
    assert (get_cmake_dir() / "pyllama_mtpConfig.cmake").is_file()


def test_a_c_program_links_through_pkg_config_and_streams_what_python_streams(
    tmp_path: Path, prefix: Path, demo, demo_model: pyllama_mtp.Model
):
    env = {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "pyllama_mtp", env=env).split()
    folder = run("pkg-config", "--variable=libdir", "pyllama_mtp", env=env).strip()
    assert run("pkg-config", "--modversion", "pyllama_mtp", env=env) == f"{VERSION}\n"
    source, program = EXAMPLES / "stream.c", tmp_path / "stream"
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    run("cc", *strict, source, *flags, f"-Wl,-rpath,{folder}", "-o", program)
    done = subprocess.run([program, demo.target, demo.head, PROMPT, "40"], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = demo_model.generate(PROMPT, max_tokens=40, temperature=0.6, top_p=0.95, seed=7, num_speculative_tokens=3)
    assert done.stdout.decode("utf-8", "replace") == expected.text()
    rounds, accepted, drafted = map(int, re.search(rb"in (\d+) rounds, (\d+) of (\d+) drafts", done.stderr).groups())
    assert 0 < accepted <= drafted and rounds < 39


def test_errors_reach_a_c_program_as_one_line(tmp_path: Path, demo):
    program = tmp_path / "stream"
    library = get_library().parent
    run(
        "cc",
        EXAMPLES / "stream.c",
        "-I",
        get_include(),
        "-L",
        library,
        "-lpyllama_mtp",
        f"-Wl,-rpath,{library}",
        "-o",
        program,
    )
    done = subprocess.run([program, demo.head, "", PROMPT, "8"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("pmtp_model_load: ") and done.stderr.count("\n") == 1


def test_a_cpp_program_finds_the_package_with_cmake_and_runs(tmp_path: Path, prefix: Path, demo):
    package = prefix / "lib" / "cmake" / "pyllama_mtp"
    result = cmake("-S", EXAMPLES, "-B", tmp_path, "-G", "Ninja", f"-Dpyllama_mtp_DIR={package}")
    assert result.returncode == 0, result.stderr
    result = cmake("--build", tmp_path)
    assert result.returncode == 0, result.stdout
    output = run(tmp_path / "compare", demo.target, demo.head, PROMPT, "40")
    assert "\nsame text: yes\n" in output
    drafted, plain = map(int, re.search(r"evaluations of the target: (\d+) instead of (\d+)", output).groups())
    assert drafted < plain == 39


def test_cmake_refuses_another_minor_version(tmp_path: Path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(newer C)\nfind_package(pyllama_mtp 0.2 REQUIRED)\n"
    )
    result = cmake("-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", f"-Dpyllama_mtp_DIR={get_cmake_dir()}")
    assert result.returncode != 0 and VERSION in result.stderr


def test_the_header_documents_every_function():
    """A comment ends right above each declaration."""
    region = HEADER.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]
    declared = re.findall(r"^(.*)\n(?!typedef|struct|enum)[a-z].*?\b(pmtp_\w+)\(", region, re.MULTILINE)
    exported = run("nm", "-D", "--defined-only", get_library())
    assert {name for _, name in declared} == set(re.findall(r"\bpmtp_\w+", exported))
    assert [name for before, name in declared if not before.endswith("*/")] == []

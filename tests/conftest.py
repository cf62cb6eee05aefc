"""Fixtures that several folders share."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pyllama_mtp
from support.cmake import LOCK, SOURCE_SCRIPT, configure
from support.real_chat import RealChat, write_real_chat


@dataclass(frozen=True, slots=True)
class Files:
    """A target and its MTP head."""

    target: Path
    head: Path


@pytest.fixture(scope="session")
def demo() -> Files:
    """The embedded trained pair."""
    folder = Path(pyllama_mtp.__file__).parent / "demo"
    return Files(folder / "target.gguf", folder / "assistant.gguf")


@pytest.fixture(scope="session")
def demo_model(demo: Files) -> Iterator[pyllama_mtp.Model]:
    """The embedded pair, loaded once; a test must finish or close its streams. It draws from the whole distribution."""
    options = {"n_ctx": 1024, "n_threads": 1, "sampling_defaults": "vllm"}
    with pyllama_mtp.Model(demo.target, mtp_head=demo.head, **options) as model:
        yield model


@pytest.fixture(scope="session")
def real_chat(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> RealChat:
    """A small pair with Gemma 4's real vocabulary and template."""
    return write_real_chat(archive, tmp_path_factory.mktemp("real-chat"))


@pytest.fixture(scope="session")
def archive(request: pytest.FixtureRequest) -> Path:
    """The real pinned source distribution; downloaded once and kept in pytest's cache."""
    sys.path.insert(0, str(SOURCE_SCRIPT.parent))
    from llama_cpp_source import download

    if given := os.environ.get("LLAMA_CPP_ARCHIVE"):
        return Path(given)
    return download(request.config.cache.mkdir("llama.cpp"), LOCK)


@pytest.fixture(scope="session")
def patched_build(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Path:
    """A build folder of this tree, for targets that the installed library has not: PMTP_BUILD, or a new one."""
    if given := os.environ.get("PMTP_BUILD"):
        return Path(given)
    folder = tmp_path_factory.mktemp("patched")
    result = configure(folder, f"-DLLAMA_CPP_ARCHIVE={archive}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def portable_build(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Path:
    """The build folder of a portable build, configured only."""
    folder = tmp_path_factory.mktemp("portable")
    result = configure(folder, "-DPYLLAMA_MTP_PORTABLE=ON", f"-DLLAMA_CPP_ARCHIVE={archive}")
    assert result.returncode == 0, result.stderr
    return folder

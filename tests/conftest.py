"""Fixtures that several folders share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pyllama_mtp


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
    """The embedded pair, loaded once; a test must finish or close its streams."""
    with pyllama_mtp.Model(demo.target, mtp_head=demo.head, n_ctx=1024, n_threads=1) as model:
        yield model

"""The stand-in of the hub, with a pair in it, and a process that downloads from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub import Hub
from support.hub_caller import Caller
from support.hub_content import ASSISTANT, GGUF, TARGET, Content, hub_content


@pytest.fixture(scope="session")
def content(demo, tmp_path_factory: pytest.TempPathFactory) -> Content:
    return hub_content(demo.target, demo.head, tmp_path_factory.mktemp("content"))


@pytest.fixture
def hub(content: Content) -> Iterator[Hub]:
    """With a target, and the assistant that belongs to it."""
    with Hub() as hub:
        hub.add(GGUF, {TARGET: content.target, "README.md": b"about", "mmproj-Q8_0.gguf": b"no model"})
        hub.add(ASSISTANT, content.checkpoint)
        yield hub


@pytest.fixture
def caller(hub: Hub, tmp_path: Path) -> Iterator[Caller]:
    with Caller(hub.url, tmp_path / "home") as caller:
        yield caller

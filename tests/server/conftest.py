"""Servers that the tests of this folder share: processes of the command, with the embedded pair."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.format import Entry
from support.gguf_edit import rewrite
from support.serving import KEY, Served

TEMPLATE = """{{ bos_token }}{% for message in messages %}# {{ message.role }}
{{ message.content }}
{% endfor %}{% if add_generation_prompt %}# assistant
{% endif %}"""
SIZES = ("--max-model-len", "1024", "--n-threads", "1", "--max-num-seqs", "4")


@pytest.fixture(scope="session")
def chat_target(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded target with a template."""
    path = tmp_path_factory.mktemp("chat") / "target.gguf"
    return rewrite(demo.target, path, metadata={"tokenizer.chat_template": Entry("string", TEMPLATE)})


@pytest.fixture(scope="session")
def served(chat_target: Path, demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the limits that it has by itself."""
    log = tmp_path_factory.mktemp("served") / "log"
    flags = ("--mtp-head", str(demo.head), *SIZES, "--served-model-name", "pair", "other-name")
    with Served(chat_target, *flags, log=log) as server:
        yield server


@pytest.fixture(scope="session")
def strict(chat_target: Path, demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for a key, lets one origin in, and has narrow limits."""
    log = tmp_path_factory.mktemp("strict") / "log"
    limits = "--max-body-bytes 4000 --max-messages 3 --max-choices 2 --max-completion-tokens 900 --max-queue 1"
    limits += " --body-seconds 1 --write-seconds 1 --header-seconds 1 --max-connections 150"
    flags = ["--mtp-head", str(demo.head), "--max-model-len", "1024", "--n-threads", "1", "--max-num-seqs", "1"]
    flags += ["--api-key", "another", KEY, "--allowed-origins", "http://good.example", *limits.split()]
    with Served(chat_target, *flags, log=log) as server:
        yield server


@pytest.fixture(scope="session")
def reference(chat_target: Path, demo) -> Iterator[Model]:
    """The same model, not served."""
    with Model(chat_target, mtp_head=demo.head, n_ctx=1024, n_threads=1) as model:
        yield model

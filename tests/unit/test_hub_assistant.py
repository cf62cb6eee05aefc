"""Which repositories may hold the assistant of a target."""

from pathlib import Path

import pytest

from pyllama_mtp.errors import DownloadError
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.hub.assistant import candidates, find_assistant
from pyllama_mtp.hub.repository import Repository

E2B = {"gemma4.block_count": 35, "gemma4.embedding_length": 1536}


def target(file: str = "model.gguf", architecture: str = "gemma4", **metadata: object) -> GGUFFile:
    named = {key.replace("__", "."): value for key, value in metadata.items()}
    return GGUFFile(Path(file), 3, {"general.architecture": architecture} | named, {}, {})


def repository(name: str, *bases: str) -> Repository:
    return Repository(name, "main", "0" * 40, {}, bases, online=True)


def names(*args: object) -> list[str]:
    return list(dict.fromkeys(name for name, _ in candidates(*args)))


def of_base(owner: str | None, name: str | None, url: str | None = None) -> dict[str, object]:
    given = {"organization": owner, "name": name, "repo_url": url}
    return {f"general.base_model.0.{key}": value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
    "base",
    [
        of_base("Google", "Gemma 4 E2B It", "https://huggingface.co/google/gemma-4-E2B-it"),
        of_base("google", "gemma 4 E2B it"),
    ],
)
def test_the_base_model_that_the_file_names_comes_first(base):
    first, *_ = names(target(**E2B | base), repository("owner/other-GGUF", "google/gemma-4-E4B-it"))
    assert first == "google/gemma-4-E2B-it-assistant"


def test_the_card_the_name_and_the_sizes_follow():
    found = names(target(**E2B), repository("unsloth/gemma-4-E2B-it-GGUF", "someone/tuned", "no repository"))
    assert found == ["someone/tuned-assistant", "google/gemma-4-E2B-it-assistant"]
    assert names(target(**E2B), None) == ["google/gemma-4-E2B-it-assistant"]
    assert names(target(), None) == []


def test_targets_trained_for_their_quantisation_have_assistants_of_their_own():
    own = "google/gemma-4-E2B-it-qat-q4_0-unquantized-assistant"
    assert own in names(target(**E2B), repository("google/gemma-4-E2B-it-qat-q4_0-gguf"))
    assert own in names(target("gemma-4-E2B-it-QAT-Q4_0.gguf", **E2B), None)
    assert own not in names(target("aqatic.gguf", **E2B), None)


@pytest.mark.parametrize(
    "base",
    [
        of_base(None, None, "https://huggingface.co/../../etc/passwd"),
        of_base(None, None, "https://elsewhere.example/a/b"),
        of_base("..", "x"),
        of_base("a/b", "c\n"),
        {"general.base_model.0.repo_url": 7, "general.base_model.0.name": 1.5},
    ],
)
def test_what_is_no_name_of_a_repository_is_not_asked_for(base):
    assert names(target(**base), None) == []


def test_other_architectures_have_no_assistant():
    with pytest.raises(DownloadError, match="'?llama'? model.*Gemma 4 alone"):
        find_assistant(target(architecture="llama"), None)
    with pytest.raises(DownloadError, match="no assistant was found.*name a repository"):
        find_assistant(target(), None)

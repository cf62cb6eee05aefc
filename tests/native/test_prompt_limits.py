"""Prompts that cannot fit are refused before they are split, with every kind of vocabulary that drops nothing: the
number of tokens that the refusal names is never more than the text has.
"""

import random
import tarfile
import time
from pathlib import Path

import pytest

from pyllama_mtp import ContextOverflowError, Model
from pyllama_mtp.gguf.format import read_header
from support.gguf_edit import with_vocabulary

# Of GPT-2's kind; the pre-tokenizers of others are std::regex, whose recursion takes no texts of such lengths.
VOCABULARIES = ("gpt-2", "llama-bpe")


@pytest.fixture(scope="module", params=VOCABULARIES)
def model(request: pytest.FixtureRequest, demo, archive: Path, tmp_path_factory: pytest.TempPathFactory):
    """The embedded target with one of the pinned source's vocabularies."""
    folder = tmp_path_factory.mktemp(request.param)
    with tarfile.open(archive) as tar:
        name = next(n for n in tar.getnames() if n.endswith(f"models/ggml-vocab-{request.param}.gguf"))
        (folder / "vocab.gguf").write_bytes(tar.extractfile(name).read())
    target = with_vocabulary(demo.target, folder / "target.gguf", read_header(folder / "vocab.gguf"))
    with Model(target, n_ctx=64, n_threads=1) as model:
        yield model


def refused(model: Model, text: str) -> int:
    """The number of tokens that the refusal names."""
    with pytest.raises(ContextOverflowError, match=r"the prompt has \d+ tokens or more") as error:
        model.generate(text)
    return int(str(error.value).split()[3])


@pytest.mark.parametrize("text", ["a" * 20_000_000, "é" * 10_000_000, " " * 20_000_000, "\n" * 20_000_000])
def test_what_cannot_fit_is_refused_unseen(model: Model, text: str):
    """It was split first: two seconds and 120 MB a million characters."""
    begin = time.process_time()
    assert refused(model, text) > 64
    assert time.process_time() - begin < 1


def test_the_number_is_never_too_high(model: Model):
    rng = random.Random(3)
    pieces = [
        "a",
        " ",
        "\n",
        "\t",
        "=",
        "-",
        "é",
        "日本",
        "🙂",
        "\u200b",
        "0",
        "\x00",
        "\x01",
        "<|endoftext|>",
        " the",
        "'s",
    ]
    pieces += [chr(rng.randrange(1, 0xD800)) for _ in range(40)]
    for _ in range(20):
        chosen = rng.sample(pieces, rng.randrange(1, 5))
        text = "".join(rng.choice(chosen) * rng.choice((1, 2, 64)) for _ in range(3000))
        assert refused(model, text) <= len(model.tokenize(text, add_special=False))

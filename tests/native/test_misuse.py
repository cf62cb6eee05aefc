"""Arguments of the wrong kind end in the package's own exceptions."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model, ModelLoadError, generate
from support.tiny_pairs import write_tiny_pair


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    pair = write_tiny_pair("e2b", tmp_path_factory.mktemp("pair"))
    with Model(pair.target, mtp_head=pair.head, n_ctx=64, n_threads=1) as model:
        yield model


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.generate(b"bytes"),
        lambda m: m.generate(memoryview(b"bytes")),
        lambda m: m.generate("lone \ud800"),
        lambda m: m.generate([5, True]),
        lambda m: m.generate([2**70]),
        lambda m: m.generate([]),
        lambda m: m.generate({5, 6}),
        lambda m: m.tokenize("x", add_special="yes"),
        lambda m: m.tokenize("x", parse_special=None),
        lambda m: m.tokenize(b"x"),
        lambda m: m.detokenize(np.array(5)),
        lambda m: m.detokenize(np.array([[5]])),
        lambda m: m.detokenize([5.0]),
        lambda m: m.logits([5], n_batch=33),
        lambda m: m.generate("x", logit_bias={288: 1.0}),
        lambda m: m.generate("x", stop_token_ids=[288]),
    ],
)
def test_requests_of_the_wrong_kind(model: Model, call: Callable[[Model], object]):
    with pytest.raises(InvalidRequestError):
        call(model)
    assert model.generate([5, 6], max_tokens=2, ignore_eos=True).text() is not None


@pytest.mark.parametrize("path", [None, 5, b"x.gguf", "nul\0", "\ud800"])
def test_paths_of_the_wrong_kind(path: object):
    for load in (lambda: Model(path), lambda: generate("x", model=path)):
        with pytest.raises(ModelLoadError):
            load()


def test_nul_is_text_like_any_other(model: Model):
    assert model.detokenize(model.tokenize("a\0b", add_special=False)) == "a\0b"

"""Converted files in unmodified llama.cpp load, draft, and are accepted as often as here with the same LM head."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pyllama_mtp import Model, Stats
from pyllama_mtp.convert import convert_assistant
from support.llama_cpp_peer import PeerCompletion, complete
from support.near_ties import assert_near_tie
from support.random_pairs import KINDS, N_VOCAB, make_pair
from support.target_gguf import write_target_gguf

K = 3
POINTS = 0.02
CODE = (
    "def read_lines(path):\n    with open(path) as file:\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "import os\nimport sys\n\n\ndef main():\n",
    "    def test_empty(self):\n        self.assertEqual(",
    '    """Return a list of the names.\n\n',
    "for key, value in sorted(table.items()):\n",
    "try:\n    import json\nexcept ImportError:\n",
    "# The following functions\n",
)


def with_dense_head(head: Path, out: Path) -> Path:
    """A copy of a portable assistant whose centroid head goes by keys that nothing reads, so that the dense one is
    used.
    """
    keys = b"gemma4-assistant.masked_embedding."
    data = head.read_bytes()
    assert data.count(keys) == 4
    out.write_bytes(data.replace(keys, keys.replace(b"masked", b"unread")))
    return out


def check_same_acceptance(
    model: Model, peer: Sequence[PeerCompletion], prompts: Sequence[list[int]], max_tokens: int
) -> None:
    """Over the texts that are equal: one that parts at a near tie goes on with other tokens to draft."""
    same: list[tuple[Stats, PeerCompletion]] = []
    for prompt, expected in zip(prompts, peer, strict=True):
        stream = model.generate(prompt, max_tokens=max_tokens, temperature=0, num_speculative_tokens=K)
        stream.text()
        if stream.token_ids == expected.token_ids:
            same.append((stream.stats, expected))
        else:
            assert_near_tie(model, prompt, stream.token_ids, expected.token_ids)
    assert sum(stats.completion_tokens for stats, _ in same) >= 400
    assert (
        len(same) >= len(prompts) // 2
    )  # its attention rounds queries to f16 and adds values up in f16, ours does not
    accepted, drafted = sum(s.accepted for s, _ in same), sum(s.drafted for s, _ in same)
    peer_rate = sum(c.accepted for _, c in same) / sum(c.drafted for _, c in same)
    assert peer_rate > 0.1
    assert accepted / drafted == pytest.approx(peer_rate, abs=POINTS)


@pytest.mark.parametrize("outtype", ["f16", "q8_0"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_llama_cpp_drafts_as_well_with_a_random_head(kind: str, outtype: str, tmp_path: Path):
    torch.set_num_threads(1)
    pair = make_pair(kind, tmp_path)
    target = write_target_gguf(tmp_path / "target.gguf", pair.shape, pair.target)
    head = convert_assistant(pair.assistant_dir, tmp_path / "head.gguf", outtype=outtype)
    random = np.random.default_rng(0)
    prompts = [[2, *random.integers(264, N_VOCAB, n).tolist()] for n in range(20, 180, 20)]
    peer = complete(target, head, prompts, max_tokens=64, k=K, n_ctx=512)
    if pair.shape.n_centroids:
        head = with_dense_head(head, tmp_path / "dense.gguf")
    with Model(target, mtp_head=head, n_ctx=512, n_threads=1) as model:
        assert model.info.head_n_centroids == 0
        check_same_acceptance(model, peer, prompts, max_tokens=64)


def test_llama_cpp_drafts_as_well_with_the_embedded_head(demo, tmp_path: Path):
    head = with_dense_head(demo.head, tmp_path / "dense.gguf")
    with Model(demo.target, mtp_head=head, n_threads=1) as model:
        prompts = [model.tokenize(text) for text in CODE]
        peer = complete(demo.target, demo.head, prompts, max_tokens=96, k=K)
        check_same_acceptance(model, peer, prompts, max_tokens=96)

"""Heads in the two older layouts of an assistant's GGUF load and draft as those in the present one."""

from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model, ModelLoadError
from pyllama_mtp.gguf.format import Entry
from support.gguf_edit import Parts, edit_tensor, rewrite
from support.old_layouts import KEYS, TENSORS, in_old_layout, with_numbers_of_centroids

CENTROID_KEYS = [
    f"gemma4-assistant.masked_embedding.{k}" for k in ("num_centroids", "top_k", "centroids", "token_ordering")
]
PROMPTS = ("def read_lines(path):\n", "class Stack:\n", "import os\n")


def drafts(target: Path, head: Path) -> tuple[int, list[tuple[str, int, int]]]:
    """The number of centroids, and greedy texts with what was drafted and accepted."""
    runs = []
    with Model(target, mtp_head=head, n_ctx=256, n_threads=1) as model:
        for prompt in PROMPTS:
            stream = model.generate(prompt, max_tokens=48, temperature=0, num_speculative_tokens=3)
            runs.append((stream.text(), stream.stats.drafted, stream.stats.accepted))
        return model.info.head_n_centroids, runs


def saved(parts: Parts, path: Path) -> Path:
    path.write_bytes(parts.to_bytes())
    return path


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize("centroids", [True, False], ids=["centroid head", "dense head"])
def test_an_old_layout_drafts_as_the_present_one(demo, tmp_path: Path, architecture: str, centroids: bool):
    head = demo.head
    if not centroids:
        head = rewrite(head, tmp_path / "dense.gguf", dict.fromkeys(CENTROID_KEYS))
    expected = drafts(demo.target, head)
    assert (expected[0] > 0) == centroids and all(accepted > 5 for _, _, accepted in expected[1])
    assert drafts(demo.target, saved(in_old_layout(head, architecture), tmp_path / "old.gguf")) == expected


@pytest.mark.parametrize("architecture", KEYS)
def test_without_rope_factors_the_targets_are_used(demo, tmp_path: Path, architecture: str):
    """Those of the pair are alike: a target with others must give what a head with those others gives."""
    name, fast = "rope_freqs.weight", lambda factors: np.full_like(factors, 0.1)
    old = in_old_layout(demo.head, architecture)
    del old.tensors[name]
    bare = saved(old, tmp_path / "bare.gguf")
    expected = drafts(demo.target, demo.head)
    assert all(accepted > 5 for _, _, accepted in expected[1])
    assert drafts(demo.target, bare) == expected
    target = edit_tensor(demo.target, tmp_path / "target.gguf", name, fast)
    changed = drafts(target, edit_tensor(demo.head, tmp_path / "head.gguf", name, fast))
    assert drafts(target, bare) == changed != drafts(target, demo.head)


def test_the_present_layout_must_have_rope_factors(demo, tmp_path: Path):
    head = rewrite(demo.head, tmp_path / "head.gguf", tensors={"rope_freqs.weight": None})
    with pytest.raises(ModelLoadError, match="lacks the tensor rope_freqs.weight"):
        Model(demo.target, mtp_head=head, n_ctx=256, n_threads=1)


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize("ordered", [None, False])
def test_numbers_of_centroids_alone_leave_the_head_dense(demo, tmp_path: Path, architecture: str, ordered: bool | None):
    dense = rewrite(demo.head, tmp_path / "dense.gguf", dict.fromkeys(CENTROID_KEYS))
    old = saved(with_numbers_of_centroids(in_old_layout(dense, architecture), architecture, ordered), tmp_path / "o")
    n_centroids, runs = drafts(demo.target, old)
    assert n_centroids == 0 and (n_centroids, runs) == drafts(demo.target, dense)


@pytest.mark.parametrize("architecture", KEYS)
def test_a_centroid_head_without_its_tensors_is_refused(demo, tmp_path: Path, architecture: str):
    dense = rewrite(demo.head, tmp_path / "dense.gguf", dict.fromkeys(CENTROID_KEYS))
    old = saved(with_numbers_of_centroids(in_old_layout(dense, architecture), architecture, True), tmp_path / "o")
    with pytest.raises(ModelLoadError, match=f"{TENSORS[architecture]['centroids']} is missing"):
        Model(demo.target, mtp_head=old, n_ctx=256, n_threads=1)


@pytest.mark.parametrize("architecture", KEYS)
def test_centroids_may_be_of_any_type(demo, tmp_path: Path, architecture: str):
    key = CENTROID_KEYS[2]
    half = in_old_layout(demo.head, architecture, np.float16)
    assert half.tensors[TENSORS[architecture]["centroids"]][2] == "f16"
    values = np.asarray(Parts.read(demo.head).metadata[key].value).astype(np.float16)
    rounded = rewrite(demo.head, tmp_path / "rounded.gguf", {key: Entry("[f32]", values)})
    assert drafts(demo.target, saved(half, tmp_path / "half.gguf")) == drafts(demo.target, rounded)


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("centroids", lambda t: None, "centroids.weight is missing"),
        ("token_ordering", lambda t: None, "token_ordering.weight is missing"),
        ("token_ordering", lambda t: (*t[:3], bytes(len(t[3]))), "no permutation of the vocabulary"),
        ("token_ordering", lambda t: (*t[:2], "f32", t[3]), "values of type f32, expected"),
        ("token_ordering", lambda t: (t[0], (t[1][0] - 1,), t[2], t[3][:-4]), "expected .* of type i32"),
        ("centroids", lambda t: (t[0], t[1][::-1], *t[2:]), "expected"),
        ("centroids", lambda t: (*t[:2], "i32", t[3]), "which no kernel multiplies"),
        ("centroids", lambda t: (*t[:3], b"\xff" * len(t[3])), "not finite"),
        ("nextn.pre_projection.weight", lambda t: None, "is missing"),
    ],
)
def test_damaged_old_heads_are_refused(demo, tmp_path: Path, architecture: str, part: str, change, message: str):
    parts = in_old_layout(demo.head, architecture)
    name = TENSORS[architecture][part]
    changed = change(parts.tensors.pop(name))
    if changed is not None:
        parts.tensors[name] = changed
    with pytest.raises(ModelLoadError, match=message):
        Model(demo.target, mtp_head=saved(parts, tmp_path / "old.gguf"), n_ctx=256, n_threads=1)


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("embedding_length_out", None, "is missing"),
        ("masked_embedding.top_k", Entry("u32", 0), "expected 1.."),
        ("masked_embedding.num_centroids", None, "is missing"),
        ("use_ordered_embeddings", Entry("u32", 1), "has type u32, expected bool"),
    ],
)
def test_senseless_old_metadata_is_refused(demo, tmp_path: Path, architecture: str, key: str, entry, message: str):
    parts = in_old_layout(demo.head, architecture)
    name = f"{architecture}.{KEYS[architecture].get(key, key)}"
    del parts.metadata[name]
    if entry is not None:
        parts.metadata[name] = entry
    with pytest.raises(ModelLoadError, match=message):
        Model(demo.target, mtp_head=saved(parts, tmp_path / "old.gguf"), n_ctx=256, n_threads=1)

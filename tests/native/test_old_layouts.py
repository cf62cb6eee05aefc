"""Heads in the older layouts of an assistant's GGUF load and draft as those in the present one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model, ModelLoadError
from pyllama_mtp.convert.quants import decode
from pyllama_mtp.gguf.format import Entry
from pyllama_mtp.gguf.random_weights import write_assistant, write_target
from support.gguf_edit import Parts, edit_tensor, rewrite
from support.old_layouts import KEYS, OLD, PRESENT, TENSORS, in_old_layout, with_numbers_of_centroids
from support.tiny_pairs import SHAPES

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


@pytest.mark.parametrize("architecture", OLD)
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


@pytest.mark.parametrize("architecture", OLD)
def test_a_centroid_head_without_its_tensors_is_refused(demo, tmp_path: Path, architecture: str):
    dense = rewrite(demo.head, tmp_path / "dense.gguf", dict.fromkeys(CENTROID_KEYS))
    old = saved(with_numbers_of_centroids(in_old_layout(dense, architecture), architecture, True), tmp_path / "o")
    with pytest.raises(ModelLoadError, match=f"{TENSORS[architecture]['centroids']} is missing"):
        Model(demo.target, mtp_head=old, n_ctx=256, n_threads=1)


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize("type_name", ["f16", "bf16", "q8_0"])
def test_centroids_may_be_of_any_type(demo, tmp_path: Path, architecture: str, type_name: str):
    """Of the present layout, such a head drafted with its dense head, and nothing said so."""
    key = CENTROID_KEYS[2]
    old = in_old_layout(demo.head, architecture, type_name)
    tensor = old.tensors[TENSORS[architecture]["centroids"]]
    assert tensor[2] == type_name
    values = decode(np.frombuffer(tensor[3], np.uint8), type_name)
    rounded = rewrite(demo.head, tmp_path / "rounded.gguf", {key: Entry("[f32]", values)})
    expected = drafts(demo.target, rounded)
    assert expected[0] > 0 and drafts(demo.target, saved(old, tmp_path / "old.gguf")) == expected


def test_numbers_of_clusters_that_a_file_leaves_out(demo, tmp_path: Path):
    """llama.cpp's converter wrote the two tensors and no keys: all released models score 32 clusters."""
    parts = in_old_layout(demo.head, PRESENT)
    for key in ("n_centroids", "centroid_top_k", "use_ordered_embeddings"):
        del parts.metadata[f"{PRESENT}.{key}"]
    expected = rewrite(demo.head, tmp_path / "head.gguf", {CENTROID_KEYS[1]: Entry("u32", 32)})
    assert drafts(demo.target, saved(parts, tmp_path / "old.gguf")) == drafts(demo.target, expected)


def test_arrays_win_over_tensors(demo, tmp_path: Path):
    both = Parts.read(demo.head)
    both.tensors |= in_old_layout(demo.head, PRESENT).tensors
    name = TENSORS[PRESENT]["token_ordering"]
    both.tensors[name] = (*both.tensors[name][:3], bytes(len(both.tensors[name][3])))  # no permutation
    assert drafts(demo.target, saved(both, tmp_path / "both.gguf")) == drafts(demo.target, demo.head)


@pytest.mark.parametrize("architecture", KEYS)
def test_layer_scales_may_be_missing(demo, tmp_path: Path, architecture: str):
    """Then layers are not scaled."""
    scales = [name for name in Parts.read(demo.head).tensors if "layer_output_scale" in name]
    ones = {name: (name, (1,), "f32", np.ones(1, "<f4").tobytes()) for name in scales}
    expected = drafts(demo.target, rewrite(demo.head, tmp_path / "ones.gguf", tensors=ones))
    parts = in_old_layout(demo.head, architecture)
    for name in scales:
        del parts.tensors[name]
    assert len(scales) > 1 and drafts(demo.target, saved(parts, tmp_path / "old.gguf")) == expected


@pytest.mark.parametrize("architecture", KEYS)
def test_the_targets_embedding_in_a_heads_file_is_left_aside(demo, tmp_path: Path, architecture: str):
    parts, target = in_old_layout(demo.head, architecture), Parts.read(demo.target)
    name = "mtp_input_embd.weight"
    shape, kind, data = target.tensors["token_embd.weight"][1:]
    parts.tensors = {name: (name, shape, kind, data)} | parts.tensors
    assert drafts(demo.target, saved(parts, tmp_path / "old.gguf")) == drafts(demo.target, demo.head)
    parts.tensors[name] = (name, shape[::-1], "f32", bytes(4 * shape[0] * shape[1]))
    with pytest.raises(ModelLoadError, match=f"tensor {name} is .* expected the shape of the target's embedding"):
        drafts(demo.target, saved(parts, tmp_path / "bad.gguf"))


@pytest.mark.parametrize("centroids", [True, False])
@pytest.mark.parametrize("width", [64, 256])
def test_a_dense_head_of_an_edge_shape_is_told(tmp_path: Path, caplog, centroids: bool, width: int):
    """llama.cpp's converter leaves the centroids out: such a head drafts, and a warning tells of the fast one."""
    shape = replace(SHAPES["e2b"], assistant_n_embd=width, n_centroids=16 if centroids else 0)
    target = write_target(tmp_path / "target.gguf", shape, weights="q8_0")
    head = write_assistant(tmp_path / "head.gguf", shape, weights="q8_0")
    with Model(target, mtp_head=head, n_ctx=64, n_threads=1) as model:
        stream = model.generate([5, 6, 7], max_tokens=8, temperature=0, num_speculative_tokens=3)
        stream.text()
        assert stream.stats.drafted > 0 and (model.info.head_n_centroids > 0) == centroids
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("convert the assistant's checkpoint with convert-assistant" in text for text in warnings) == (
        width == 256 and not centroids
    )


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("centroids", lambda t: None, "centroids.weight is missing"),
        ("token_ordering", lambda t: None, "ordering.* is missing"),
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
    if architecture == PRESENT and message == "centroids.weight is missing":
        pytest.skip("it is a dense head then")
    name = TENSORS[architecture].get(part, part)
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
    if architecture == PRESENT and entry is None and "centroids" in key:
        pytest.skip("the tensor tells")
    parts = in_old_layout(demo.head, architecture)
    name = f"{architecture}.{KEYS[architecture].get(key, key)}"
    del parts.metadata[name]
    if entry is not None:
        parts.metadata[name] = entry
    with pytest.raises(ModelLoadError, match=message):
        Model(demo.target, mtp_head=saved(parts, tmp_path / "old.gguf"), n_ctx=256, n_threads=1)

"""convert-assistant with a GGUF file: the older layouts become the present one, or are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import quants as gguf_quants

from pyllama_mtp import ConversionError, Model
from pyllama_mtp.convert import convert_assistant, upgrade_assistant
from pyllama_mtp.convert.assistant import PLAIN_OUTTYPES
from pyllama_mtp.convert.cli import main
from pyllama_mtp.convert.quants import decode, ggml_type
from pyllama_mtp.gguf.format import TENSOR_TYPES, Entry, read_header, tensor_bytes
from pyllama_mtp.gguf.gemma4_checks import WEIGHT_TYPES
from support.checkpoints import config_json, random_tensors, write_checkpoint
from support.gguf_edit import Parts
from support.llama_cpp_peer import complete
from support.old_layouts import KEYS, OLD, PRESENT, TENSORS, in_old_layout, with_numbers_of_centroids

ARCHITECTURES = list(KEYS)
TOKENS = "tokenizer.ggml.tokens"


def saved(parts: Parts, path: Path) -> Path:
    path.write_bytes(parts.to_bytes())
    return path


@pytest.mark.parametrize(("architecture", "centroids"), [*((a, 32) for a in ARCHITECTURES), *((a, 0) for a in OLD)])
@pytest.mark.parametrize("outtype", PLAIN_OUTTYPES)
def test_the_upgrade_gives_the_converters_bytes(tmp_path: Path, architecture: str, centroids: int, outtype: str):
    config = config_json(centroids=centroids)
    folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
    present = convert_assistant(folder, tmp_path / "present.gguf", outtype=outtype)
    old = saved(in_old_layout(present, architecture), tmp_path / "old.gguf")
    assert main([str(old), str(tmp_path / "out.gguf")]) == 0
    assert (tmp_path / "out.gguf").read_bytes() == present.read_bytes()


@pytest.mark.parametrize("architecture", OLD)
@pytest.mark.parametrize("centroids", [0, 32])
def test_a_file_without_rope_factors_gets_the_converters(tmp_path: Path, architecture: str, centroids: int):
    """Published files leave them to the target's; the checkpoint rotates a quarter, as all released ones do."""
    config = config_json(centroids=centroids)
    folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
    present = convert_assistant(folder, tmp_path / "present.gguf")
    factors = np.frombuffer(Parts.read(present).tensors["rope_freqs.weight"][3], "<f4")
    n = len(factors) // 4
    assert n > 0 and (factors[:n] == 1).all() and (factors[n:] == np.float32(1e30)).all()
    parts = in_old_layout(present, architecture)
    del parts.tensors["rope_freqs.weight"]
    out = upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf")
    assert out.read_bytes() == present.read_bytes()


@pytest.mark.parametrize("architecture", OLD)
@pytest.mark.parametrize("ordered", [None, False])
def test_numbers_of_centroids_alone_leave_the_head_dense(tmp_path: Path, architecture: str, ordered: bool | None):
    config = config_json(centroids=0)
    folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
    present = convert_assistant(folder, tmp_path / "present.gguf")
    old = saved(with_numbers_of_centroids(in_old_layout(present, architecture), architecture, ordered), tmp_path / "o")
    assert upgrade_assistant(old, tmp_path / "out.gguf").read_bytes() == present.read_bytes()
    old = saved(with_numbers_of_centroids(in_old_layout(present, architecture), architecture, True), tmp_path / "o")
    with pytest.raises(ConversionError, match=f"lacks tensor {TENSORS[architecture]['centroids']}"):
        upgrade_assistant(old, tmp_path / "ordered.gguf")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_embedded_head_survives_the_way_there_and_back(demo, tmp_path: Path, architecture: str):
    parts = in_old_layout(demo.head, architecture)
    del parts.metadata[f"{architecture}.nextn_predict_layers"]  # the older layouts do not know it
    parts.metadata[f"{architecture}.final_logit_softcapping"] = Entry("f32", 30.0)
    parts.metadata["general.author"] = Entry("string", "someone")
    out = upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf")
    upgraded, original = Parts.read(out), Parts.read(demo.head)
    assert upgraded.tensors == original.tensors
    assert upgraded.metadata.pop("gemma4-assistant.final_logit_softcapping") == Entry("f32", 30.0)
    assert upgraded.metadata.pop("general.author") == Entry("string", "someone")
    assert upgraded.metadata.keys() == original.metadata.keys()
    for key, entry in original.metadata.items():
        assert upgraded.metadata[key].type == entry.type and np.array_equal(upgraded.metadata[key].value, entry.value)


def test_an_upgraded_head_drafts_here_and_in_llama_cpp(demo, tmp_path: Path):
    old = saved(in_old_layout(demo.head, "gemma4_assistant"), tmp_path / "old.gguf")
    head = upgrade_assistant(old, tmp_path / "out.gguf")
    with Model(demo.target, mtp_head=head, n_ctx=256, n_threads=1) as model:
        prompt = model.tokenize("class Stack:\n    def __init__(self):\n")
        stream = model.generate(prompt, max_tokens=32, temperature=0)
        stream.text()
        assert model.info.head_n_centroids > 0 and stream.stats.accepted > 5
    peer = complete(demo.target, head, [prompt], max_tokens=32, k=3)
    assert peer == complete(demo.target, demo.head, [prompt], max_tokens=32, k=3)
    assert peer[0].accepted > 5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("type_name", ["f16", "bf16", "q8_0", "q5_0"])
def test_centroids_of_other_types_become_f32(demo, tmp_path: Path, architecture: str, type_name: str):
    key, name = "gemma4-assistant.masked_embedding.centroids", TENSORS[architecture]["centroids"]
    centroids = read_header(demo.head).metadata[key]
    parts = in_old_layout(demo.head, architecture)
    data = gguf_quants.quantize(centroids, ggml_type(type_name)).tobytes()
    parts.tensors[name] = (name, parts.tensors[name][1], type_name, data)
    written = read_header(upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf"))
    assert written.types[key] == "[f32]"
    assert np.array_equal(written.metadata[key], decode(np.frombuffer(data, np.uint8), type_name))


def test_numbers_of_clusters_that_a_file_leaves_out(demo, tmp_path: Path):
    """llama.cpp's converter wrote the two tensors and no keys: all released models score 32 clusters."""
    parts = in_old_layout(demo.head, PRESENT)
    for key in ("n_centroids", "centroid_top_k", "use_ordered_embeddings"):
        del parts.metadata[f"{PRESENT}.{key}"]
    metadata = read_header(upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf")).metadata
    expected = read_header(demo.head).metadata
    for key, value in expected.items():
        if key.endswith("top_k"):
            assert metadata[key] == min(32, expected[f"{PRESENT}.masked_embedding.num_centroids"])
        else:
            assert np.array_equal(metadata[key], value), key


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_without_layer_scales_and_with_the_targets_embedding(demo, tmp_path: Path, architecture: str):
    """Both were refused. The same bytes whatever the order of sets."""
    parts = in_old_layout(demo.head, architecture)
    scales = [name for name in parts.tensors if "layer_output_scale" in name]
    for name in scales:
        del parts.tensors[name]
    width = read_header(demo.head).metadata["gemma4-assistant.embedding_length_out"]
    add_embedding(width)(parts, architecture)
    upgraded = Parts.read(upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf"))
    original = Parts.read(demo.head)
    assert upgraded.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        data = np.ones(1, "<f4").tobytes() if name in scales else tensor[3]
        assert upgraded.tensors[name] == (*tensor[:3], data)
    assert [name for name in upgraded.tensors if name in scales] == sorted(scales)


@pytest.mark.parametrize("type_name", WEIGHT_TYPES)
def test_weights_of_every_type_are_carried_over(demo, tmp_path: Path, type_name: str):
    """Also of types that the gguf package does not name, as q2_0: it was a KeyError."""
    parts = in_old_layout(demo.head, "gemma4_mtp")
    for key in ("embedding_length", "feed_forward_length"):
        parts.metadata[f"gemma4_mtp.{key}"] = Entry("u32", 256)  # whole blocks of every type
    header = read_header(demo.head).metadata
    width, n_vocab = header[f"{PRESENT}.embedding_length_out"], len(header["tokenizer.ggml.tokens"])
    n_centroids = header[f"{PRESENT}.masked_embedding.num_centroids"]
    for name, (_, shape, kind, _) in list(parts.tensors.items()):
        if len(shape) == 1 and shape != (1,) and "norm" in name and "q_norm" not in name:
            parts.tensors[name] = (name, (256,), "f32", bytes(1024))
        elif len(shape) == 2:
            q = shape[1] if "attn_q" in name else shape[0]
            new = {"attn_q": (256, q), "attn_output": (q, 256), "pre_proj": (2 * width, 256), "post_proj": (256, width)}
            new |= {"token_embd": (256, n_vocab), "centroids": (256, n_centroids), "ffn": (256, 256)}
            shape = next(s for part, s in new.items() if part in name)
            whole = kind == "i32" or "centroids" in name or shape[0] % TENSOR_TYPES[type_name][1]
            kind = "f32" if whole else type_name
            parts.tensors[name] = (name, shape, kind, bytes(tensor_bytes(kind, shape)))
    upgraded = Parts.read(upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf"))
    assert upgraded.tensors["blk.0.ffn_up.weight"] == parts.tensors["blk.0.ffn_up.weight"]
    assert upgraded.tensors["blk.0.ffn_up.weight"][2] == type_name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["[i32]", "[u32]"])
def test_a_pattern_of_integers_becomes_one_of_flags(demo, tmp_path: Path, architecture: str, kind: str):
    """It was carried over as it is, and the head refused."""
    parts = in_old_layout(demo.head, architecture)
    key = "attention.sliding_window_pattern"
    parts.metadata[f"{architecture}.{key}"] = Entry(kind, np.asarray(parts.metadata[f"{architecture}.{key}"].value))
    written = read_header(upgrade_assistant(saved(parts, tmp_path / "old.gguf"), tmp_path / "out.gguf"))
    assert written.types[f"{PRESENT}.{key}"] == "[bool]"
    assert np.array_equal(written.metadata[f"{PRESENT}.{key}"], read_header(demo.head).metadata[f"{PRESENT}.{key}"])


def tensor(part: str, change: Callable) -> Callable[[Parts, str], None]:
    def damage(parts: Parts, architecture: str) -> None:
        name = TENSORS[architecture].get(part, part)
        parts.tensors[name] = change(parts.tensors[name])
        if parts.tensors[name] is None:
            del parts.tensors[name]

    return damage


def value(key: str, entry: Entry | None) -> Callable[[Parts, str], None]:
    def damage(parts: Parts, architecture: str) -> None:
        name = f"{architecture}.{KEYS[architecture].get(key, key)}"
        del parts.metadata[name]
        if entry is not None:
            parts.metadata[name] = entry

    return damage


def add_tensor(parts: Parts, architecture: str) -> None:
    parts.tensors["extra.weight"] = ("extra.weight", (32,), "f32", bytes(128))


def add_embedding(width: int) -> Callable[[Parts, str], None]:
    """The target's, as one converter repeats it in its files."""

    def damage(parts: Parts, architecture: str) -> None:
        shape = (width, parts.tensors["token_embd.weight"][1][1])
        name = "mtp_input_embd.weight"
        parts.tensors = {name: (name, shape, "f32", bytes(4 * shape[0] * shape[1]))} | parts.tensors

    return damage


def rename(parts: Parts, architecture: str) -> None:
    parts.metadata["general.architecture"] = Entry("string", "llama")


def nothing_old(parts: Parts, architecture: str) -> None:
    parts.metadata["general.architecture"] = Entry("string", "gemma4-assistant")


DAMAGES = {
    "no centroids": (tensor("centroids", lambda t: None), "lacks tensor mtp"),
    "no ordering": (tensor("token_ordering", lambda t: None), "lacks tensor m"),
    "no permutation": (tensor("token_ordering", lambda t: (*t[:3], bytes(len(t[3])))), "no permutation"),
    "ordering of floats": (tensor("token_ordering", lambda t: (*t[:2], "f32", t[3])), "expected i32"),
    "centroids transposed": (tensor("centroids", lambda t: (t[0], t[1][::-1], *t[2:])), "has shape"),
    "centroids of a type": (tensor("centroids", lambda t: (*t[:2], "i32", t[3])), "has type i32"),
    "no finite centroids": (tensor("centroids", lambda t: (*t[:3], b"\xff" * len(t[3]))), "not finite"),
    "no finite norm": (tensor("output_norm.weight", lambda t: (*t[:3], b"\xff" * len(t[3]))), "not finite"),
    "no projection": (tensor("nextn.pre_projection.weight", lambda t: None), "lacks tensor nextn.pre_projection"),
    "tokens of a type": (lambda p, a: p.metadata.update({TOKENS: Entry("string", "x")}), "is no list of strings"),
    "another embedding": (add_embedding(31), "mtp_input_embd.weight has shape"),
    "too few factors": (tensor("rope_freqs.weight", lambda t: (t[0], (1,), t[2], t[3][:4])), "has the shape"),
    "unknown tensor": (add_tensor, "unknown tensor extra.weight"),
    "another width": (value("embedding_length_out", Entry("u32", 77)), "nextn.*|proj.*has shape"),
    "no width": (value("embedding_length_out", None), "is missing"),
    "flag of a type": (value("use_ordered_embeddings", Entry("u32", 1)), "expected a boolean"),
    "no such number": (value("masked_embedding.num_centroids", Entry("u32", 7)), "do not divide"),
    "another model": (rename, "expected an MTP head of the layout gemma4_assistant or gemma4_mtp"),
    "present layout": (nothing_old, "already: use it as it is"),
}


@pytest.mark.parametrize(
    ("architecture", "damage"),
    [(a, d) for a in ARCHITECTURES for d in DAMAGES if a != PRESENT or d not in ("no centroids", "present layout")],
)
def test_what_is_not_right_is_refused(demo, tmp_path: Path, capsys, architecture: str, damage: str):
    change, message = DAMAGES[damage]
    parts = in_old_layout(demo.head, architecture)
    change(parts, architecture)
    old = saved(parts, tmp_path / "old.gguf")
    with pytest.raises(ConversionError, match=message):
        upgrade_assistant(old, tmp_path / "out.gguf")
    assert main([str(old), str(tmp_path / "out.gguf")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [old]


def test_other_files_and_destinations_are_refused(demo, tmp_path: Path, capsys):
    old = saved(in_old_layout(demo.head, "gemma4_mtp"), tmp_path / "old.gguf")
    data = old.read_bytes()
    with pytest.raises(ConversionError, match="would be overwritten"):
        upgrade_assistant(old, old)
    with pytest.raises(ConversionError, match="cannot write .*: it is a folder"):
        upgrade_assistant(old, tmp_path)
    with pytest.raises(ConversionError, match="cannot write"):
        upgrade_assistant(old, tmp_path / "nowhere" / "out.gguf")
    assert old.read_bytes() == data
    old.write_bytes(data[:-100])
    with pytest.raises(ConversionError, match="is not a valid GGUF file"):
        upgrade_assistant(old, tmp_path / "out.gguf")
    with pytest.raises(ConversionError, match="cannot read"):
        upgrade_assistant(tmp_path / "missing.gguf", tmp_path / "out.gguf")
    with pytest.raises(SystemExit) as usage:
        main([str(old), str(tmp_path / "out.gguf"), "--outtype", "f16"])
    assert usage.value.code == 2 and "keep their types" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [old]

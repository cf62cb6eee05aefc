"""What a checkpoint or an old head says reaches the converter's messages in one line, and cut: names, types, numbers
and lists of any length, with control sequences of a terminal in them.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import ConversionError
from pyllama_mtp.convert import convert_assistant, upgrade_assistant
from pyllama_mtp.convert.checkpoint import open_checkpoint
from pyllama_mtp.gguf.format import Entry
from support.checkpoints import config_json, random_tensors, safetensors_bytes, write_checkpoint
from support.old_layouts import in_old_layout

EVIL = "\x1b[2J\r\nERROR: forged\u202e"
LONG = EVIL * 100_000
INDEX = "model.safetensors.index.json"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path / "assistant", config, random_tensors(config))


def refused(call) -> str:
    with pytest.raises(ConversionError) as error:
        call()
    message = str(error.value)
    assert message.isprintable() and len(message) < 1500, len(message)
    return message


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def put(*keys, value):
    def change(config: dict) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


FULL_ROPE = ("text_config", "rope_parameters", "full_attention")


@pytest.mark.parametrize("value", [EVIL, LONG, [LONG], {LONG: LONG}, 10**4000, [[[]]] * 10**5], ids=lambda v: type(v))
@pytest.mark.parametrize(
    "keys",
    [
        ("architectures",),
        ("text_config", "layer_types"),
        ("text_config", "hidden_size"),
        ("text_config", "hidden_activation"),
        ("text_config", "rms_norm_eps"),
        ("text_config", "num_kv_shared_layers"),
        ("text_config", "global_head_dim"),
        (*FULL_ROPE, "rope_type"),
        (*FULL_ROPE, "factor"),
        (*FULL_ROPE, "rope_theta"),
        ("num_centroids",),
    ],
)
def test_configurations(checkpoint: Path, tmp_path: Path, keys: tuple[str, ...], value: object):
    edit(checkpoint / "config.json", put(*keys, value=value))
    message = refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))
    assert keys[-1] in message or "factor" in message


def test_entries_of_lists(checkpoint: Path, tmp_path: Path):
    def both(config: dict) -> None:
        config["text_config"]["layer_types"] = [LONG] * 4
        del config["text_config"]["global_head_dim"]
        config["text_config"]["per_layer_config"] = {LONG: LONG}

    edit(checkpoint / "config.json", both)
    assert "layer_types" in refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))
    edit(checkpoint / "config.json", put("text_config", "layer_types", value=["full_attention"] * 4))
    assert "per_layer_config" in refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("tokenizer.json", put("model", "vocab", value={LONG: -1}), "the id -1"),
        ("tokenizer.json", put("model", "vocab", value={"a": LONG}), "gives token"),
        ("tokenizer.json", put("model", "merges", value=[LONG, [LONG]]), "has the merge"),
        ("tokenizer_config.json", put("bos_token", value=LONG), "the vocabulary lacks"),
        ("tokenizer_config.json", put("bos_token", value=[LONG]), "the vocabulary lacks"),
    ],
)
def test_tokenizers(checkpoint: Path, tmp_path: Path, name: str, change, expected: str):
    edit(checkpoint / name, change)
    assert expected in refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": LONG, "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [LONG], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 10**6, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1 << 62] * 10**5, "data_offsets": [0, 4]},
        LONG,
    ],
    ids=["dtype", "shape of text", "wrong size", "overflow", "no entry"],
)
@pytest.mark.parametrize("name", [EVIL, LONG], ids=["escapes", "long"])
def test_headers(tmp_path: Path, name: str, entry: object):
    header = json.dumps({name: entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "not a valid safetensors file" in refused(lambda: open_checkpoint(tmp_path))


def test_tensors(checkpoint: Path, tmp_path: Path):
    """Valid files: a name, a dtype and a shape that no checkpoint has."""
    tensors = random_tensors(config_json())
    (checkpoint / "model.safetensors").write_bytes(safetensors_bytes(tensors | {LONG: np.zeros(1, np.float32)}))
    assert "unknown tensor" in refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))
    tensors["model.norm.weight"] = np.zeros((1,) * 30 + (2,), np.float32)
    (checkpoint / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    assert "has shape [1, 1" in refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))


@pytest.mark.parametrize(
    "weight_map",
    [
        {"model.norm.weight": LONG},
        {"model.norm.weight": EVIL + ".safetensors"},
        {"model.norm.weight": "x" * 255 + ".safetensors"},
        {LONG: "a.safetensors"},
        {"a": "a.safetensors", LONG: LONG},
        LONG,
    ],
    ids=range(6),
)
def test_indices(tmp_path: Path, weight_map: object):
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes({"a": np.zeros(1, np.float32)}))
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(lambda: open_checkpoint(tmp_path))


def test_files_of_evil_names(tmp_path: Path):
    (tmp_path / f"model.{EVIL}.safetensors").write_bytes(b"nothing")
    refused(lambda: open_checkpoint(tmp_path))
    (tmp_path / "model.other.safetensors").write_bytes(b"nothing")
    assert "several models" in refused(lambda: open_checkpoint(tmp_path))


@pytest.mark.parametrize("architecture", ["gemma4_assistant", "gemma4_mtp"])
def test_old_heads(demo, tmp_path: Path, architecture: str):
    old, out = tmp_path / f"old{EVIL.replace('/', '')}.gguf", tmp_path / "out.gguf"
    parts = in_old_layout(demo.head, architecture)
    parts.tensors[EVIL] = (EVIL, (32,), "f32", bytes(128))
    old.write_bytes(parts.to_bytes())
    assert "unknown tensor" in refused(lambda: upgrade_assistant(old, out))
    for key, entry in (
        ("general.architecture", Entry("string", LONG)),
        (f"{architecture}.use_ordered_embeddings", Entry("string", LONG)),
        (f"{architecture}.block_count", Entry("[i32]", [5] * 10**5)),
        (f"{architecture}.feed_forward_length", Entry("[i32]", [5] * 10**5)),
    ):
        parts = in_old_layout(demo.head, architecture)
        parts.metadata[key] = entry
        old.write_bytes(parts.to_bytes())
        refused(lambda: upgrade_assistant(old, out))
    old.write_bytes(b"GGUF" + EVIL.encode() * 10)
    refused(lambda: upgrade_assistant(old, out))
    assert not out.exists()


def test_a_tensor_that_fits_no_memory_is_told(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_memory(*_) -> None:
        raise MemoryError

    monkeypatch.setattr("pyllama_mtp.convert.assistant.encode", no_memory)
    assert "does not fit into memory" in refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))
    assert [path.name for path in tmp_path.iterdir()] == ["assistant"]


def test_a_vocabulary_that_only_config_json_has_costs_nothing(checkpoint: Path, tmp_path: Path):
    """A sparse file of the embedding's size costs its maker nothing: no list of the vocabulary's size is made."""
    n_vocab = 1 << 30
    edit(checkpoint / "config.json", put("text_config", "vocab_size", value=n_vocab))
    edit(checkpoint / "config.json", put("use_ordered_embeddings", value=False))
    tensors = random_tensors(config_json(centroids=0))
    embedding = tensors.pop("model.embed_tokens.weight")
    data = safetensors_bytes(tensors)
    n = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    end = len(body) + 2 * n_vocab * embedding.shape[1]
    header["model.embed_tokens.weight"] = {
        "dtype": "F16",
        "shape": [n_vocab, embedding.shape[1]],
        "data_offsets": [len(body), end],
    }
    text = json.dumps(header).encode()
    with open(checkpoint / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + body)
        file.truncate(8 + len(text) + end)
    message = refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))
    assert f"has 512 tokens, the embedding {n_vocab} rows: id 512 has no token" in message


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("loop", "cannot read .*symbolic links"),
        ("far", "is a link that leads nowhere"),
        ("none", "is missing"),
        ("pipe", "is not a folder"),
        ("file", "is not a folder"),
        ("file/below", "cannot read .*Not a directory"),
        ("x" * 300, "cannot read .*File name too long"),
        ("a\0b", "cannot read .*null"),
    ],
    ids=ascii,
)
def test_sources_that_are_no_folder(tmp_path: Path, name: str, cause: str):
    """All but pipes and files were called missing."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "far").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert re.search(cause, refused(lambda: convert_assistant(tmp_path / name, tmp_path / "out.gguf")))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize(("to", "cause"), [("nowhere", "is a link that leads nowhere"), (None, "symbolic links")])
def test_links_in_a_checkpoint(checkpoint: Path, tmp_path: Path, name: str, to: str | None, cause: str):
    """A file whose link had lost its target, as in a cache that was cleaned, was called missing."""
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to(to or name)
    message = refused(lambda: convert_assistant(checkpoint, tmp_path / "out.gguf"))
    assert name in message and cause in message

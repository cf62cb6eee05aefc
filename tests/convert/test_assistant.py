"""convert-assistant: what it writes, and what it refuses."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from pyllama_mtp import ConversionError
from pyllama_mtp.convert import convert_assistant
from pyllama_mtp.convert.assistant import PLAIN_OUTTYPES
from pyllama_mtp.convert.cli import main
from pyllama_mtp.convert.config import CENTROIDS, TOKEN_ORDERING, read_config
from pyllama_mtp.gguf.format import read_header
from support.checkpoints import N_VOCAB, config_json, random_tensors, safetensors_bytes, write_checkpoint

KEYS = """general.architecture general.type general.name general.file_type general.quantization_version
gemma4-assistant.block_count gemma4-assistant.context_length gemma4-assistant.embedding_length
gemma4-assistant.feed_forward_length gemma4-assistant.attention.head_count gemma4-assistant.attention.head_count_kv
gemma4-assistant.rope.freq_base gemma4-assistant.rope.freq_base_swa gemma4-assistant.attention.layer_norm_rms_epsilon
gemma4-assistant.attention.key_length gemma4-assistant.attention.value_length gemma4-assistant.attention.sliding_window
gemma4-assistant.attention.shared_kv_layers gemma4-assistant.embedding_length_per_layer_input
gemma4-assistant.attention.sliding_window_pattern gemma4-assistant.attention.key_length_swa
gemma4-assistant.attention.value_length_swa gemma4-assistant.rope.dimension_count
gemma4-assistant.rope.dimension_count_swa gemma4-assistant.embedding_length_out gemma4-assistant.nextn_predict_layers
tokenizer.ggml.model tokenizer.ggml.tokens tokenizer.ggml.scores tokenizer.ggml.token_type tokenizer.ggml.merges
tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.unknown_token_id
tokenizer.ggml.padding_token_id tokenizer.ggml.add_bos_token tokenizer.ggml.add_sep_token tokenizer.chat_template
tokenizer.ggml.add_space_prefix""".split()
CENTROID_KEYS = [
    f"gemma4-assistant.masked_embedding.{k}" for k in ("num_centroids", "top_k", "centroids", "token_ordering")
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path / "assistant", config, random_tensors(config))


def tensor_data(path: Path, name: str) -> bytes:
    info = read_header(path).tensors[name]
    return path.read_bytes()[info.offset : info.offset + info.n_bytes]


def edit_json(path: Path, edit) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("centroids", [0, 32])
def test_the_file_has_the_portable_layout(tmp_path: Path, centroids: int):
    config = config_json(centroids=centroids)
    tensors = random_tensors(config)
    folder = write_checkpoint(tmp_path / "assistant", config, tensors, dtype="F32")
    gguf = read_header(convert_assistant(folder, tmp_path / "out.gguf", outtype="f32"))
    assert set(gguf.metadata) == set(KEYS) | set(CENTROID_KEYS if centroids else [])
    assert gguf.architecture == "gemma4-assistant"
    assert gguf.metadata["gemma4-assistant.attention.key_length"] == 64
    assert gguf.metadata["gemma4-assistant.attention.key_length_swa"] == 32
    assert gguf.metadata["gemma4-assistant.attention.sliding_window_pattern"].tolist() == [True, True, True, False]
    assert gguf.metadata["gemma4-assistant.embedding_length_out"] == 96
    assert gguf.metadata["tokenizer.ggml.bos_token_id"] == 2
    assert len(gguf.metadata["tokenizer.ggml.tokens"]) == N_VOCAB
    assert gguf.metadata["tokenizer.ggml.tokens"][2] == "<bos>"
    assert gguf.metadata["tokenizer.ggml.token_type"][[2, 8, 300]].tolist() == [3, 6, 1]
    specs = read_config(config).tensors()
    assert set(gguf.tensors) == {s.gguf_name for s in specs.values()} | {"rope_freqs.weight"}
    for name, spec in specs.items():
        assert gguf.tensors[spec.gguf_name].shape == spec.shape[::-1]
        assert tensor_data(gguf.path, spec.gguf_name) == tensors[name].tobytes()
    factors = np.frombuffer(tensor_data(gguf.path, "rope_freqs.weight"), "<f4")
    assert factors.tolist() == [1.0] * 8 + [np.float32(1e30)] * 24
    if centroids:
        assert gguf.metadata[CENTROID_KEYS[0]] == 32 and gguf.metadata[CENTROID_KEYS[1]] == 4
        np.testing.assert_array_equal(gguf.metadata[CENTROID_KEYS[2]], tensors[CENTROIDS].ravel())
        np.testing.assert_array_equal(gguf.metadata[CENTROID_KEYS[3]], tensors[TOKEN_ORDERING])


def test_rendered_markers_are_user_defined_tokens(checkpoint: Path, tmp_path: Path):
    """Otherwise a chat parser cannot see where a channel or a tool call begins."""

    def add_marker(tokenizer: dict) -> None:
        vocab = tokenizer["model"]["vocab"]
        index = vocab.pop("\u2581w0")
        vocab["<|channel>"] = index
        tokenizer["added_tokens"].append({"id": index, "content": "<|channel>", "special": True})

    edit_json(checkpoint / "tokenizer.json", add_marker)
    metadata = read_header(convert_assistant(checkpoint, tmp_path / "out.gguf")).metadata
    index = list(metadata["tokenizer.ggml.tokens"]).index("<|channel>")
    assert metadata["tokenizer.ggml.token_type"][index] == 4


@pytest.mark.parametrize("outtype", PLAIN_OUTTYPES)
def test_outtypes(checkpoint: Path, tmp_path: Path, outtype: str):
    gguf = read_header(convert_assistant(checkpoint, tmp_path / "out.gguf", outtype=outtype))
    types = {name: info.type for name, info in gguf.tensors.items()}
    assert types["token_embd.weight"] == types["blk.0.ffn_up.weight"] == outtype
    assert all(kind == "f32" for name, kind in types.items() if "norm" in name or "scale" in name or "freqs" in name)


@pytest.mark.parametrize(("outtype", "bits"), [("q8_0", 8), ("q4_0", 4)])
def test_quantised_values_are_close(tmp_path: Path, outtype: str, bits: int):
    config = config_json()
    tensors = random_tensors(config)
    folder = write_checkpoint(tmp_path / "assistant", config, tensors, dtype="F32")
    out = convert_assistant(folder, tmp_path / "out.gguf", outtype=outtype)
    blocks = np.frombuffer(tensor_data(out, "blk.0.attn_q.weight"), np.uint8).reshape(-1, 2 + 4 * bits)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if bits == 8:
        values = blocks[:, 2:].view(np.int8) * scale
    else:
        values = (np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32) - 8) * scale
    original = tensors["model.layers.0.self_attn.q_proj.weight"].reshape(-1, 32)
    assert np.abs(values - original).max() <= np.abs(original).max() / (2 ** (bits - 1)) * 1.01


def test_rows_that_are_no_whole_blocks_stay_f16_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = config_json(centroids=0)
    config["text_config"]["intermediate_size"] = 100
    folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
    gguf = read_header(convert_assistant(folder, tmp_path / "out.gguf", outtype="q8_0"))
    assert gguf.tensors["blk.0.ffn_down.weight"].type == "f16"
    assert "down_proj" in caplog.text and "f16" in caplog.text


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_dtypes_and_shards_give_the_same_values(tmp_path: Path, dtype: str, shards: int):
    config = config_json()
    tensors = {
        n: x if x.dtype.kind == "i" else x.astype(ml_dtypes.bfloat16).astype(np.float32)
        for n, x in random_tensors(config).items()
    }
    # values that f16 holds too
    tensors = {n: x if x.dtype.kind == "i" else np.clip(x, -4, 4) for n, x in tensors.items()}
    expected = write_checkpoint(tmp_path / "a" / "assistant", config, tensors, dtype="F32")
    folder = write_checkpoint(tmp_path / "b" / "assistant", config, tensors, dtype=dtype, shards=shards)
    a = convert_assistant(expected, tmp_path / "a.gguf", outtype="bf16").read_bytes()
    b = convert_assistant(folder, tmp_path / "b.gguf", outtype="bf16").read_bytes()
    assert a == b or dtype == "F16"
    if dtype == "F16":  # subnormal f16 numbers are coarser than bf16
        x = np.frombuffer(tensor_data(tmp_path / "b.gguf", "token_embd.weight"), ml_dtypes.bfloat16)
        np.testing.assert_allclose(
            x.astype(np.float32), tensors["model.embed_tokens.weight"].ravel(), rtol=0.01, atol=1e-6
        )


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Path, tmp_path: Path):
    a = convert_assistant(checkpoint, tmp_path / "a.gguf", outtype="q4_0")
    b = convert_assistant(checkpoint, tmp_path / "b.gguf", outtype="q4_0")
    assert a.read_bytes() == b.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "assistant", "b.gguf"]


def test_an_existing_file_is_replaced_only_by_a_complete_one(checkpoint: Path, tmp_path: Path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"the previous file")
    edit_json(checkpoint / "config.json", lambda c: c.update(num_centroids=7))
    with pytest.raises(ConversionError):
        convert_assistant(checkpoint, out)
    assert out.read_bytes() == b"the previous file"


def test_a_checkpoint_of_transformers_converts(tmp_path: Path):
    from support.random_pairs import make_pair

    pair = make_pair("e2b", tmp_path)
    gguf = read_header(convert_assistant(pair.assistant_dir, tmp_path / "out.gguf", outtype="f32"))
    expected = pair.assistant.pre_projection.weight.detach().numpy()
    assert tensor_data(gguf.path, "nextn.pre_projection.weight") == expected.tobytes()


def test_a_unified_assistant_converts(tmp_path: Path):
    config = config_json(centroids=0, architecture="Gemma4UnifiedAssistantForCausalLM")
    folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
    assert read_header(convert_assistant(folder, tmp_path / "out.gguf")).architecture == "gemma4-assistant"


def drop_tensor(folder: Path, tensors: dict) -> None:
    del tensors["model.norm.weight"]


def add_tensor(folder: Path, tensors: dict) -> None:
    tensors["model.layers.9.self_attn.q_proj.weight"] = np.zeros((4, 4), np.float32)


def reshape_tensor(folder: Path, tensors: dict) -> None:
    tensors["model.norm.weight"] = np.zeros(63, np.float32)


def put_nan(folder: Path, tensors: dict) -> None:
    tensors["model.layers.2.mlp.up_proj.weight"][3, 5] = np.nan


def put_infinity_into_centroids(folder: Path, tensors: dict) -> None:
    tensors[CENTROIDS][0, 0] = np.inf


def repeat_token(folder: Path, tensors: dict) -> None:
    tensors[TOKEN_ORDERING][0] = tensors[TOKEN_ORDERING][1]


def other_lm_head(folder: Path, tensors: dict) -> None:
    tensors["lm_head.weight"] = np.ones((N_VOCAB, 64), np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_tensor, "lacks tensor model.norm.weight"),
        (add_tensor, "unknown tensor model.layers.9"),
        (reshape_tensor, r"shape \[63\], expected \[64\]"),
        (put_nan, "up_proj.weight holds values that are not finite"),
        (put_infinity_into_centroids, "centroids.weight holds values that are not finite"),
        (repeat_token, "no permutation"),
        (other_lm_head, "lm_head.weight differs from the embedding"),
    ],
)
def test_damaged_tensors_are_refused(tmp_path: Path, damage, message: str):
    config = config_json()
    tensors = random_tensors(config)
    damage(tmp_path, tensors)
    refuse(write_checkpoint(tmp_path / "assistant", config, tensors), tmp_path, message)


def refuse(folder: Path, tmp_path: Path, message: str, outtype: str = "f16") -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConversionError, match=message):
        convert_assistant(folder, tmp_path / "out.gguf", outtype=outtype)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(architectures=["LlamaForCausalLM"]), "LlamaForCausalLM"),
        (lambda c: c.update(num_centroids=7), "7 centroids do not divide"),
        (lambda c: c.update(num_centroids="32"), "num_centroids"),
        (lambda c: c.update(centroid_intermediate_top_k=33), "centroid_intermediate_top_k"),
        (lambda c: c.pop("text_config"), "text_config"),
        (lambda c: c["text_config"].update(hidden_size=-1), "hidden_size"),
        (lambda c: c["text_config"].update(hidden_size=True), "hidden_size"),
        (lambda c: c["text_config"].update(layer_types=["linear_attention"] * 4), "layer_types"),
        (lambda c: c["text_config"].update(num_hidden_layers=5), "layer_types"),
        (lambda c: c["text_config"].update(rms_norm_eps=0), "rms_norm_eps"),
        (lambda c: c["text_config"]["rope_parameters"].pop("full_attention"), "rope_parameters"),
        (lambda c: c["text_config"]["rope_parameters"]["full_attention"].pop("rope_theta"), "rope_theta .* is missing"),
        (lambda c: c["text_config"]["rope_parameters"]["sliding_attention"].update(factor=8.0), "factor .* expected 1"),
        (lambda c: c["text_config"].update(vocab_size=1024), "embed_tokens"),
        (lambda c: c["text_config"].update(layer_types=[[], {}, 1, None]), "layer_types"),
        (lambda c: c["text_config"].update(num_kv_shared_layers="4"), "num_kv_shared_layers"),
        (lambda c: c["text_config"]["rope_parameters"]["full_attention"].update(partial_rotary_factor=2), "partial"),
        (lambda c: c.update(architectures=[{}]), "architecture"),
        (lambda c: c["text_config"].update(hidden_activation="silu"), "hidden_activation"),
        (lambda c: c["text_config"]["rope_parameters"]["sliding_attention"].update(rope_type="linear"), "'linear'"),
    ],
)
def test_other_configurations_are_refused(checkpoint: Path, tmp_path: Path, edit, message: str):
    edit_json(checkpoint / "config.json", edit)
    refuse(checkpoint, tmp_path, message)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b"\xff\xfe"])
def test_missing_and_malformed_files_are_refused(checkpoint: Path, tmp_path: Path, name: str, content: bytes | None):
    (checkpoint / name).unlink()
    if content is not None:
        (checkpoint / name).write_bytes(content)
    refuse(checkpoint, tmp_path, "safetensors" if name == "model.safetensors" else name)


def test_a_vocabulary_of_another_size_is_refused(checkpoint: Path, tmp_path: Path):
    edit_json(checkpoint / "tokenizer.json", lambda t: t["model"]["vocab"].pop("\u2581w5"))
    refuse(checkpoint, tmp_path, "has no token")


NONSENSE = (None, True, -1, 0, 3, 1 << 70, 1e400, 0.5, "", "x", "\ud800", [], [[]], [None], {}, {"": {}})


def places(value, path=()):
    """The path of every value inside a JSON value, the first few of a long container."""
    for key in list(value if isinstance(value, dict) else range(len(value)))[:12]:
        yield (*path, key)
        if isinstance(value[key], dict | list):
            yield from places(value[key], (*path, key))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_nonsense_anywhere_in_the_json_is_refused_or_harmless(checkpoint: Path, tmp_path: Path, name: str):
    original = json.loads((checkpoint / name).read_text())
    refused = 0
    for path, nonsense in itertools.product(places(original), NONSENSE):
        damaged = json.loads(json.dumps(original))
        inner = damaged
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = nonsense
        (checkpoint / name).write_text(json.dumps(damaged))
        try:
            convert_assistant(checkpoint, tmp_path / "out.gguf", outtype="q8_0")
        except ConversionError:
            refused += 1
    assert refused > 30
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_pickle_checkpoint_is_named(checkpoint: Path, tmp_path: Path):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    refuse(checkpoint, tmp_path, "pickle checkpoint pytorch_model.bin")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin"])
def test_an_index_cannot_leave_the_folder(checkpoint: Path, tmp_path: Path, shard: str):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    refuse(checkpoint, tmp_path, "in the same folder")


def header_of(data: bytes) -> tuple[dict, bytes]:
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def with_header(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def move(offset: int):
    def edit(header: dict) -> None:
        entry = header["model.norm.weight"]
        entry["data_offsets"] = [x + offset for x in entry["data_offsets"]]

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        move(2),
        move(-2),
        move(1 << 40),
        lambda h: h["model.norm.weight"].update(dtype="F64"),
        lambda h: h["model.norm.weight"].update(dtype="F99"),
        lambda h: h["model.norm.weight"].update(dtype=[]),
        lambda h: h["model.norm.weight"].update(dtype={}),
        lambda h: h["model.norm.weight"].update(shape=[-64]),
        lambda h: h["model.norm.weight"].update(shape=[2**63]),
        lambda h: h["model.norm.weight"].update(shape="64"),
        lambda h: h.update(empty={"dtype": "F32", "shape": [1 << 63, 1 << 63], "data_offsets": [0, 0]}),
        lambda h: h["model.norm.weight"].update(data_offsets=[0]),
        lambda h: h.update({"model.norm.weight": 3}),
    ],
)
def test_malformed_safetensors_are_refused(checkpoint: Path, tmp_path: Path, edit):
    header, data = header_of((checkpoint / "model.safetensors").read_bytes())
    edit(header)
    (checkpoint / "model.safetensors").write_bytes(with_header(header, data))
    refuse(checkpoint, tmp_path, "not a valid safetensors file")


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -1000])
def test_truncated_safetensors_are_refused(checkpoint: Path, tmp_path: Path, size: int):
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[:size])
    refuse(checkpoint, tmp_path, "not a valid safetensors file")


def test_a_huge_header_length_is_refused(checkpoint: Path, tmp_path: Path):
    (checkpoint / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    refuse(checkpoint, tmp_path, "not a valid safetensors file: .*too large")


def test_a_dtype_that_is_not_supported_is_called_that(checkpoint: Path, tmp_path: Path):
    """It was called no valid safetensors file."""
    header, data = header_of((checkpoint / "model.safetensors").read_bytes())
    header["model.norm.weight"]["dtype"] = "U16"
    (checkpoint / "model.safetensors").write_bytes(with_header(header, data))
    refuse(checkpoint, tmp_path, "model.norm.weight has the dtype U16, which is not supported: expected F32 or F16 or")


def test_values_beyond_f16_are_refused_for_f16(tmp_path: Path):
    config = config_json()
    tensors = random_tensors(config)
    tensors["pre_projection.weight"][0, 0] = 1e5
    folder = write_checkpoint(tmp_path / "assistant", config, tensors)
    refuse(folder, tmp_path, "--outtype bf16")
    convert_assistant(folder, tmp_path / "out.gguf", outtype="bf16")


def test_scales_beyond_f16_are_refused_for_block_types(tmp_path: Path):
    config = config_json()
    tensors = random_tensors(config)
    tensors["pre_projection.weight"][0, 0] = 1e6
    folder = write_checkpoint(tmp_path / "assistant", config, tensors)
    refuse(folder, tmp_path, "which q4_0 cannot hold", outtype="q4_0")
    convert_assistant(folder, tmp_path / "out.gguf", outtype="q8_0")


def test_an_unwritable_destination_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(ConversionError, match="cannot write"):
        convert_assistant(checkpoint, tmp_path / "no" / "such" / "folder" / "out.gguf")
    if Path("/dev/full").exists():
        with pytest.raises(ConversionError, match="cannot write"):
            convert_assistant(checkpoint, Path("/proc/out.gguf"))


@pytest.mark.parametrize("name", ["folder", "nul\0", "long" * 100])
def test_a_destination_that_is_no_file_name_is_refused(checkpoint: Path, tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConversionError, match="it is a folder|holds a NUL|cannot write .* name too long"):
        convert_assistant(checkpoint, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("linked", [False, True])
def test_the_checkpoint_itself_is_never_overwritten(checkpoint: Path, tmp_path: Path, name: str, linked: bool):
    out = checkpoint / name
    before = out.read_bytes()
    if linked:
        out = tmp_path / "out.gguf"
        out.symlink_to(checkpoint / name)
    with pytest.raises(ConversionError, match="part of the checkpoint"):
        convert_assistant(checkpoint, out)
    assert (checkpoint / name).read_bytes() == before


class TestCommand:
    def test_success(self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert main([str(checkpoint), str(tmp_path / "out.gguf"), "--outtype", "q8_0"]) == 0
        assert "out.gguf" in capsys.readouterr().out

    def test_a_refusal_is_one_line_and_status_1(self, checkpoint: Path, tmp_path: Path):
        (checkpoint / "config.json").unlink()
        done = subprocess.run(
            [sys.executable, "-m", "pyllama_mtp.convert.cli", str(checkpoint), str(tmp_path / "out.gguf")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and "config.json is missing" in done.stderr

    def test_a_name_out_of_the_checkpoint_cannot_break_the_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        config = config_json()
        tensors = random_tensors(config) | {"two\nlines\x1b[31m": np.zeros(4, np.float32)}
        folder = write_checkpoint(tmp_path / "assistant", config, tensors)
        assert main([str(folder), str(tmp_path / "out.gguf")]) == 1
        assert "unknown tensor two\\nlines\\x1b[31m" in capsys.readouterr().err

    def test_usage_is_status_2(self, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(SystemExit) as stop:
            main(["only-one-argument"])
        assert stop.value.code == 2

    def test_transformers_is_not_imported(self, checkpoint: Path, tmp_path: Path):
        code = (
            "import sys; from pyllama_mtp.convert import convert_assistant as c; "
            f"c({str(checkpoint)!r}, {str(tmp_path / 'out.gguf')!r}); "
            "assert not {'transformers', 'torch'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_raw_safetensors_helper_round_trips(tmp_path: Path):
    """The tests' own writer is read by the safetensors package alike."""
    from safetensors.numpy import load

    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    np.testing.assert_array_equal(load(safetensors_bytes(tensors, "F32"))["a"], tensors["a"])

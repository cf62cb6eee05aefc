"""Checkpoints that transformers and llama.cpp's converter take, in other forms than the published ones: converted to
the same bytes. They were refused.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import ConversionError, Model
from pyllama_mtp.convert import convert_assistant
from pyllama_mtp.convert.assistant import OUTTYPES
from pyllama_mtp.convert.config import read_config
from pyllama_mtp.gguf import checks
from pyllama_mtp.gguf.format import read_header
from support.checkpoints import config_json, random_tensors, safetensors_bytes, write_checkpoint, write_tokenizer
from support.tiny_pairs import SHAPES, write_tiny_pair

INDEX = "model.safetensors.index.json"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path / "assistant", config, random_tensors(config))


def converted(folder: Path, tmp_path: Path, outtype: str = "q8_0") -> bytes:
    return convert_assistant(folder, tmp_path / "out.gguf", outtype=outtype).read_bytes()


def split(folder: Path, names: list[str]) -> None:
    """The checkpoint's tensors in files of these names, without an index."""
    (folder / "model.safetensors").unlink()
    tensors = random_tensors(config_json())
    for i, name in enumerate(names):
        part = {n: tensors[n] for n in [*tensors][i :: len(names)]}
        (folder / name).write_bytes(safetensors_bytes(part))


@pytest.mark.parametrize(
    "names",
    [
        ["model-00001-of-00001.safetensors"],
        ["model.fp16.safetensors"],
        ["model.fp16-00001-of-00001.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ],
)
def test_files_without_an_index(checkpoint: Path, tmp_path: Path, names: list[str]):
    expected = converted(checkpoint, tmp_path)
    split(checkpoint, names)
    assert converted(checkpoint, tmp_path) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"], "holds 2 of the 3 files"),
        (["model.fp16.safetensors", "model.bf16.safetensors"], "holds several models"),
        (["model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors"], "holds several models"),
        (["models.safetensors"], "holds neither"),
    ],
)
def test_files_that_are_not_one_model(checkpoint: Path, tmp_path: Path, names: list[str], message: str):
    split(checkpoint, names)
    with pytest.raises(ConversionError, match=message):
        converted(checkpoint, tmp_path)


def test_a_tensor_in_two_files(checkpoint: Path, tmp_path: Path):
    split(checkpoint, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    (checkpoint / "model-00002-of-00002.safetensors").write_bytes(
        (checkpoint / "model-00001-of-00002.safetensors").read_bytes()
    )
    with pytest.raises(ConversionError, match="model-00002-of-00002.safetensors repeats tensor"):
        converted(checkpoint, tmp_path)


def test_scalars_without_dimensions(checkpoint: Path, tmp_path: Path):
    expected = converted(checkpoint, tmp_path)
    tensors = {n: x.reshape(()) if n.endswith("layer_scalar") else x for n, x in random_tensors(config_json()).items()}
    assert sum(x.ndim == 0 for x in tensors.values()) == 4
    (checkpoint / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    assert converted(checkpoint, tmp_path) == expected


@pytest.mark.parametrize("outtype", ["f32", "q4_0"])
def test_f64_weights(tmp_path: Path, outtype: str):
    config = config_json()
    tensors = random_tensors(config)
    single = write_checkpoint(tmp_path / "f32" / "assistant", config, tensors, dtype="F32")
    double = write_checkpoint(tmp_path / "f64" / "assistant", config, tensors, dtype="F64")
    assert converted(double, tmp_path, outtype) == converted(single, tmp_path, outtype)
    tensors["pre_projection.weight"] = tensors["pre_projection.weight"].astype(np.float64)
    tensors["pre_projection.weight"][0, 0] = 1e39
    write_checkpoint(double, config, tensors, dtype="F64")
    with pytest.raises(ConversionError, match=r"pre_projection.weight holds values beyond 3.40282e\+38"):
        converted(double, tmp_path, outtype)


@pytest.mark.parametrize(
    "name",
    [
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.full_attention_inv_freq",
        "model.rotary_emb.sliding_attention_original_inv_freq",
        "model.embed_tokens.embed_scale",
        "model.layers.3.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_norm.weight",
    ],
)
def test_buffers_and_weights_that_transformers_leaves_aside(checkpoint: Path, tmp_path: Path, name: str):
    expected = converted(checkpoint, tmp_path)
    tensors = random_tensors(config_json()) | {name: np.full(8, np.nan, np.float32)}
    (checkpoint / "model.safetensors").write_bytes(safetensors_bytes(tensors, "BF16"))
    assert converted(checkpoint, tmp_path) == expected


@pytest.mark.parametrize("outtype", OUTTYPES)
def test_types_in_letters_of_any_case(checkpoint: Path, tmp_path: Path, outtype: str):
    assert converted(checkpoint, tmp_path, outtype.upper()) == converted(checkpoint, tmp_path, outtype)


def transformers_config(**given: object) -> dict:
    """What transformers makes of a configuration that leaves out everything else."""
    from transformers import Gemma4AssistantConfig, Gemma4TextConfig

    text = Gemma4TextConfig(hidden_size_per_layer_input=0, vocab_size_per_layer_input=0, **given)
    config = Gemma4AssistantConfig(text_config=text.to_dict()).to_dict()
    return {**config, "architectures": ["Gemma4AssistantForCausalLM"]}


SIZES = {"num_hidden_layers": 4, "head_dim": 64, "hidden_size": 128, "sliding_window": 32, "num_attention_heads": 2}


@pytest.mark.parametrize("given", [{}, SIZES, *({key: value} for key, value in SIZES.items())], ids=str)
@pytest.mark.parametrize("ordered", [False, True])
def test_sizes_that_config_json_leaves_out_are_transformers(given: dict, ordered: bool):
    full = transformers_config(**given) | {"use_ordered_embeddings": ordered}
    sparse = {"architectures": full["architectures"], "text_config": given, "use_ordered_embeddings": ordered}
    assert read_config(sparse) == read_config(full)


@pytest.mark.parametrize("key", ["rope_parameters", "rms_norm_eps", "max_position_embeddings", "layer_types"])
def test_a_checkpoint_without_a_size_converts(tmp_path: Path, key: str):
    config = config_json()
    if key == "layer_types":  # every sixth layer has full attention, where nothing else is said
        config["text_config"] |= {"num_hidden_layers": 6, "num_kv_shared_layers": 6, "layer_types": None}
    else:
        del config["text_config"][key]
    folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
    gguf = read_header(convert_assistant(folder, tmp_path / "out.gguf"))
    assert gguf.metadata["gemma4-assistant.attention.layer_norm_rms_epsilon"] == np.float32(1e-6)
    assert gguf.metadata["gemma4-assistant.rope.freq_base"] == 1e6
    assert gguf.metadata["gemma4-assistant.context_length"] == (131072 if key == "max_position_embeddings" else 512)
    assert not gguf.metadata["gemma4-assistant.attention.sliding_window_pattern"][-1]


EDGES = {
    "rms_norm_eps": [0, 1e-300, 1e-13, 1e-12, 1e-6, 1, 1 + 1e-9, 2, 1e300, 10**400],
    "rope_theta": [0.5, 1, 1e12, 1.1e12, 10**30],
    "head_dim": [1, 2, 31, 32, 33],
    "num_attention_heads": [1, 3],
    "intermediate_size": [1, 31],
    "sliding_window": [8, 1 << 30, (1 << 30) + 1, 1 << 32],
    "max_position_embeddings": [1, 1 << 30, (1 << 30) + 1],
    "num_hidden_layers": [1, 2, 16, 64, 65],
}


@pytest.mark.parametrize("key", EDGES)
def test_what_is_converted_is_loaded(tmp_path: Path, key: str):
    """An rms_norm_eps of 2 or 1e-300 was converted, and the file refused; 16 layers aborted the process."""
    pair = write_tiny_pair("e2b", tmp_path)
    target, shape = checks.check_target(pair.target), SHAPES["e2b"]
    outcomes = set()
    for value in EDGES[key]:
        config = config_json(centroids=0)
        text = config["text_config"]
        text["vocab_size"], config["backbone_hidden_size"] = shape.n_vocab, shape.n_embd
        if key == "rope_theta":
            text["rope_parameters"]["full_attention"][key] = text["rope_parameters"]["sliding_attention"][key] = value
        else:
            text[key] = value
        if key == "num_hidden_layers":
            text["layer_types"], text["num_kv_shared_layers"] = ["full_attention"] * value, value
        try:
            folder = write_checkpoint(tmp_path / "assistant", config, random_tensors(config))
            write_tokenizer(folder, shape.n_vocab)
            out = convert_assistant(folder, tmp_path / "out.gguf")
        except ConversionError as error:
            assert key in str(error)
            outcomes.add("refused")
            continue
        checks.check_head(out, target)
        outcomes.add("converted")
        if key not in ("head_dim", "sliding_window"):  # the others are not the target's
            with Model(pair.target, mtp_head=out, n_ctx=64, n_threads=1) as model:
                model.generate([5, 6, 7], max_tokens=4, temperature=0, num_speculative_tokens=8).text()
    assert outcomes >= {"converted"}


def test_a_configuration_of_null_is_one_of_defaults():
    given = json.loads(json.dumps({"architectures": ["Gemma4AssistantForCausalLM"], "text_config": SIZES}))
    nulls = dict.fromkeys(("rope_parameters", "layer_types", "global_head_dim", "per_layer_config", "rms_norm_eps"))
    assert read_config(given | {"text_config": SIZES | nulls}) == read_config(given)

"""GGUFs that parse but make no sense: an exception that names what is wrong, never llama.cpp's assertions."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import IncompatibleHeadError, Model, ModelLoadError
from pyllama_mtp.cli import main
from pyllama_mtp.gguf.format import Entry, read_header
from support.gguf_edit import edit_tensor, rewrite
from support.tiny_pairs import SHAPES, TinyPair, write_tiny_pair


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return write_tiny_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def e2b(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return write_tiny_pair("e2b", tmp_path_factory.mktemp("e2b"))


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return write_tiny_pair("moe", tmp_path_factory.mktemp("moe"))


def load(target: Path, head: Path | None = None) -> list[int]:
    with Model(target, mtp_head=head, n_ctx=128, n_threads=1) as model:
        return [t for chunk in model.generate([5, 6], max_tokens=6, temperature=0) for t in chunk.token_ids]


def test_untouched_pairs_load(pair: TinyPair):
    assert load(pair.target, pair.head) == load(pair.target)


u32, f32 = (lambda v: Entry("u32", v)), (lambda v: Entry("f32", v))
TARGET_VALUES = [
    ("block_count", u32(0), "expected 1..512"),
    ("block_count", u32(1 << 31), "expected 1..512"),
    ("block_count", u32(3), "expected 3 values"),
    ("block_count", f32(4), "of type f32, expected type u32"),
    ("block_count", None, "missing"),
    ("context_length", u32(0), "expected 1..1073741824"),
    ("embedding_length", u32(0), "expected 1.."),
    ("embedding_length", u32(64), r"expected \[64, 288\]"),
    ("attention.head_count", u32(0), "expected 4 values of 1..1024"),
    ("attention.head_count", u32(3), r"shape \[32, 64\], expected \[32, 96\]"),
    ("attention.head_count", Entry("[i32]", [2, 2, 2, -2]), "expected 4 values of 1..1024"),
    ("attention.head_count_kv", u32(0), "expected 4 values of 1..1024"),
    ("attention.head_count_kv", u32(3), "divisors of the numbers of query heads"),
    ("attention.head_count_kv", Entry("[i32]", [1, 1]), "expected 4 values"),
    ("attention.key_length", u32(0), "expected 2..4096"),
    ("attention.key_length_swa", u32(33), "expected"),
    ("attention.value_length", u32(32), "expected 64..64"),
    ("attention.sliding_window", u32(0), "expected 1.."),
    ("attention.sliding_window", u32((1 << 32) - 1), "expected 1.."),
    ("attention.sliding_window_pattern", Entry("[bool]", [True] * 3), "a list of 3, expected 4 values"),
    ("attention.sliding_window_pattern", Entry("[bool]", [True] * 4), "sliding and full attention layers"),
    ("attention.sliding_window_pattern", Entry("[bool]", [False] * 4), "sliding and full attention layers"),
    ("attention.sliding_window_pattern", Entry("[bool]", [False, True, True, False]), "expected"),
    ("attention.shared_kv_layers", u32(3), "expected 0..2"),
    ("attention.shared_kv_layers", u32((1 << 32) - 1), "expected 0..2"),
    ("attention.layer_norm_rms_epsilon", f32(math.nan), "nan, expected"),
    ("attention.layer_norm_rms_epsilon", f32(0), "expected 1e-12..1"),
    ("attention.layer_norm_rms_epsilon", None, "missing"),
    ("attention.causal", Entry("bool", False), "expected True"),
    ("rope.freq_base", f32(math.inf), "inf, expected"),
    ("rope.freq_base_swa", f32(-1), "expected 1..1e"),
    ("rope.dimension_count", u32(66), "expected 2..64"),
    ("rope.dimension_count_swa", u32(0), "expected 2..32"),
    ("rope.dimension_count_swa", None, "missing"),
    ("rope.scaling.type", Entry("string", "cubic"), "expected none or linear"),
    ("rope.scaling.factor", f32(math.nan), "expected"),
    ("final_logit_softcapping", f32(math.nan), "nan, expected"),
    ("embedding_length_per_layer_input", u32(33), "expected"),
    ("feed_forward_length", Entry("[i32]", [32, 32, 32, 64]), r"expected \[32, 64\]"),
    ("feed_forward_length", u32(0), "expected 4 values of 1.."),
    ("embedding_length_out", u32(16), "expected 32..32"),
    ("nextn_predict_layers", u32(4), "expected 0"),
    ("nextn_predict_layers", u32(5), "expected 0..4"),
    ("expert_count", u32(5000), "expected 0..1024"),
    ("expert_used_count", u32(2), "expected 4 values of 0..0"),
    ("expert_group_count", u32(2), "expected 0..0"),
    ("classifier.activation", Entry("string", "tanh"), "a model that generates text"),
]


@pytest.mark.parametrize(("key", "entry", "message"), TARGET_VALUES, ids=lambda v: v if isinstance(v, str) else None)
def test_senseless_hyperparameters_of_a_target_are_refused(e2b: TinyPair, tmp_path: Path, key, entry, message: str):
    with pytest.raises(ModelLoadError, match=message):
        load(rewrite(e2b.target, tmp_path / "t.gguf", {f"gemma4.{key}": entry}))


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("expert_used_count", u32(5), "expected 2 values of 0..4"),
        ("expert_used_count", u32(0), "expected 1..4"),
        ("expert_group_count", u32(3), "divisor of 4 experts"),
        ("expert_count", u32(8), r"expected \[32, 8\]"),
        ("expert_feed_forward_length", u32(0), "expected 2 values of 1.."),
    ],
)
def test_senseless_experts_are_refused(moe: TinyPair, tmp_path: Path, key: str, entry: Entry, message: str):
    with pytest.raises(ModelLoadError, match=message):
        load(rewrite(moe.target, tmp_path / "t.gguf", {f"gemma4.{key}": entry}))


def tokens_of(pair: TinyPair) -> list[str]:
    return list(read_header(pair.target).metadata["tokenizer.ggml.tokens"])


def changed(values: list, index: int, value) -> list:
    return values[:index] + [value] + values[index + 1 :]


TOKENIZER_VALUES = [
    ("model", lambda tokens: Entry("string", "none"), "is missing"),
    ("model", lambda tokens: None, "is missing"),
    ("model", lambda tokens: Entry("[i32]", [1, 2]), "is missing"),
    ("model", lambda tokens: Entry("string", "bert"), "no byte tokens"),
    ("tokens", lambda tokens: None, "has no tokens"),
    ("tokens", lambda tokens: Entry("[i32]", [1] * 288), "has no tokens"),
    ("tokens", lambda tokens: Entry("[string]", tokens[:100]), "expected 100 of type"),
    ("tokens", lambda tokens: Entry("[string]", changed(tokens, 280, tokens[281])), "same token twice"),
    ("tokens", lambda tokens: Entry("[string]", changed(tokens, 280, tokens[281] + "\0x")), "same token twice"),
    ("tokens", lambda tokens: Entry("[string]", changed(tokens, 280, "x" * 70000)), "a token of 70000 bytes"),
    ("tokens", lambda tokens: Entry("[string]", changed(tokens, 40, "<0")), "byte token b'<0'"),
    ("scores", lambda tokens: Entry("[f32]", [0.0] * 10), "expected 288 of type"),
    ("scores", lambda tokens: Entry("[f32]", [math.nan] * 288), "no numbers"),
    ("token_type", lambda tokens: Entry("[i32]", [1] * 287), "expected 288 of type"),
    ("token_type", lambda tokens: Entry("[i32]", [77] * 288), "expected 0..6"),
    ("token_type", lambda tokens: None, "missing"),
    ("bos_token_id", lambda tokens: u32(288), "expected a u32 below 288"),
    ("bos_token_id", lambda tokens: None, "missing"),
    ("eos_token_id", lambda tokens: Entry("i32", -1), "expected a u32 below 288"),
    ("merges", lambda tokens: Entry("[string]", ["ab", "a b"]), "two pieces"),
    ("merges", lambda tokens: Entry("[string]", [" ab"]), "two pieces"),
    ("merges", lambda tokens: None, "missing"),
]


@pytest.mark.parametrize(
    ("key", "change", "message"), TOKENIZER_VALUES, ids=lambda v: v if isinstance(v, str) else None
)
def test_a_senseless_tokenizer_is_refused(e2b: TinyPair, tmp_path: Path, key: str, change, message: str):
    with pytest.raises(ModelLoadError, match=message):
        load(rewrite(e2b.target, tmp_path / "t.gguf", {f"tokenizer.ggml.{key}": change(tokens_of(e2b))}))


@pytest.mark.parametrize("name", [t.name for t in SHAPES["moe"].tensors()])
def test_missing_tensors_are_refused(moe: TinyPair, tmp_path: Path, name: str):
    path = rewrite(moe.target, tmp_path / "t.gguf", tensors={name: None})
    if name.endswith("layer_output_scale.weight"):
        assert len(load(path)) > 0  # llama.cpp does without
    elif name.endswith("attn_v.weight"):
        assert len(load(path)) > 0  # V is K then
    else:
        with pytest.raises(ModelLoadError, match=f"lacks the tensor {name}"):
            load(path)


@pytest.mark.parametrize("type_name", ["i32", "f64", "q8_k", "q8_1", "i8"])
@pytest.mark.parametrize("part", ["token_embd", "blk.0.attn_q", "blk.1.ffn_norm"])
def test_types_that_nothing_computes_with_are_refused(e2b: TinyPair, tmp_path: Path, part: str, type_name: str):
    rows = 288 if part == "token_embd" else 64
    name = f"{part}.weight"
    bytes_of = {"i32": 4, "f64": 8, "i8": 1}
    shape = (32,) if part.endswith("norm") else (32, rows)
    n = math.prod(shape)
    if type_name == "q8_k":
        shape, size = (256, *shape[1:]), 292 * (n // 32)
    else:
        size = 36 * (n // 32) if type_name == "q8_1" else bytes_of[type_name] * n
    tensor = (name, shape, type_name, bytes(size))
    with pytest.raises(ModelLoadError, match=f"tensor {name}"):
        load(rewrite(e2b.target, tmp_path / "t.gguf", tensors={name: tensor}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.attn_q_norm.weight", "blk.0.layer_output_scale.weight"])
def test_norms_that_are_not_finite_are_refused(pair: TinyPair, tmp_path: Path, name: str, value: float):
    path = edit_tensor(pair.target, tmp_path / "t.gguf", name, lambda values: np.full_like(values, value))
    with pytest.raises(ModelLoadError, match="invalid data"):
        load(path)
    path = edit_tensor(pair.head, tmp_path / "h.gguf", name, lambda values: np.full_like(values, value))
    with pytest.raises(ModelLoadError, match="not finite"):
        load(pair.target, path)


def test_block_scales_that_are_not_finite_are_refused(pair: TinyPair, tmp_path: Path):
    for source, message in ((pair.target, "invalid data"), (pair.head, "not finite")):
        data = bytearray(source.read_bytes())
        tensor = read_header(source).tensors["blk.1.ffn_down.weight"]
        assert tensor.type == "q8_0"
        struct.pack_into("<H", data, tensor.offset + tensor.n_bytes - 34, 0x7E00)  # the last block's f16 scale: NaN
        (tmp_path / "x.gguf").write_bytes(data)
        files = (tmp_path / "x.gguf", None) if source == pair.target else (pair.target, tmp_path / "x.gguf")
        with pytest.raises(ModelLoadError, match=message):
            load(*files)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_rope_factors_that_are_not_positive_are_refused(pair: TinyPair, tmp_path: Path, value: float):
    for source in (pair.target, pair.head):
        path = edit_tensor(source, tmp_path / "x.gguf", "rope_freqs.weight", lambda v: np.full_like(v, value))
        with pytest.raises(ModelLoadError, match="not positive"):
            load(*((path, None) if source == pair.target else (pair.target, path)))


HEAD_VALUES = [
    ("block_count", u32(0), "expected 1..64"),
    ("block_count", u32(1 << 31), "expected 1..64"),
    ("embedding_length", u32(0), "expected 1.."),
    ("embedding_length", u32(32), r"expected"),
    ("embedding_length_out", u32(64), "backbone width is 64, the target's is 32"),
    ("attention.key_length", u32(0), "expected 2..4096"),
    ("attention.key_length_swa", u32(64), "head size on sliding layers is 64"),
    ("attention.sliding_window", u32(0), "expected 1.."),
    ("attention.sliding_window", u32(8), "sliding window is 8"),
    ("attention.layer_norm_rms_epsilon", f32(math.nan), "nan, expected"),
    ("rope.freq_base", f32(0), "expected 1..1e"),
    ("rope.dimension_count", u32(63), "expected pairs"),
    ("rope.dimension_count_swa", u32(7), "expected pairs"),
    ("rope.freq_base", u32(10000), "of type u32, expected type f32"),
    ("masked_embedding.top_k", u32(0), "expected 1..16"),
    ("masked_embedding.top_k", u32(17), "expected 1..16"),
    ("masked_embedding.num_centroids", u32(17), "17"),
    ("masked_embedding.centroids", Entry("[f32]", [math.nan] * 1024), "not finite"),
    ("masked_embedding.centroids", Entry("[f32]", [0.0] * 1023), "1023"),
    ("masked_embedding.token_ordering", Entry("[i32]", [0] * 288), "no permutation"),
    ("masked_embedding.token_ordering", Entry("[i32]", [-1] * 288), "no permutation"),
]


@pytest.mark.parametrize(("key", "entry", "message"), HEAD_VALUES, ids=lambda v: v if isinstance(v, str) else None)
def test_senseless_heads_are_refused(e2b: TinyPair, tmp_path: Path, key: str, entry: Entry, message: str):
    path = rewrite(e2b.head, tmp_path / "h.gguf", {f"gemma4-assistant.{key}": entry})
    with pytest.raises((ModelLoadError, IncompatibleHeadError), match=message):
        load(e2b.target, path)


def test_a_head_with_another_vocabulary_is_refused(e2b: TinyPair, tmp_path: Path):
    tokens = tokens_of(e2b)
    path = rewrite(
        e2b.head, tmp_path / "h.gguf", {"tokenizer.ggml.tokens": Entry("[string]", tokens[10:] + tokens[:10])}
    )
    with pytest.raises(IncompatibleHeadError, match="tokens of its vocabulary differ"):
        load(e2b.target, path)
    renamed = Entry("[string]", changed(tokens, 287, "<renamed>"))
    assert load(e2b.target, rewrite(e2b.head, path, {"tokenizer.ggml.tokens": renamed})) == load(e2b.target)


def test_weights_of_a_head_need_a_type_that_can_be_multiplied(e2b: TinyPair, tmp_path: Path):
    name = "blk.0.ffn_up.weight"
    path = rewrite(e2b.head, tmp_path / "h.gguf", tensors={name: (name, (64, 32), "i32", bytes(64 * 32 * 4))})
    with pytest.raises(ModelLoadError, match="which no kernel multiplies"):
        load(e2b.target, path)


def split(source: Path, folder: Path) -> list[Path]:
    """A model in two files, named as llama.cpp's gguf-split does."""
    names = list(read_header(source).tensors)
    paths = []
    for number, left_out in enumerate((names[5:], names[:5])):
        metadata = {
            "split.count": Entry("u16", 2),
            "split.no": Entry("u16", number),
            "split.tensors.count": Entry("i32", len(names)),
        }
        out = folder / f"m-{number + 1:05}-of-00002.gguf"
        paths.append(rewrite(source, out, metadata, dict.fromkeys(left_out)))
    return paths


def test_every_file_of_a_split_model_is_checked(pair: TinyPair, tmp_path: Path):
    first, second = split(pair.target, tmp_path)
    assert load(first, pair.head) == load(pair.target)
    second.write_bytes(second.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="m-00002-of-00002.gguf is not a valid GGUF file"):
        load(first)
    split(pair.target, tmp_path)
    rewrite(second, tmp_path / "changed", {"split.no": Entry("u32", 1)})
    (tmp_path / "changed").rename(second)
    with pytest.raises(ModelLoadError, match="expected 1 as a u16"):
        load(first)
    second.unlink()
    with pytest.raises(ModelLoadError, match="cannot read"):
        load(first)
    for count in (Entry("[i32]", []), Entry("u16", 60000), Entry("u32", 2)):
        with pytest.raises(ModelLoadError, match="split.count of .* expected a u16 up to 4096"):
            load(rewrite(pair.target, tmp_path / "t.gguf", {"split.count": count}))
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelLoadError, match="one of 2 files: pass the first one"):
        load(renamed)


def test_a_file_without_an_architecture_is_no_model(e2b: TinyPair, tmp_path: Path):
    with pytest.raises(ModelLoadError, match="names no general.architecture"):
        load(rewrite(e2b.target, tmp_path / "t.gguf", {"general.architecture": None}))


NASTY = "x\n\x1b[31m" * 5000
STEERING = {
    "architecture": {"general.architecture": Entry("string", NASTY)},
    "hyper-parameter": {"gemma4.rope.scaling.type": Entry("string", NASTY)},
    "array for a token": {"tokenizer.ggml.eos_token_id": Entry("[i32]", list(range(900)))},
    "array for the alignment": {"general.alignment": Entry("[f32]", [0.5] * 900)},
    "byte token": {
        "tokenizer.ggml.tokens": Entry("[string]", [NASTY, *map(str, range(287))]),
        "tokenizer.ggml.token_type": Entry("[i32]", [6] * 288),
    },
}


@pytest.mark.parametrize("change", STEERING)
def test_what_a_file_holds_cannot_break_or_flood_a_message(e2b: TinyPair, tmp_path: Path, change: str):
    path = rewrite(e2b.target, tmp_path / "x.gguf", STEERING[change])
    with pytest.raises(ModelLoadError) as caught:
        load(path)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
    with pytest.raises((ModelLoadError, IncompatibleHeadError)) as caught:
        load(e2b.target, path)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


def test_the_command_tells_an_error_in_one_line(tmp_path: Path, capsys):
    assert main(["info", str(tmp_path / "no\n\x1b[31mfile.gguf")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("pyllama-mtp: error: ") and told.removesuffix("\n").isprintable()

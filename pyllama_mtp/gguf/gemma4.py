"""Gemma 4 targets as GGUF files: the sizes of the released models, and the table of llama.cpp's `gemma4` tensors.

Sizes: the public gemma4 model configurations of AI-Hypercomputer/maxtext. Shapes are in ggml order, fastest dimension
first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pyllama_mtp.gguf.format import Entry

UNROTATED = 1e30  # a RoPE frequency factor that switches a dimension's rotation off
ROTATED_SHARE = 0.25  # of the full attention layers' heads

# GGUF name, checkpoint name, ggml shape, kind, condition. Letters: E width, V vocabulary, P per-layer embedding, L
# layers, H head size, Q query heads x H, K key/value heads x H, F the MLP's width, N experts, X an expert's width.
# Matrices take the weight type.
TARGET_TENSORS = (
    ("token_embd.weight", "model.embed_tokens.weight", "E V", "embedding", None),
    ("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight", "PL V", "embedding", "ple"),
    ("per_layer_model_proj.weight", "model.per_layer_model_projection.weight", "E PL", "matrix", "ple"),
    ("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight", "P", "norm", "ple"),
    ("output_norm.weight", "model.norm.weight", "E", "norm", None),
    ("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", "E", "norm", None),
    ("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", "E Q", "matrix", None),
    ("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight", "H", "norm", None),
    ("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", "E K", "matrix", "kv"),
    ("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight", "H", "norm", "kv"),
    ("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", "E K", "matrix", "v"),
    ("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", "Q E", "matrix", None),
    ("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight", "E", "norm", None),
    ("blk.{}.ffn_norm.weight", "model.layers.{}.pre_feedforward_layernorm.weight", "E", "norm", None),
    ("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", "E F", "matrix", None),
    ("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", "E F", "matrix", None),
    ("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", "F E", "matrix", None),
    ("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight", "E", "norm", None),
    ("blk.{}.ffn_gate_inp.weight", "model.layers.{}.router.proj.weight", "E N", "router", "moe"),
    ("blk.{}.ffn_gate_inp.scale", "model.layers.{}.router.scale", "E", "norm", "moe"),
    ("blk.{}.pre_ffw_norm_2.weight", "model.layers.{}.pre_feedforward_layernorm_2.weight", "E", "norm", "moe"),
    ("blk.{}.post_ffw_norm_1.weight", "model.layers.{}.post_feedforward_layernorm_1.weight", "E", "norm", "moe"),
    ("blk.{}.post_ffw_norm_2.weight", "model.layers.{}.post_feedforward_layernorm_2.weight", "E", "norm", "moe"),
    ("blk.{}.ffn_gate_up_exps.weight", "model.layers.{}.experts.gate_up_proj", "E 2X N", "matrix", "moe"),
    ("blk.{}.ffn_down_exps.weight", "model.layers.{}.experts.down_proj", "X E N", "matrix", "moe"),
    ("blk.{}.ffn_down_exps.scale", "model.layers.{}.router.per_expert_scale", "N", "norm", "moe"),
    ("blk.{}.inp_gate.weight", "model.layers.{}.per_layer_input_gate.weight", "E P", "matrix", "ple"),
    ("blk.{}.proj.weight", "model.layers.{}.per_layer_projection.weight", "P E", "matrix", "ple"),
    ("blk.{}.post_norm.weight", "model.layers.{}.post_per_layer_input_norm.weight", "E", "norm", "ple"),
    ("blk.{}.layer_output_scale.weight", "model.layers.{}.layer_scalar", "1", "norm", None),
)


@dataclass(frozen=True, slots=True)
class TargetTensor:
    name: str
    checkpoint_name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Gemma4Shape:
    """Sizes of a target and of its assistant. `full_every`: every n-th layer has full attention, the others slide."""

    n_layer: int
    full_every: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_head_kv_full: int
    n_ff: int
    window: int
    head_size: int = 256
    head_size_full: int = 512
    n_ff_shared: int | None = None  # of the layers without own K/V, if different
    n_ple: int = 0
    n_shared: int = 0  # last layers without own K/V
    v_is_k: bool = False  # on full layers
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_expert: int = 0
    n_vocab: int = 262144
    context_length: int = 131072
    assistant_n_embd: int = 256
    assistant_n_ff: int = 2048
    assistant_n_head: int = 4
    n_centroids: int = 0  # of the assistant's LM head, 0: dense
    centroid_top_k: int = 32

    def is_full(self, layer: int) -> bool:
        return (layer + 1) % self.full_every == 0

    def owns_kv(self, layer: int) -> bool:
        return layer < self.n_layer - self.n_shared

    def ff(self, layer: int) -> int:
        return self.n_ff if self.owns_kv(layer) or self.n_ff_shared is None else self.n_ff_shared

    def metadata(self) -> dict[str, Entry]:
        """The keys of llama.cpp's `gemma4` architecture; those of the tokenizer come from elsewhere."""
        layers = range(self.n_layer)
        kv = [self.n_head_kv_full if self.is_full(i) else self.n_head_kv for i in layers]
        values = {
            "block_count": Entry("u32", self.n_layer),
            "context_length": Entry("u32", self.context_length),
            "embedding_length": Entry("u32", self.n_embd),
            "feed_forward_length": Entry("[i32]", [self.ff(i) for i in layers]),
            "attention.head_count": Entry("u32", self.n_head),
            "attention.head_count_kv": Entry("[i32]", kv),
            "rope.freq_base": Entry("f32", 1e6),
            "rope.freq_base_swa": Entry("f32", 1e4),
            "attention.layer_norm_rms_epsilon": Entry("f32", 1e-6),
            "attention.key_length": Entry("u32", self.head_size_full),
            "attention.value_length": Entry("u32", self.head_size_full),
            "final_logit_softcapping": Entry("f32", 30.0),
            "attention.sliding_window": Entry("u32", self.window),
            "attention.shared_kv_layers": Entry("u32", self.n_shared),
            "embedding_length_per_layer_input": Entry("u32", self.n_ple),
            "attention.sliding_window_pattern": Entry("[bool]", [not self.is_full(i) for i in layers]),
            "attention.key_length_swa": Entry("u32", self.head_size),
            "attention.value_length_swa": Entry("u32", self.head_size),
            "rope.dimension_count": Entry("u32", self.head_size_full),
            "rope.dimension_count_swa": Entry("u32", self.head_size),
        }
        if self.n_expert:
            values |= {
                "expert_count": Entry("u32", self.n_expert),
                "expert_used_count": Entry("u32", self.n_expert_used),
                "expert_feed_forward_length": Entry("u32", self.n_ff_expert),
            }
        return {"general.architecture": Entry("string", "gemma4")} | {f"gemma4.{k}": v for k, v in values.items()}

    def rope_factors(self) -> list[float]:
        """f32 [head_size_full / 2]: 1 where a pair of dimensions is rotated."""
        rotated = int(self.head_size_full * ROTATED_SHARE / 2)
        return [1.0] * rotated + [UNROTATED] * (self.head_size_full // 2 - rotated)

    def tensors(self) -> Iterator[TargetTensor]:
        """Every tensor of the target but rope_freqs.weight, in the order of the file."""
        for name, checkpoint_name, letters, kind, condition in TARGET_TENSORS:
            for layer in range(self.n_layer) if "{}" in name else [-1]:
                if self._has(condition, layer):
                    at = str(layer)
                    shape = self._shape(letters, layer)
                    yield TargetTensor(name.replace("{}", at), checkpoint_name.replace("{}", at), shape, kind)

    def _has(self, condition: str | None, layer: int) -> bool:
        match condition:
            case "ple":
                return self.n_ple > 0
            case "moe":
                return self.n_expert > 0
            case "kv":
                return self.owns_kv(layer)
            case "v":
                return self.owns_kv(layer) and not (self.v_is_k and self.is_full(layer))
        return True

    def _shape(self, letters: str, layer: int) -> tuple[int, ...]:
        full = layer >= 0 and self.is_full(layer)
        head_size = self.head_size_full if full else self.head_size
        sizes = {
            "1": 1,
            "E": self.n_embd,
            "V": self.n_vocab,
            "P": self.n_ple,
            "PL": self.n_ple * self.n_layer,
            "H": head_size,
            "Q": head_size * self.n_head,
            "K": head_size * (self.n_head_kv_full if full else self.n_head_kv),
            "F": self.ff(layer),
            "N": self.n_expert,
            "X": self.n_ff_expert,
            "2X": 2 * self.n_ff_expert,
        }
        return tuple(sizes[letter] for letter in letters.split())


_LARGE_ASSISTANT = {"assistant_n_embd": 1024, "assistant_n_ff": 8192}

SHAPES = {
    "e2b": Gemma4Shape(
        n_layer=35,
        full_every=5,
        n_embd=1536,
        n_head=8,
        n_head_kv=1,
        n_head_kv_full=1,
        n_ff=6144,
        n_ff_shared=12288,
        window=512,
        n_ple=256,
        n_shared=20,
        n_centroids=2048,
    ),
    "e4b": Gemma4Shape(
        n_layer=42,
        full_every=6,
        n_embd=2560,
        n_head=8,
        n_head_kv=2,
        n_head_kv_full=2,
        n_ff=10240,
        window=512,
        n_ple=256,
        n_shared=18,
        n_centroids=2048,
    ),
    "12b": Gemma4Shape(
        n_layer=48,
        full_every=6,
        n_embd=3840,
        n_head=16,
        n_head_kv=8,
        n_head_kv_full=1,
        n_ff=15360,
        window=1024,
        v_is_k=True,
        assistant_n_head=16,
        **_LARGE_ASSISTANT,
    ),
    "26b-a4b": Gemma4Shape(
        n_layer=30,
        full_every=6,
        n_embd=2816,
        n_head=16,
        n_head_kv=8,
        n_head_kv_full=2,
        n_ff=2112,
        window=1024,
        v_is_k=True,
        n_expert=128,
        n_expert_used=8,
        n_ff_expert=704,
        assistant_n_head=16,
        **_LARGE_ASSISTANT,
    ),
    "31b": Gemma4Shape(
        n_layer=60,
        full_every=6,
        n_embd=5376,
        n_head=32,
        n_head_kv=16,
        n_head_kv_full=4,
        n_ff=21504,
        window=1024,
        v_is_k=True,
        assistant_n_head=32,
        **_LARGE_ASSISTANT,
    ),
}

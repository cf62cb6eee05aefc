"""Damaged GGUF files, in the manner of llama.cpp's tests/test-gguf.cpp: 40 kinds, each drawn at random.

Kinds of BYTES change the file as it is, field by field or blindly. Kinds of MEANING take it apart and write a
well-formed file that says something else.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from pyllama_mtp.gguf.format import TENSOR_TYPES, Entry, tensor_bytes
from support.gguf_edit import Parts

EDGES = sorted({max(0, (1 << bits) + d) for bits in (0, 3, 8, 16, 20, 30, 31, 32, 62, 63, 64) for d in (-1, 0, 1)})
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Field:
    """kind: magic, version, count, length, text, type, value, elements; n_dimensions, dimension, tensor_type, offset of
    a tensor.
    """

    kind: str
    at: int
    size: int


def fields(data: bytes) -> list[Field]:
    """Every field of a valid header, in order."""
    found: list[Field] = []
    at = 0

    def take(kind: str, size: int) -> int:
        nonlocal at
        found.append(Field(kind, at, size))
        at += size
        return int.from_bytes(data[at - size : at], "little") if size <= 8 else 0

    def string() -> None:
        take("text", take("length", 8))

    def value(kind: int) -> None:
        if kind == _STRING:
            string()
        elif kind != _ARRAY:
            take("value", _SCALAR_BYTES[kind])
        else:
            element, n = take("type", 4), take("length", 8)
            if element == _STRING:
                for _ in range(n):
                    string()
            else:
                take("elements", n * _SCALAR_BYTES[element])

    take("magic", 4)
    take("version", 4)
    n_tensors, n_metadata = take("count", 8), take("count", 8)
    for _ in range(n_metadata):
        string()
        value(take("type", 4))
    for _ in range(n_tensors):
        string()
        for _ in range(take("n_dimensions", 4)):
            take("dimension", 8)
        take("tensor_type", 4)
        take("offset", 8)
    return found


@dataclass(frozen=True, slots=True)
class Original:
    """A valid file, taken apart once."""

    data: bytes
    fields: list[Field]
    parts: Parts

    @property
    def header_bytes(self) -> int:
        return self.fields[-1].at + self.fields[-1].size

    def field(self, random: Random, kind: str) -> Field:
        return random.choice([f for f in self.fields if f.kind == kind and f.size])


def _overwrite(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _number(kind: str) -> Callable[[Random, Original], bytes]:
    """Another number in a field of a kind: a neighbour, some type's edge, or anything."""

    def damage(random: Random, original: Original) -> bytes:
        field = original.field(random, kind)
        old = int.from_bytes(original.data[field.at : field.at + field.size], "little")
        near = old + random.choice((-1, 1, -old // 2, old, 32))
        new = random.choice((near, random.choice(EDGES), random.getrandbits(8 * field.size), random.randrange(48)))
        return _overwrite(original.data, field.at, (new % (1 << 8 * field.size)).to_bytes(field.size, "little"))

    return damage


def _bytes_of(kind: str) -> Callable[[Random, Original], bytes]:
    """Random bytes in a field of a kind."""

    def damage(random: Random, original: Original) -> bytes:
        field = original.field(random, kind)
        n = random.randint(1, min(16, field.size))
        return _overwrite(original.data, field.at + random.randint(0, field.size - n), random.randbytes(n))

    return damage


def _same_text_twice(random: Random, original: Original) -> bytes:
    first = original.field(random, "text")
    second = random.choice([f for f in original.fields if f.kind == "text" and f.size == first.size])
    return _overwrite(original.data, second.at, original.data[first.at : first.at + first.size])


def _swap(kind: str) -> Callable[[Random, Original], bytes]:
    def damage(random: Random, original: Original) -> bytes:
        a, b = original.field(random, kind), original.field(random, kind)
        first, second = (original.data[f.at : f.at + f.size] for f in (a, b))
        return _overwrite(_overwrite(original.data, a.at, second), b.at, first)

    return damage


def _truncate_at_a_boundary(random: Random, original: Original) -> bytes:
    ends = [f.at for f in original.fields] + [original.header_bytes, len(original.data) - 32, len(original.data) - 1]
    return original.data[: random.choice(ends)]


def _truncate_anywhere(random: Random, original: Original) -> bytes:
    return original.data[: random.randrange(len(original.data))]


def _flip_bits(where: Callable[[Original], tuple[int, int]]) -> Callable[[Random, Original], bytes]:
    def damage(random: Random, original: Original) -> bytes:
        changed = bytearray(original.data)
        begin, end = where(original)
        for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
            changed[random.randrange(begin, end)] ^= 1 << random.randrange(8)
        return bytes(changed)

    return damage


def _fill(byte: int) -> Callable[[Random, Original], bytes]:
    def damage(random: Random, original: Original) -> bytes:
        at = random.randrange(original.header_bytes)
        return _overwrite(original.data, at, bytes([byte]) * min(random.choice((1, 8, 64)), len(original.data) - at))

    return damage


def _delete(random: Random, original: Original) -> bytes:
    at = random.randrange(original.header_bytes)
    return original.data[:at] + original.data[at + random.choice((1, 4, 8, 32)) :]


def _insert(random: Random, original: Original) -> bytes:
    at = random.randrange(original.header_bytes)
    return original.data[:at] + random.randbytes(random.choice((1, 4, 8, 32))) + original.data[at:]


def _other_byte_order(random: Random, original: Original) -> bytes:
    return _overwrite(original.data, 4, original.data[7:3:-1])


BYTES: dict[str, Callable[[Random, Original], bytes]] = {
    "magic": _bytes_of("magic"),
    "version": _number("version"),
    "byte order": _other_byte_order,
    "number of entries": _number("count"),
    "numbers of entries swapped": _swap("count"),
    "length of a string or array": _number("length"),
    "text": _bytes_of("text"),
    "the same text twice": _same_text_twice,
    "type of a value": _number("type"),
    "types swapped": _swap("type"),
    "scalar": _bytes_of("value"),
    "elements of an array": _bytes_of("elements"),
    "number of dimensions": _number("n_dimensions"),
    "dimension": _number("dimension"),
    "dimensions swapped": _swap("dimension"),
    "type of a tensor": _number("tensor_type"),
    "types of tensors swapped": _swap("tensor_type"),
    "offset": _number("offset"),
    "offsets swapped": _swap("offset"),
    "truncated at a boundary": _truncate_at_a_boundary,
    "truncated anywhere": _truncate_anywhere,
    "bits of the header": _flip_bits(lambda o: (0, o.header_bytes)),
    "bits of the data": _flip_bits(lambda o: (o.header_bytes, len(o.data))),
    "zeros": _fill(0),
    "ones": _fill(255),
    "bytes deleted": _delete,
    "bytes inserted": _insert,
}

_REALS = (0.0, -1.0, 1e-38, 1e-6, 0.5, 1.0, 3.4e38, -3.4e38, 1e9, math.nan, math.inf, -math.inf)
_TEXTS = (
    "",
    "x",
    "\0",
    "none",
    "llama",
    "gpt2",
    "bert",
    "gemma4",
    "linear",
    "yarn",
    "\u00e4" * 5000,
    "{{ x }}",
    "%s%n",
)
_KEYS = """block_count context_length embedding_length embedding_length_out feed_forward_length nextn_predict_layers
expert_count expert_used_count expert_group_count expert_group_used_count expert_feed_forward_length
expert_weights_scale expert_gating_func leading_dense_block_count vocab_size attention.causal attention.head_count
attention.head_count_kv attention.key_length attention.value_length attention.key_length_mla attention.scale
attention.sliding_window attention.shared_kv_layers attention.clamp_kqv attention.max_alibi_bias attn_logit_softcapping
final_logit_softcapping attention.temperature_scale attention.temperature_length rope.dimension_count
rope.dimension_sections rope.freq_base rope.freq_base_swa rope.scaling.type rope.scaling.factor rope.scale_linear
rope.scaling.attn_factor rope.scaling.original_context_length rope.scaling.yarn_log_multiplier
rope.scaling.yarn_ext_factor rope.scaling.yarn_beta_fast pooling_type classifier.output_labels classifier.activation
use_parallel_residual residual_scale embedding_scale logit_scale tensor_data_layout token_shift_count
ssm.conv_kernel""".split()
_GENERAL_KEYS = """general.alignment general.file_type general.quantization_version general.name split.count split.no
split.tensors.count tokenizer.ggml.pre tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token
tokenizer.ggml.add_sep_token tokenizer.ggml.eot_token_id tokenizer.ggml.seperator_token_id
tokenizer.ggml.mask_token_id tokenizer.ggml.fim_pre_token_id tokenizer.ggml.suppress_tokens
tokenizer.ggml.precompiled_charsmap tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.token_type_count
tokenizer.chat_template adapter.type""".split()
ARCHITECTURES = "llama gemma gemma2 gemma3 gemma3n qwen3 qwen3moe mamba bert t5 clip rwkv7 nonsense".split()


def _other_value(random: Random, entry: Entry) -> Entry:
    """Another value of the same type."""
    if entry.type.startswith("["):
        return replace(entry, value=_other_elements(random, entry))
    if entry.type == "string":
        return replace(entry, value=random.choice(_TEXTS))
    if entry.type == "bool":
        return replace(entry, value=not entry.value)
    if entry.type == "f32":
        return replace(entry, value=random.choice((*_REALS, float(np.float32(entry.value * random.choice((0.5, 2)))))))
    old = int(entry.value)
    near = max(0, old + random.choice((-2, -1, 1, 2, old, -old // 2)))
    return replace(entry, value=random.choice((near, near, random.choice(EDGES) % (1 << 32), random.randrange(600))))


def _other_elements(random: Random, entry: Entry) -> list:
    values = list(entry.value) if entry.type == "[string]" else np.asarray(entry.value).tolist()
    index = random.randrange(len(values) + 1)
    match random.randrange(6):
        case 0:
            return values[:index]
        case 1:
            return values + values[:index]
        case 2:
            random.shuffle(values)
            return values
        case 3 if values:
            return [values[index - 1]] * len(values)
    scalar = Entry(entry.type[1:-1], values[0] if values else 0)
    new = _other_value(random, scalar).value if values else 1
    if entry.type == "[i32]":
        new = random.choice((new, -1, -(1 << 31), (1 << 31) - 1, len(values))) % (1 << 32)
        new -= (new >> 31) << 32
    return values[: max(0, index - 1)] + [new] + values[index:]


def _any_entry(random: Random) -> Entry:
    kind = random.choice(("u32", "u32", "i32", "f32", "bool", "string", "u64", "u16", "[i32]", "[f32]", "[string]"))
    match kind:
        case "[i32]" | "[f32]":
            return Entry(kind, [random.randrange(5)] * random.choice((0, 1, 4, 288)))
        case "[string]":
            return Entry(kind, [random.choice(_TEXTS)] * random.choice((0, 1, 4)))
        case "bool":
            return Entry(kind, random.random() < 0.5)
        case "string":
            return Entry(kind, random.choice(_TEXTS))
        case "f32":
            return Entry(kind, random.choice(_REALS))
    return Entry(kind, random.choice((0, 1, 2, 3, random.choice(EDGES) % (1 << (16 if kind == "u16" else 31)))))


def _architecture(parts: Parts) -> str:
    return str(parts.metadata["general.architecture"].value)


def _change_value(random: Random, parts: Parts) -> None:
    key = random.choice(list(parts.metadata))
    parts.metadata[key] = _other_value(random, parts.metadata[key])


def _change_hyperparameter(random: Random, parts: Parts) -> None:
    key = random.choice([k for k in parts.metadata if k.startswith(_architecture(parts) + ".")])
    parts.metadata[key] = _other_value(random, parts.metadata[key])


def _change_two_hyperparameters(random: Random, parts: Parts) -> None:
    _change_hyperparameter(random, parts)
    _change_hyperparameter(random, parts)


def _change_tokenizer(random: Random, parts: Parts) -> None:
    key = random.choice([k for k in parts.metadata if k.startswith("tokenizer.")])
    parts.metadata[key] = _other_value(random, parts.metadata[key])


def _change_type(random: Random, parts: Parts) -> None:
    parts.metadata[random.choice(list(parts.metadata))] = _any_entry(random)


def _add_hyperparameter(random: Random, parts: Parts) -> None:
    parts.metadata[f"{_architecture(parts)}.{random.choice(_KEYS)}"] = _any_entry(random)


def _add_general(random: Random, parts: Parts) -> None:
    parts.metadata[random.choice(_GENERAL_KEYS)] = _any_entry(random)


def _drop_key(random: Random, parts: Parts) -> None:
    del parts.metadata[random.choice(list(parts.metadata))]


def _rename_architecture(random: Random, parts: Parts) -> None:
    """Sometimes with its keys."""
    old, new = _architecture(parts), random.choice(ARCHITECTURES)
    if random.random() < 0.7:
        parts.metadata = {(new + k[len(old) :] if k.startswith(old + ".") else k): v for k, v in parts.metadata.items()}
    parts.metadata["general.architecture"] = Entry("string", new)


def _drop_tensor(random: Random, parts: Parts) -> None:
    del parts.tensors[random.choice(list(parts.tensors))]


def _reshape(random: Random, parts: Parts) -> None:
    """Other dimensions with as many bytes, or with as many as they need."""
    name, shape, type_name, data = parts.tensors[random.choice(list(parts.tensors))]
    n = math.prod(shape)
    new = random.choice(
        ((n,), (*shape, 1), (1, *shape)[:4], shape[::-1], (shape[0], max(1, n // shape[0] - 1)), (n, 2))
    )
    _replace(parts, name, new, random.choice((type_name, "f32", "f16")), data)


def _retype(random: Random, parts: Parts) -> None:
    name, shape, _, data = parts.tensors[random.choice(list(parts.tensors))]
    _replace(parts, name, shape, random.choice(list(TENSOR_TYPES)), data)


def _replace(parts: Parts, name: str, shape: tuple[int, ...], type_name: str, data: bytes) -> None:
    block = TENSOR_TYPES[type_name][1]
    shape = (-(-shape[0] // block) * block, *shape[1:])
    n = tensor_bytes(type_name, shape)
    parts.tensors[name] = (name, shape, type_name, (data * (n // len(data) + 1))[:n])


def _rename_tensor(random: Random, parts: Parts) -> None:
    old, other = random.choice(list(parts.tensors)), random.choice(list(parts.tensors))
    tensor = parts.tensors.pop(old)
    new = random.choice((old[:-1], old.replace("blk.0", "blk.7"), other + "x", "blk.-1.attn_q.weight", "blk.0.weight"))
    parts.tensors.setdefault(new, (new, *tensor[1:]))


def _change_data(random: Random, parts: Parts) -> None:
    """A tensor of one value, or of noise."""
    name, shape, type_name, data = parts.tensors[random.choice(list(parts.tensors))]
    pattern = random.choice((struct.pack("<f", random.choice(_REALS)), b"\0", b"\xff", random.randbytes(7)))
    parts.tensors[name] = (name, shape, type_name, (pattern * (len(data) // len(pattern) + 1))[: len(data)])


def _extreme_weights(random: Random, parts: Parts) -> None:
    """Finite f32 weights that overflow as soon as they are used."""
    names = [name for name, tensor in parts.tensors.items() if tensor[2] == "f32" and name != "rope_freqs.weight"]
    for name in random.sample(names, random.randint(1, len(names))):
        value = struct.pack("<f", random.choice((3.4e38, -3.4e38, 1e30, 1e-38, 0.0)))
        parts.tensors[name] = (*parts.tensors[name][:3], value * (len(parts.tensors[name][3]) // 4))


MEANING: dict[str, Callable[[Random, Parts], None]] = {
    "value": _change_value,
    "hyper-parameter": _change_hyperparameter,
    "two hyper-parameters": _change_two_hyperparameters,
    "tokenizer": _change_tokenizer,
    "value of another type": _change_type,
    "added hyper-parameter": _add_hyperparameter,
    "added key": _add_general,
    "missing key": _drop_key,
    "other architecture": _rename_architecture,
    "missing tensor": _drop_tensor,
    "reshaped tensor": _reshape,
    "tensor of another type": _retype,
    "renamed tensor": _rename_tensor,
    "tensor's data": _change_data,
    "extreme weights": _extreme_weights,
}


def damaged(random: Random, original: Original) -> tuple[str, bytes]:
    """A kind of damage, and a file that has it."""
    if random.random() < 0.5:
        kind = random.choice(list(BYTES))
        return kind, BYTES[kind](random, original)
    kind = random.choice(list(MEANING))
    parts = Parts(dict(original.parts.metadata), dict(original.parts.tensors))
    MEANING[kind](random, parts)
    return kind, parts.to_bytes()

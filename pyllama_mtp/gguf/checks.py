"""What a GGUF says must make sense: checked after its structure (pyllama_mtp.gguf) and before llama.cpp sees the file.

llama.cpp asserts much of this, and a failed assertion ends the process. Of any architecture: files of a split model,
the sizes that every loader reads, and the tokenizer. Of gemma4 targets and their heads also every hyper-parameter and
tensor: see pyllama_mtp.gguf.gemma4_checks.
"""

import os
import re
from dataclasses import replace

import numpy as np

from pyllama_mtp.errors import IncompatibleHeadError, ModelLoadError, shown
from pyllama_mtp.gguf import gemma4_checks
from pyllama_mtp.gguf.format import GGUFFile, StringArray, read_header
from pyllama_mtp.gguf.hyperparameters import HyperParameters

HEAD_ARCHITECTURES = ("gemma4-assistant", "gemma4_assistant", "gemma4_mtp")
MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # llama.cpp's LLAMA_MAX_EXPERTS
MAX_SPLITS = 4096
MAX_TOKEN_BYTES = 1 << 16
MAX_DIFFERENT_TOKENS = 0.01  # of a head's and its target's vocabulary: releases rename a few
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_BYTE = 6  # the last token type: the text is <0xXX>
_WITHOUT_BYTES = ("bert", "rwkv", "test")  # tokenizers of llama.cpp that abort at such a token


def check_target(path: str | os.PathLike[str]) -> GGUFFile:
    """The header of a target, everything in it checked. Raises ModelLoadError."""
    header = _with_splits(read_header(path))
    if header.architecture is None:
        raise ModelLoadError(f"{path} names no general.architecture: it is not a model")
    if header.architecture in HEAD_ARCHITECTURES:
        raise ModelLoadError(f"{path} is an MTP head, expected a target model: pass it as mtp_head beside its target")
    parameters = HyperParameters(header, header.architecture)
    _check_sizes(parameters)
    tokens = _check_tokenizer(header)
    if header.architecture == "gemma4":
        gemma4_checks.check_target(parameters, len(tokens))
    return header


def check_head(path: str | os.PathLike[str], target: GGUFFile) -> GGUFFile:
    """The header of an MTP head. Raises ModelLoadError, or IncompatibleHeadError if it is none or has another
    vocabulary than the target.

    Whether its sizes are the target's is left to csrc/drafters/gemma4/mtp_head.cpp, which reads the file by itself.
    """
    header = read_header(path)
    if header.architecture not in HEAD_ARCHITECTURES:
        raise IncompatibleHeadError(
            f"{path} is a model of architecture {shown(repr(header.architecture))}, expected an MTP head "
            "(gemma4-assistant): pass the file that convert-assistant made as mtp_head"
        )
    gemma4_checks.check_head(HyperParameters(header, header.architecture))
    _check_same_vocabulary(header, target)
    return header


def _with_splits(first: GGUFFile) -> GGUFFile:
    """llama.cpp opens the other files of a split model by itself: the header with the tensors of all of them."""
    if "split.count" not in first.metadata:
        return first
    count = first.metadata["split.count"]
    if first.types["split.count"] != "u16" or count > MAX_SPLITS:
        raise ModelLoadError(f"split.count of {first.path} is {shown(repr(count))}, expected a u16 up to {MAX_SPLITS}")
    if count <= 1:
        return first
    match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", first.path.name, re.DOTALL)
    if match is None or int(match[2]) != count:
        raise ModelLoadError(
            f"{first.path} is one of {count} files: pass the first one, named NAME-00001-of-{count:05}.gguf"
        )
    tensors = dict(first.tensors)
    for number in range(count):
        name = f"{match[1]}-{number + 1:05}-of-{count:05}.gguf"
        part = first if number == 0 else read_header(first.path.with_name(name))
        if part.types.get("split.no") != "u16" or part.metadata["split.no"] != number:
            raise ModelLoadError(
                f"split.no of {part.path} is {shown(repr(part.metadata.get('split.no')))}, expected {number} as a u16"
            )
        if number and not tensors.keys().isdisjoint(part.tensors):
            raise ModelLoadError(f"{part.path} repeats a tensor of the files before it: get the model again")
        tensors |= part.tensors
    return replace(first, tensors=tensors)


def _check_sizes(parameters: HyperParameters) -> None:
    """What llama.cpp asserts of every architecture."""
    n_layer = parameters.integer("block_count", 1, MAX_LAYERS)
    parameters.integer("nextn_predict_layers", 0, n_layer, default=0)
    n_expert = parameters.integer("expert_count", 0, MAX_EXPERTS, default=0)
    used = parameters.integers("expert_used_count", 0, n_expert, n_layer, default=0)
    if n_expert > 0 and max(used) == 0:
        raise parameters.fail("expert_used_count", 0, f"1..{n_expert}")
    n_groups = parameters.integer("expert_group_count", 0, max(0, n_expert - 1), default=0)
    if n_groups > 1:
        if n_expert % n_groups:
            raise parameters.fail("expert_group_count", n_groups, f"a divisor of {n_expert} experts")
        parameters.integer("expert_group_used_count", 1, n_groups - 1)
    parameters.choice("rope.scaling.type", _ROPE_SCALING, default="linear")
    for key in ("context_length", "embedding_length"):
        parameters.integer(key, 1, 1 << 30)


def _check_tokenizer(header: GGUFFile) -> StringArray:
    """The tokens of a model. Raises ModelLoadError if llama.cpp could not use its tokenizer."""

    def fail(what: str) -> ModelLoadError:
        return ModelLoadError(f"the tokenizer of {header.path} {what}. The file is damaged: get it again.")

    prefix = "tokenizer.ggml"
    kind, tokens = header.metadata.get(f"{prefix}.model"), header.metadata.get(f"{prefix}.tokens")
    if not isinstance(kind, str) or kind in ("", "none", "no_vocab"):
        raise fail("is missing")
    if not isinstance(tokens, StringArray) or len(tokens) == 0:
        raise fail("has no tokens")
    # llama.cpp reads C strings, and gives an empty one a name with its number.
    raw = [token.split(b"\0", 1)[0] or b"[EMPTY_%d]" % i for i, token in enumerate(tokens.all_raw())]
    if len(set(raw)) != len(raw):
        raise fail("has the same token twice")
    if max(map(len, raw)) > MAX_TOKEN_BYTES:
        raise fail(f"has a token of {max(map(len, raw))} bytes, expected at most {MAX_TOKEN_BYTES}")
    for key, value_types in (("scores", ("[f32]", "[i32]")), ("token_type", ("[i32]",))):
        name = f"{prefix}.{key}"
        if name in header.metadata:
            if header.types[name] not in value_types or len(header.metadata[name]) != len(tokens):
                raise fail(f"has {key} of type {header.types[name]}, expected {len(tokens)} of type {value_types[0]}")
    types = header.metadata.get(f"{prefix}.token_type", np.zeros(0, np.int32))
    if np.isnan(header.metadata.get(f"{prefix}.scores", types)).any():
        raise fail("has scores that are no numbers")
    if types.size and not (types.min() >= 0 and types.max() <= _BYTE):
        raise fail(f"has token types from {types.min()} to {types.max()}, expected 0..{_BYTE}")
    byte_tokens = np.flatnonzero(types == _BYTE)
    if byte_tokens.size and kind in _WITHOUT_BYTES:
        raise fail(f"is of the kind {kind}, which has no byte tokens")
    for index in byte_tokens:
        if re.fullmatch(rb"<0x[0-9A-Fa-f]{2}>", raw[index]) is None:
            raise fail(f"has the byte token {shown(raw[index])}, expected <0x00> to <0xFF>")
    for name, value in header.metadata.items():
        if re.fullmatch(rf"{prefix}\.(bos|eos|eot|eom|unknown|padding|mask|seperator|fim_\w+)_token_id", name):
            if header.types[name] != "u32" or value >= len(tokens):
                raise fail(
                    f"has the {shown(name)} {shown(repr(value))} ({header.types[name]}), "
                    f"expected a u32 below {len(tokens)}"
                )
    merges = header.metadata.get(f"{prefix}.merges")
    if merges is not None and not (isinstance(merges, StringArray) and merges.holds(ord(" "), begin=1).all()):
        raise fail("has merges that are no two pieces with a space between")
    return tokens


def _check_same_vocabulary(head: GGUFFile, target: GGUFFile) -> None:
    ours: StringArray | None = head.metadata.get("tokenizer.ggml.tokens")  # check_head() has seen them
    theirs: StringArray = target.metadata["tokenizer.ggml.tokens"]  # check_target() has seen them
    if ours is None or ours.encoded == theirs.encoded:
        return  # without a vocabulary the sizes are compared by csrc/drafters/gemma4/mtp_head.cpp
    pairs = zip(ours.all_raw(), theirs.all_raw(), strict=False)
    different = abs(len(ours) - len(theirs)) + sum(a != b for a, b in pairs)
    if different > MAX_DIFFERENT_TOKENS * len(theirs):
        raise IncompatibleHeadError(
            f"the MTP head was made for another target: {different} of the {len(theirs)} tokens of its vocabulary "
            "differ from the target's. Use the assistant that belongs to this model."
        )

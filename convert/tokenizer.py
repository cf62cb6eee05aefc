"""Tokenizer metadata of a GGUF out of a checkpoint's tokenizer.json, tokenizer_config.json and chat template."""

import re
from pathlib import Path
from typing import Any

from pyllama_mtp.convert.checkpoint import is_there, read_file, read_json
from pyllama_mtp.errors import ConversionError, shown
from pyllama_mtp.gguf.format import Entry

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
SCORE = -1000.0  # BPE needs no scores, llama.cpp wants some
SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}
# Markers that a chat parser must see are rendered although they are special.
RENDERED = frozenset(
    {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}
)
MAX_TEMPLATE_BYTES = 1 << 20


def tokenizer_metadata(folder: Path, n_vocab: int) -> dict[str, Entry]:
    """The tokenizer.* keys, as llama.cpp's `gemma4` tokenizer wants them. Raises ConversionError."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if is_there(config_path) else {}
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise ConversionError(f"{path} holds no BPE model")
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in added):
        raise ConversionError(f"added_tokens of {path} is no list of tokens")
    ids = dict(model["vocab"]) | {token["content"]: token.get("id") for token in added}
    tokens = _by_id(path, ids, n_vocab)
    special = {token["content"] for token in added if token.get("special")}
    merges = model.get("merges") or []
    if not isinstance(merges, list):
        raise ConversionError(f"merges of {path} is a {type(merges).__name__}, expected a list")
    entries = {
        "tokenizer.ggml.model": Entry("string", "gemma4"),
        "tokenizer.ggml.tokens": Entry("[string]", tokens),
        "tokenizer.ggml.scores": Entry("[f32]", [SCORE] * n_vocab),
        "tokenizer.ggml.token_type": Entry("[i32]", [_type(token, special, model["vocab"]) for token in tokens]),
        "tokenizer.ggml.merges": Entry("[string]", [_merge(path, merge) for merge in merges]),
    }
    for name, key in SPECIAL_TOKENS.items():
        token = config.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is None:
            continue
        if not isinstance(token, str) or token not in ids:
            raise ConversionError(f"{name}_token of {config_path} is {shown(repr(token))}, which the vocabulary lacks")
        entries[f"tokenizer.ggml.{key}_token_id"] = Entry("u32", ids[token])
    entries["tokenizer.ggml.add_bos_token"] = Entry("bool", True)
    entries["tokenizer.ggml.add_sep_token"] = Entry("bool", False)
    template = _chat_template(folder, config)
    if template is not None:
        entries["tokenizer.chat_template"] = Entry("string", template)
    entries["tokenizer.ggml.add_space_prefix"] = Entry("bool", False)
    return entries


def _by_id(path: Path, ids: dict[str, object], n_vocab: int) -> list[str]:
    tokens: dict[int, str] = {}
    for token, index in ids.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_vocab or index in tokens:
            raise ConversionError(
                f"{path} gives token {shown(repr(token))} the id {shown(repr(index))}, "
                f"expected ids 0..{n_vocab - 1}, each once"
            )
        tokens[index] = token
    if len(tokens) < n_vocab:
        without = next(index for index in range(n_vocab) if index not in tokens)
        raise ConversionError(f"{path} has {len(ids)} tokens, the embedding {n_vocab} rows: id {without} has no token")
    return [tokens[index] for index in range(n_vocab)]


def _type(token: str, special: set[str], vocab: dict[str, int]) -> int:
    if token in RENDERED:
        return USER_DEFINED
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
        return BYTE
    if token in special:
        return CONTROL
    return NORMAL if token in vocab else USER_DEFINED


def _merge(path: Path, merge: object) -> str:
    """A pair of pieces, joined by a space. A space inside a piece is written as U+0120, as llama.cpp's writer does."""
    if isinstance(merge, str):
        return merge
    if not (isinstance(merge, list) and len(merge) == 2 and all(isinstance(piece, str) for piece in merge)):
        raise ConversionError(f"{path} has the merge {shown(repr(merge))}, expected a pair of strings")
    return " ".join(piece.replace(" ", "\u0120") for piece in merge)


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if is_there(file):
        try:
            return read_file(file, MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ConversionError(f"{file} is no UTF-8 text: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # named templates
        template = next(
            (t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None
        )
    return template if isinstance(template, str) else None

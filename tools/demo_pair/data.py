"""Text, tokenizer and batches of the embedded pair.

The text is the source of the Python standard library (PSF licence).  Files are split into train and unseen by a
hash of their path, so that the split does not depend on order or machine.  Nothing here knows a model.
"""

import ast
import hashlib
import json
import pathlib
import random
import sysconfig
from dataclasses import dataclass

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer

VOCAB_SIZE = 2048
SPECIAL_TOKENS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
    "<|tool_response>", "<tool_response|>", '<|"|>', "<|channel>", "<channel|>", "<|think|>", "<|turn>", "<turn|>",
]  # fmt: skip
RESERVED = [f"<unused{i}>" for i in range(32 - len(SPECIAL_TOKENS))]
EOS, BOS = SPECIAL_TOKENS.index("<eos>"), SPECIAL_TOKENS.index("<bos>")
TURN_END = SPECIAL_TOKENS.index("<turn|>")

CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{{- '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
{{- message['content'] | trim -}}
{{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|turn>model\\n' -}}
{%- endif -%}
"""

# Where merges may form while the vocabulary is learnt: line ends, indentation, words, digits and operators stay
# apart. Encoding itself does not split, as in Gemma: a merge that was never learnt cannot happen.
WORDS = Regex(r"\n+|▁?[A-Za-z]+|▁?_+|▁?[0-9]|▁?[^\w\s▁]+|▁+|.")


@dataclass(frozen=True, slots=True)
class Source:
    name: str  # path relative to the library, with forward slashes
    text: str

    @property
    def is_test(self) -> bool:
        return "test" in self.name.split("/")[0] or "/test" in self.name

    @property
    def is_unseen(self) -> bool:
        return hashlib.sha256(self.name.encode()).digest()[0] < 13  # 13 of 256: 5 %


def read_sources(library: pathlib.Path | None = None) -> list[Source]:
    """Every readable source file of the standard library, data tables left out, in the order of the names."""
    root = library or pathlib.Path(sysconfig.get_paths()["stdlib"])
    sources = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "site-packages" in name or "dist-packages" in name or name.startswith(("encodings/", "pydoc_data/")):
            continue
        try:
            text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue  # a file that tests other encodings
        digits = sum(c.isdigit() for c in text)
        if len(text) < 200 or not text.isascii() or digits > 0.12 * len(text) or len(text) > 60 * text.count("\n"):
            continue
        sources.append(Source(name, text))
    if len(sources) < 100:
        raise SystemExit(f"{root} holds {len(sources)} usable source files; give the standard library with --library")
    return sources


def train_tokenizer(texts: list[str]) -> GemmaTokenizer:
    """A BPE vocabulary of VOCAB_SIZE in Gemma's form: special tokens, 256 bytes, characters, merges."""
    alphabet = sorted({c for text in texts for c in text if c != " "} | {"▁"})
    n_fixed = len(SPECIAL_TOKENS) + len(RESERVED) + 256
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(WORDS, "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - n_fixed, initial_alphabet=alphabet, show_progress=False, max_token_length=32
    )
    learner.train_from_iterator(texts, trainer)
    learnt = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    fixed = SPECIAL_TOKENS + RESERVED + [f"<0x{b:02X}>" for b in range(256)]
    vocab = {piece: i for i, piece in enumerate(fixed + [piece for piece, _ in learnt])}
    if len(vocab) != VOCAB_SIZE:
        raise SystemExit(f"the vocabulary has {len(vocab)} tokens, expected {VOCAB_SIZE}: more text is needed")
    merges = [tuple(pair) for pair in _merges(learner)]
    tokenizer = GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        additional_special_tokens=SPECIAL_TOKENS[5:] + RESERVED,
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


def _merges(learner: Tokenizer) -> list[list[str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [m.split(" ") if isinstance(m, str) else m for m in merges]


def chat_texts(source: Source) -> list[str]:
    """Turns made of the functions of a file: the user names one, the model writes it."""
    try:
        tree = ast.parse(source.text)
    except (SyntaxError, ValueError):
        return []
    lines = source.text.split("\n")
    texts = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not 3 <= node.end_lineno - node.lineno <= 40:
            continue
        purpose = (ast.get_docstring(node) or "").split("\n")[0].strip()
        request = f"Write a function {node.name}({', '.join(a.arg for a in node.args.args)})."
        request += f" {purpose}" if purpose else ""
        body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        texts.append(f"<|turn>user\n{request}<turn|>\n<|turn>model\n{body}<turn|>\n")
    return texts


def encode(tokenizer: GemmaTokenizer, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token streams, each a concatenation of documents that end in <eos>. dtype int16, ids < 2048."""

    library: np.ndarray
    tests: np.ndarray
    chat: np.ndarray
    unseen: np.ndarray

    @classmethod
    def build(cls, tokenizer: GemmaTokenizer, sources: list[Source]) -> "Corpus":
        streams: dict[str, list[int]] = {"library": [], "tests": [], "chat": [], "unseen": []}
        order = list(sources)
        random.Random(1).shuffle(order)
        for source in order:
            ids = encode(tokenizer, source.text) + [EOS]
            if source.is_unseen:
                streams["unseen"] += ids
                continue
            streams["tests" if source.is_test else "library"] += ids
            if not source.is_test:
                for text in chat_texts(source):
                    streams["chat"] += [BOS, *encode(tokenizer, text)]
        return cls(**{name: np.array(ids, dtype=np.int16) for name, ids in streams.items()})

    def batch(self, rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
        """[rows, length + 1] int64 windows, each behind a <bos>: .55 library, .37 tests, .08 chat."""
        out = np.full((rows, length + 1), BOS, dtype=np.int64)
        for row in out:
            stream = (self.library, self.tests, self.chat)[rng.choice(3, p=(0.55, 0.37, 0.08))]
            start = rng.integers(len(stream) - length)
            if stream is self.chat:  # behind the <bos> of a conversation
                first = np.flatnonzero(stream == BOS) + 1
                start = rng.choice(first[first <= len(stream) - length])
            row[1:] = stream[start : start + length]
        return out

    def unseen_windows(self, rows: int, length: int) -> np.ndarray:
        """[rows, length + 1] int64 windows at even distances over the unseen text, each behind a <bos>."""
        starts = np.linspace(0, len(self.unseen) - length - 1, rows).astype(int)
        windows = np.stack([self.unseen[s : s + length] for s in starts]).astype(np.int64)
        return np.concatenate([np.full((rows, 1), BOS), windows], axis=1)

"""llguidance's matchers as the library's grammars: no line of Python runs while one restricts a completion.

llguidance is used through its C functions (llguidance.h), which the shared object of its wheel exports; the library
calls them from pmtp_matcher_masks() on the thread that steps. Its Python package is not imported.
"""

import functools
import hashlib
import importlib.util
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyllama_mtp._library import ffi, lib, text_of
from pyllama_mtp._native import NativeModel
from pyllama_mtp.errors import GrammarError, InvalidRequestError, NativeLibraryError, PyllamaMtpError, one_line

_DECLARATIONS = """
typedef struct LlgTokenizer LlgTokenizer;
typedef struct LlgMatcher LlgMatcher;
typedef struct LlgParserLimits {
    size_t max_items_in_row;
    uint64_t initial_lexer_fuel;
    uint64_t step_lexer_fuel;
    size_t step_max_items;
    size_t max_lexer_states;
    size_t max_grammar_size;
    bool precompute_large_lexemes;
    bool verbose_errors;
} LlgParserLimits;
typedef struct LlgConstraintInit {
    const LlgTokenizer * tokenizer;
    uint32_t log_buffer_level;
    uint32_t log_stderr_level;
    bool ff_tokens_ok;
    bool backtrack_ok;
    LlgParserLimits limits;
    char later_fields[256];
} LlgConstraintInit;
typedef struct LlgTokenizerInitV2 {
    size_t struct_size;
    uint32_t vocab_size;
    uint32_t tok_eos;
    const uint32_t * token_lens;
    const uint8_t * token_bytes;
    const char * tokenizer_json;
    bool tokenize_assumes_string;
    void * tokenize_fn;
    bool use_approximate_greedy_tokenize_fn;
    const void * tokenize_user_data;
    const char * const * slices;
    const uint32_t * tok_eos_extra;
    uint32_t tok_eos_extra_count;
} LlgTokenizerInitV2;
LlgTokenizer * llg_new_tokenizer_v2(const LlgTokenizerInitV2 * init, char * error, size_t error_len);
void llg_free_tokenizer(LlgTokenizer * tokenizer);
void llg_constraint_init_set_defaults(LlgConstraintInit * init, const LlgTokenizer * tokenizer);
LlgMatcher * llg_new_matcher(const LlgConstraintInit * init, const char * type, const char * data);
const char * llg_matcher_get_error(LlgMatcher * matcher);
void llg_free_matcher(LlgMatcher * matcher);
int32_t llg_matcher_compute_mask_into(void * matcher, uint32_t * mask, size_t n_bytes);
int32_t llg_matcher_consume_tokens(void * matcher, const uint32_t * tokens, size_t n);
int32_t llg_matcher_rollback(void * matcher, size_t n);
int32_t llg_matcher_validate_tokens(void * matcher, const uint32_t * tokens, size_t n);
bool llg_matcher_is_accepting(LlgMatcher * matcher);
"""
_MAX_ERROR_CHARS = 500
_CONTROL = b"\xff"

ffi.cdef(_DECLARATIONS)

# Phases of a pmtp_matcher.
BEGUN, IN_THOUGHT, BEFORE_ALL, IN_TEXT = range(4)


@functools.cache
def _llguidance() -> Any:
    """Its functions. Raises NativeLibraryError."""
    spec = importlib.util.find_spec("llguidance")
    if spec is None or not spec.submodule_search_locations:
        raise NativeLibraryError("llguidance is missing, which constrained output needs: pip install 'llguidance>=1.9'")
    folder = Path(spec.submodule_search_locations[0])
    path = next(folder.glob("_lib*.so"), None)
    if path is None:
        raise NativeLibraryError(f"llguidance has no shared object in {folder}: install it again")
    try:
        found = ffi.dlopen(str(path))
        found.llg_new_tokenizer_v2, found.llg_matcher_validate_tokens  # noqa: B018  they are looked up when they are named
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(
            f"{path} does not export llguidance's C functions ({error}): install llguidance>=1.9,<2"
        ) from error
    return found


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token bytes one after another, their lengths (uint32 [n_vocab]), and the tokens that end a completion.

    Control tokens and those without a text begin with the byte 255, which no text has.
    """

    token_bytes: bytes
    lengths: npt.NDArray[np.uint32]
    ends: Sequence[int]

    def digest(self) -> bytes:
        parts = (self.lengths.tobytes(), np.asarray(self.ends, np.int64).tobytes(), self.token_bytes)
        return hashlib.blake2b(b"".join(parts)).digest()


def vocabulary_of(native: NativeModel, marks: Sequence[int]) -> Vocabulary:
    """marks: control tokens that the file may call ordinary ones."""
    texts, sizes = native.vocabulary(special=False)
    names, name_sizes = native.vocabulary(special=True)
    control = np.union1d(np.flatnonzero(sizes == 0), np.asarray(marks, dtype=np.int64))
    ends, name_ends = np.cumsum(sizes, dtype=np.int64), np.cumsum(name_sizes, dtype=np.int64)
    parts, begin = [], 0
    for token in control:  # few; what lies between is taken as it is
        parts.append(texts[begin : ends[token] - sizes[token]])
        parts.append(_CONTROL + names[name_ends[token] - name_sizes[token] : name_ends[token]])
        begin = ends[token]
    parts.append(texts[begin:])
    sizes[control] = name_sizes[control] + 1
    return Vocabulary(b"".join(parts), sizes, native.end_tokens())


# Those of models that are loaded. llguidance cannot write them to a file, and they take seconds for 262144 tokens.
_tokenizers: "weakref.WeakValueDictionary[bytes, Tokenizer]" = weakref.WeakValueDictionary()


def tokenizer_of(vocabulary: Vocabulary) -> "Tokenizer":
    """The tables of a vocabulary, which models share. Raises GrammarError."""
    digest = vocabulary.digest()
    tokenizer = _tokenizers.get(digest)
    if tokenizer is None:
        tokenizer = _tokenizers[digest] = Tokenizer(vocabulary)
    return tokenizer


class Tokenizer:
    """llguidance's tables of a vocabulary. May be used by any thread."""

    def __init__(self, vocabulary: Vocabulary):
        functions = _llguidance()
        self.n_vocab = len(vocabulary.lengths)
        self.ends = ffi.new("int32_t[]", list(vocabulary.ends))
        extra = ffi.new("uint32_t[]", list(vocabulary.ends)[1:])
        error = ffi.new("char[]", _MAX_ERROR_CHARS)
        init = ffi.new("LlgTokenizerInitV2 *")
        init.struct_size = ffi.sizeof("LlgTokenizerInitV2")
        init.vocab_size = self.n_vocab
        init.tok_eos = vocabulary.ends[0] if len(vocabulary.ends) > 0 else 2**32 - 1
        init.token_lens = ffi.from_buffer("uint32_t *", vocabulary.lengths)
        init.token_bytes = ffi.from_buffer("uint8_t *", vocabulary.token_bytes)
        init.use_approximate_greedy_tokenize_fn = True
        init.tok_eos_extra = extra
        init.tok_eos_extra_count = len(extra)
        handle = functions.llg_new_tokenizer_v2(init, error, len(error))
        if handle == ffi.NULL:
            raise GrammarError(f"llguidance cannot use the vocabulary: {one_line(text_of(error))}")
        self.handle = ffi.gc(handle, functions.llg_free_tokenizer)


@dataclass(frozen=True, slots=True)
class Thoughts:
    """Where a grammar begins: the tokens around a thought, and the phase that a completion begins in. opens: in the
    phase IN_TEXT, the token with which the grammar begins; in the others one that a thought may not hold.
    """

    begin: int = -1
    end: int = -1
    phase: int = BEGUN
    opens: int = -1


class Matcher:
    """A grammar of one completion. Raises InvalidRequestError for a grammar that llguidance refuses."""

    calls_python = False

    def __init__(self, tokenizer: Tokenizer, grammar: bytes | None, thoughts: Thoughts):
        """grammar: in llguidance's own JSON; None: the token that opens it is forbidden."""
        functions = _llguidance()
        self._tokenizer = tokenizer  # must not be freed before
        self._functions = functions
        self._matcher = ffi.NULL
        if grammar is not None:
            init = ffi.new("LlgConstraintInit *")
            functions.llg_constraint_init_set_defaults(init, tokenizer.handle)
            init.log_buffer_level = init.log_stderr_level = 0
            init.limits.verbose_errors = False
            self._matcher = ffi.gc(functions.llg_new_matcher(init, b"llguidance", grammar), functions.llg_free_matcher)
            if (message := self._message()) is None:  # what no text can meet shows in the first mask
                mask = np.empty((tokenizer.n_vocab + 31) // 32, np.uint32)
                functions.llg_matcher_compute_mask_into(self._matcher, ffi.from_buffer("uint32_t *", mask), mask.nbytes)
                message = self._message()
            if message is not None:
                raise InvalidRequestError(f"the grammar is refused: {message}")
        matcher = self._struct = ffi.new("pmtp_matcher *")
        matcher.matcher = ffi.cast("void *", self._matcher)
        matcher.compute_mask = ffi.addressof(functions, "llg_matcher_compute_mask_into")
        matcher.consume = ffi.addressof(functions, "llg_matcher_consume_tokens")
        matcher.rollback = ffi.addressof(functions, "llg_matcher_rollback")
        matcher.validate = ffi.addressof(functions, "llg_matcher_validate_tokens")
        matcher.n_vocab = tokenizer.n_vocab
        matcher.ends, matcher.n_ends = tokenizer.ends, len(tokenizer.ends)
        matcher.thought_begin, matcher.thought_end = thoughts.begin, thoughts.end
        matcher.opens = thoughts.opens
        matcher.phase = thoughts.phase

    def _message(self) -> str | None:
        message = self._functions.llg_matcher_get_error(self._matcher) if self._matcher else ffi.NULL
        if message == ffi.NULL:
            return None
        return one_line(text_of(message).replace("<non-verbose/>", "").strip())[:_MAX_ERROR_CHARS]

    def apply_to(self, params: Any) -> None:
        """Makes it the grammar of pmtp_sequence_params, whose sequence it must outlive."""
        params.grammar.masks = ffi.addressof(lib, "pmtp_matcher_masks")
        params.grammar.commit = ffi.addressof(lib, "pmtp_matcher_commit")
        params.grammar.allows = ffi.addressof(lib, "pmtp_matcher_allows")
        params.grammar.user = self._struct

    def error(self) -> PyllamaMtpError | None:
        """Why it failed while the completion ran."""
        message = self._message()
        return None if message is None else GrammarError(f"the grammar failed while the text was generated: {message}")

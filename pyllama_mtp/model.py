"""A target model with its MTP head: loading, tokens, completions, logits."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pyllama_mtp._library import logged
from pyllama_mtp._native import NativeModel
from pyllama_mtp._sequence import NativeSequence
from pyllama_mtp.batch import complete_all
from pyllama_mtp.cpus import default_threads
from pyllama_mtp.errors import (
    InvalidRequestError,
    ModelClosedError,
    ModelLoadError,
    OutOfMemoryError,
    StateFileError,
    seen,
)
from pyllama_mtp.estimate import MemoryEstimate, estimate, free_bytes, largest_context, n_cells
from pyllama_mtp.gguf.checks import check_head, check_target
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.grammar.constraints import Constraints
from pyllama_mtp.grammar.options import GrammarOptions
from pyllama_mtp.info import ModelInfo, describe
from pyllama_mtp.loop import EngineLoop
from pyllama_mtp.names import CacheType, ContextLength, DrafterName, DraftLength, SamplingDefaults
from pyllama_mtp.options import (
    BatchRequest,
    ChatOptions,
    ChatRequest,
    ModelOptions,
    PromptRequest,
    Request,
    SamplingOptions,
    method_takes,
    values_of,
)
from pyllama_mtp.output import Outputs
from pyllama_mtp.output_options import OutputOptions
from pyllama_mtp.part_files import replacing
from pyllama_mtp.pretrained import read_response_schema
from pyllama_mtp.progress import Progress, load_meter
from pyllama_mtp.prompt import Prompts, named_tokens
from pyllama_mtp.ranges import Integer
from pyllama_mtp.results import Completion, Usage
from pyllama_mtp.sampling import NEUTRAL, Sampling, sampling_of
from pyllama_mtp.stream import AsyncStream, BaseStream, Stream

DEFAULT_N_CTX = 4096

AnyStream = TypeVar("AnyStream", bound=BaseStream)


def _context_length(target: GGUFFile, head: GGUFFile | None, options: ModelOptions) -> int:
    """Tokens of a sequence. Raises InvalidRequestError if "max" cannot be told, or nothing fits."""
    value = target.metadata.get(f"{target.architecture}.context_length")
    trained = value if isinstance(value, int) and value > 0 else DEFAULT_N_CTX
    if options.n_ctx == "max":
        return largest_context(target, head, options, trained, free_bytes())
    return options.n_ctx or min(DEFAULT_N_CTX, trained)


class Model:
    """A target model, its MTP head if one is given, and one KV cache. Use it as a context manager, or call close().

    target, mtp_head: GGUF files. n_ctx: tokens of prompt and completion together (default: 4096, or as trained if that
    is less; "max": as many, up to those trained, as fit into nine tenths of the memory that is free). max_num_seqs:
    completions that are decoded together, 1..64; on a GPU n_ctx tokens of all of them. Up to max_queue more wait for
    their turn. drafter: "mtp" (the head), "ngram" (what followed the last tokens where they stood before), "none", or
    "auto": the head if there is one. prefix_cache_bytes: memory for what lets prompts begin where an earlier text had
    got to, beside the KV cache itself. num_speculative_tokens: 0..16 drafts a round, or "auto". cache_type_k,
    cache_type_v: types of the KV cache (f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl, turbo4, turbo3, turbo2);
    cache_type_k_swa, cache_type_v_swa: of the sliding layers, None: the same. n_gpu_layers: -1 for all. n_threads:
    default: one for each core that this process may use. n_batch: most prompt tokens evaluated at once.
    flash_attention: None where it is supported. sampling_defaults: what completions take for the sampling options that
    they leave out: "model": the file's own (general.sampling.*), else those published for its architecture; "vllm": the
    neutral ones. response_schema: what completions take for the option of that name where the vocabulary has no marks
    of thoughts and calls.
    progress: called while the model loads, on this thread, with bytes done, bytes in all, and what is being done; True:
    a line on the terminal. What it or a signal handler raises ends the load.

    Raises ModelLoadError, IncompatibleHeadError, InvalidRequestError. Any number of threads and tasks may use a model.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        mtp_head: str | os.PathLike[str] | None = None,
        n_ctx: ContextLength | None = None,
        max_num_seqs: int = 4,
        max_queue: int = 128,
        drafter: DrafterName = "auto",
        prefix_cache_bytes: int = 256 << 20,
        num_speculative_tokens: DraftLength = "auto",
        cache_type_k: CacheType = "f16",
        cache_type_v: CacheType = "f16",
        cache_type_k_swa: CacheType | None = None,
        cache_type_v_swa: CacheType | None = None,
        n_gpu_layers: int = -1,
        n_threads: int | None = None,
        n_batch: int = 512,
        flash_attention: bool | None = None,
        sampling_defaults: SamplingDefaults = "model",
        response_schema: Mapping[str, Any] | None = None,
        progress: bool | Progress | None = None,
    ):
        self._loop: EngineLoop | None = None
        self.options = ModelOptions(
            n_ctx=n_ctx,
            max_num_seqs=max_num_seqs,
            max_queue=max_queue,
            drafter=drafter,
            prefix_cache_bytes=prefix_cache_bytes,
            num_speculative_tokens=num_speculative_tokens,
            cache_type_k=cache_type_k,
            cache_type_v=cache_type_v,
            cache_type_k_swa=cache_type_k_swa,
            cache_type_v_swa=cache_type_v_swa,
            n_gpu_layers=n_gpu_layers,
            n_threads=n_threads,
            n_batch=n_batch,
            flash_attention=flash_attention,
            sampling_defaults=sampling_defaults,
            response_schema=response_schema,
        )
        for path in (target, mtp_head):
            if not isinstance(path, str | os.PathLike | None):
                raise ModelLoadError(f"the path of a model is {seen(path)}, expected str or os.PathLike")
        header = check_target(target)
        head = None if mtp_head is None else check_head(mtp_head, header)
        head_path = None if head is None else str(head.path)
        self._sampling = sampling_of(header) if self.options.sampling_defaults == "model" else NEUTRAL
        sizes = replace(
            self.options,
            n_ctx=_context_length(header, head, self.options),
            n_threads=self.options.n_threads or default_threads(),
        )
        meter = load_meter(progress, header.path, head_path)
        native = NativeModel(str(header.path), head_path, sizes, n_cells(sizes, cast(int, sizes.n_ctx)), meter)
        try:
            self._info, special = describe(native, header.path.stem, self.options, self._sampling)
            self._prompts = Prompts(native, self._info, special, named_tokens(header))
            self._outputs = Outputs(native)
            self._constraints = Constraints(native, self._outputs.format, self._info.n_vocab)
            self._loop = EngineLoop(native, self._info.max_num_seqs, sizes.max_queue)
        except BaseException:
            native.close()
            raise

    @classmethod
    def from_pretrained(
        cls,
        repo: str | os.PathLike[str],
        file_pattern: str | None = None,
        *,
        mtp_head: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        progress: bool | Progress | None = None,
        **options: Any,
    ) -> "Model":
        """A model out of a repository of the Hugging Face hub, downloaded and kept, or out of a local folder.

        repo: "owner/repo", or "owner/repo:QUANT"; a folder of that name wins. file_pattern: such as "*Q4_0.gguf", or a
        quantisation; None: Q4_K_M, Q4_0, Q8_0, or the first. mtp_head: a file, "owner/repo", whose checkpoint is
        converted once and kept, or "auto": the assistant that belongs to the target. revision: of repo. options: those
        of Model; response_schema comes from the repository's tokenizer_config.json unless it is given. See
        docs/models.md. Raises what Model does, DownloadError, and ConversionError.
        """
        from pyllama_mtp.hub.finding import find_pretrained

        found = find_pretrained(repo, file_pattern, mtp_head, revision, progress or False)
        if "response_schema" not in options:
            options["response_schema"] = read_response_schema(found.tokenizer_config)
        return cls(found.files.target, mtp_head=found.files.mtp_head, progress=progress, **options)

    @staticmethod
    def estimate(
        target: str | os.PathLike[str],
        *,
        mtp_head: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> MemoryEstimate:
        """What a model will take of memory, from the headers of its files: nothing is loaded. options: those of Model.
        Raises what Model does, and InvalidRequestError for another architecture than gemma4.
        """
        header = check_target(target)
        head = None if mtp_head is None else check_head(mtp_head, header)
        load = ModelOptions(**options)
        return estimate(header, head, load, _context_length(header, head, load))

    @property
    def info(self) -> ModelInfo:
        """What was loaded, and where it is."""
        return self._info

    @property
    def usage(self) -> Usage:
        """What is in use now; waits for a step that is under way. Raises ModelClosedError."""
        return Usage(**self._open().native.usage())

    @method_takes(Request)
    def generate(self, request: Request) -> Stream:
        """Begins a completion; nothing is computed before the stream is read.

        prompt: text, token ids, or messages ({"role": ..., "content": ...}) for the model's own chat template, or
        chat_template. tools: declarations in OpenAI's shape. chat_template_kwargs: variables of the template, such as
        {"enable_thinking": True}. add_generation_prompt: open the model's turn. continue_final_message: leave the last
        message open instead; None: if it is the model's and has text. Sampling options have the names, meanings and
        ranges of vLLM's SamplingParams, except max_tokens: None is until the context is full. temperature, top_p,
        top_k, min_p and repetition_penalty None: those of Model.info.sampling. temperature 0 is greedy; top_k 0 or -1
        is all; logprobs: with each token so many best ones. seed None: one is drawn and reported in Stream.stats.seed.
        num_speculative_tokens None: as the model was loaded.
        acceptance: "coupled" (the same seed gives the same text whatever num_speculative_tokens is), "rejection" (by
        p/q), "rejection_greedy" (likewise, with greedy drafts), "block" (block verification); all give exactly the
        target's distribution. "auto": coupled if a seed is given, else the one that accepts most.
        synthetic_acceptance: for benchmarks: the share of rounds that accept the first draft, the first two ...,
        whatever was drafted; all work is done, the text is senseless. trace: record Stream.rounds.
        response_format (OpenAI's json_schema or json_object), regex, choice, grammar (Lark), logits_mask (a callable of
        the token ids so far that gives those which may come next): at most one; what the text may be. tool_choice:
        "auto", "none", "required" or {"type": "function", "function": {"name": ...}}. See docs/grammar.md. The first
        grammar of a vocabulary takes some seconds for 262144 tokens.

        raw: all that the model writes is text, its marks of thoughts and calls and its control tokens included. echo:
        the text begins with the prompt's. prompt_logprobs: in the first chunk, with each token of the prompt so many
        best ones; the whole prompt is evaluated then. response_schema: a response_template, or the older
        response_schema, of a tokenizer_config.json, which says what is text, thought or call.

        Raises InvalidRequestError, ContextOverflowError, ChatTemplateError, ModelClosedError, and QueueFullError where
        max_queue completions wait for their turn. Reading raises GrammarError where a grammar fails amid the text.
        """
        stream, begin = self._new(request, Stream)
        try:
            begin(stream)
        except BaseException:
            stream.close()
            raise
        return stream

    @method_takes(Request)
    def agenerate(self, request: Request) -> AsyncStream:
        """generate() for asyncio: `async for chunk in model.agenerate(...)`, in any event loop, or in several.

        It returns at once: messages are rendered and text is split on another thread, so what is wrong with a prompt,
        and QueueFullError, are raised where the stream is read.
        """
        stream, begin = self._new(request, AsyncStream)
        stream.prepare(begin)
        return stream

    @method_takes(BatchRequest)
    def generate_all(self, request: BatchRequest) -> Iterator[Completion]:
        """Completes several prompts, decoded together: an iterator over their Completions in the order of the prompts.

        prompts: any iterable, of which no more is taken than can begin. Options are those of generate() and apply to
        every prompt; seed None: one is drawn for each. A prompt that fails, such as one that is too long, fails by
        itself: its Completion has `error`. Leaving the iterator ends what runs. Raises InvalidRequestError for an
        option, and ModelClosedError.
        """
        options = (
            values_of(SamplingOptions, request)
            | values_of(ChatOptions, request)
            | values_of(OutputOptions, request)
            | values_of(GrammarOptions, request)
        )
        loop = self._open()
        return complete_all(
            request.prompts, lambda prompt: self.generate(prompt, **options), loop, self._info.max_num_seqs
        )

    def _new(self, request: Request, kind: type[AnyStream]) -> tuple[AnyStream, Callable[[BaseStream], None]]:
        """A stream, and what has its completion begin. Raises InvalidRequestError, ModelClosedError."""
        loop = self._open()
        k, schema = request.num_speculative_tokens, request.response_schema
        options = replace(
            self._sampling.fill(request),
            num_speculative_tokens=self.options.num_speculative_tokens if k is None else k,
            response_schema=self._outputs.default_schema(self.options) if schema is None else schema,
        )
        sequence = NativeSequence(options)
        producer = self._outputs.producer(sequence, options)

        def begin(stream: BaseStream) -> None:
            prompt = self._prompts.made(options.prompt, options)
            self._outputs.follow(producer, options, prompt.tokens)
            sequence.constrain(self._constraints.of(options, options.tools, prompt.tokens))
            logged(lambda: loop.begin(sequence, producer, stream, prompt.segments, options))
            producer.began()
            if sequence.cancelled:  # while the prompt was made
                sequence.cancel()

        sampling = Sampling.of(options)
        return kind(producer, loop, sequence.seed, options.trace, model=self, sampling=sampling), begin

    @method_takes(PromptRequest)
    def prompt_ids(self, request: PromptRequest) -> list[int]:
        """The token ids that generate() completes for this prompt. Raises InvalidRequestError, ChatTemplateError, and
        ContextOverflowError for a prompt that the context cannot hold.
        """
        return self._prompts.made(request.prompt, request).tokens

    @method_takes(ChatRequest)
    def render_chat(self, request: ChatRequest) -> str:
        """The prompt text that generate() makes of messages. As a prompt it is no longer told which of it the messages
        hold: special tokens in them would count. Raises InvalidRequestError, ChatTemplateError.
        """
        return self._prompts.render(request.messages, request).text

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of text. add_special: with the tokens that begin (and end) a text of this model. parse_special:
        text that names a control token, such as "<bos>", becomes that token. Raises InvalidRequestError.
        """
        return self._prompts.tokenize(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out. Bytes that are no UTF-8 become U+FFFD."""
        native = self._open().native
        data = b"".join(native.token_bytes(token, special=False) for token in self._prompts.checked_ids(ids))
        return data.decode("utf-8", "replace")

    def logits(self, ids: Sequence[int], *, n_batch: int = 32) -> npt.NDArray[np.float32]:
        """The target's logits at every position, float32 [len(ids), n_vocab], evaluated in batches of n_batch (1..32)
        rows, when the completions that run leave room for it. Raises InvalidRequestError,
        ContextOverflowError.
        """
        n_batch = Integer(1, 32).check("n_batch", n_batch)
        tokens = self._prompts.checked_ids(ids, self._info.n_ctx)
        loop = self._open()
        try:
            return logged(lambda: loop.alone(lambda: loop.native.logits(tokens, self._info.n_vocab, n_batch)))
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            n_bytes = 4 * len(tokens) * self._info.n_vocab
            raise InvalidRequestError(
                f"the logits of {len(tokens)} tokens take {n_bytes} bytes, more than there is memory: pass fewer"
            ) from error

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Writes what the KV cache keeps of ended completions to a file, for load_state() of a model that has the same
        weights and cache types; the file appears when it is complete. Raises StateFileError.
        """
        loop = self._open()
        try:
            with replacing(Path(path)) as part:
                logged(lambda: loop.alone(lambda: loop.native.save_state(part.name)))
        except (OSError, TypeError, ValueError) as error:
            raise StateFileError(f"cannot write {seen(path)}: {error}") from error

    def load_state(self, path: str | os.PathLike[str]) -> int:
        """Takes what save_state() wrote into the KV cache, the latest texts first, as far as there is room; returns how
        many. Raises StateFileError for a file that is none, truncated, altered, or of other weights or cache types.
        """
        loop = self._open()
        try:
            with open(path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StateFileError(f"{seen(path)} is no file")
                name = os.path.realpath(path)
        except (OSError, TypeError, ValueError) as error:
            raise StateFileError(f"cannot read {seen(path)}: {error}") from error
        return logged(lambda: loop.alone(lambda: loop.native.load_state(name)))

    def close(self) -> None:
        """Ends a running completion and frees everything. Idempotent; any thread may call it. In a signal handler that
        interrupts a call on the model it only asks for that: the call frees the model when it has ended.
        """
        if self._loop is not None:
            self._loop.close()

    def _open(self) -> EngineLoop:
        if self._loop is None or self._loop.closed:
            raise ModelClosedError("the model was closed: load it again")
        return self._loop

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise InvalidRequestError("a Model cannot be copied or pickled: load its file again where another is needed")

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""What a benchmark is asked for: parsed from the command line's words, checked, with the defaults of its prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pyllama_mtp._library import MAX_DRAFT
from pyllama_mtp.cpus import default_threads
from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.names import CacheType, DraftLength
from pyllama_mtp.options import LoadOptions, SamplingOptions, check_draft_length, values_of
from pyllama_mtp.ranges import Integer
from pyllama_mtp.sampling import NEUTRAL, Sampling

SPACE_INVADERS = "space-invaders"
TOKENS = "tokens"
PROMPT_KINDS = (TOKENS, SPACE_INVADERS)
# Of each kind of prompt: what is not said on the command line.
PROMPT_DEFAULTS: dict[str, dict[str, Any]] = {
    TOKENS: {"max_tokens": 128, "temperature": 0.0, "top_p": 1.0, "runs": 5, "warmup": 1},
    SPACE_INVADERS: {"max_tokens": 800, "temperature": 0.6, "top_p": 0.95, "runs": 1, "warmup": 0},
}
# A benchmark does not depend on what a file recommends.
NEUTRAL_SAMPLING: dict[str, Any] = {
    "top_k": NEUTRAL.top_k,
    "min_p": NEUTRAL.min_p,
    "repetition_penalty": NEUTRAL.repetition_penalty,
}
LOADING = ("n_threads", "n_gpu_layers", "cache_type_k", "cache_type_v", "cache_type_k_swa", "cache_type_v_swa")
DEFAULT_CONTEXT = 100
MAX_COUNT = 2**31 - 1

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Settings(SamplingOptions):
    """One benchmark: sampling options, whose draft length is not used, and more. max_tokens: at least 2, never None,
    as are those of Sampling.
    synthetic_acceptance: the first rates, see extended_rates. draft_lengths: those that draft, so 1..16 or "auto";
    plain decoding is always measured beside them. contexts: prompt tokens, for prompts of token ids. runs: counted
    completions of each prompt; warmup: such that come before and are not counted. peer: "llama.cpp" or None;
    peer_settings: see peer_sweep.
    """

    target: Path
    head: Path | None
    draft_lengths: tuple[DraftLength, ...]
    prompts: str
    contexts: tuple[int, ...]
    max_tokens: Annotated[int, Integer(2, MAX_COUNT)]
    n_threads: int
    n_gpu_layers: int
    cache_type_k: CacheType
    cache_type_v: CacheType
    cache_type_k_swa: CacheType | None
    cache_type_v_swa: CacheType | None
    runs: Annotated[int, Integer(1, MAX_COUNT)]
    warmup: Annotated[int, Integer(0, MAX_COUNT)]
    peer: str | None
    peer_settings: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(context < 2 for context in self.contexts):
            raise InvalidRequestError(f"contexts are {list(self.contexts)}, expected at least 2 tokens each")
        if self.prompts == SPACE_INVADERS and self.contexts:
            raise InvalidRequestError("contexts are for prompts of token ids: leave them out, or use --prompts tokens")
        if self.draft_lengths and self.head is None:
            raise InvalidRequestError("no MTP head to draft with: pass --mtp-head, or --num-speculative-tokens 0")
        own = {self.cache_type_k, self.cache_type_v, self.cache_type_k_swa, self.cache_type_v_swa} - {None, "f16"}
        if own and self.peer is not None:
            raise InvalidRequestError(f"a KV cache in {', '.join(sorted(map(str, own)))}: --peer is measured with f16")

    @property
    def load(self) -> dict[str, Any]:
        """Parameters of Model: how it is loaded."""
        return {name: getattr(self, name) for name in LOADING}

    def request(self, repetition: int, k: DraftLength) -> dict[str, Any]:
        """The parameters of Model.generate for one completion with k drafts a round."""
        rates = extended_rates(self.synthetic_acceptance, MAX_DRAFT if k == "auto" else k)
        own = {"seed": self.seed_of(repetition), "num_speculative_tokens": k, "synthetic_acceptance": rates}
        return values_of(SamplingOptions, self) | own

    def seed_of(self, repetition: int) -> int | None:
        """A seed of its own for each repetition. Greedy text needs none, but forced acceptance is drawn with it."""
        if self.seed is None:
            return None if Sampling.of(self).temperature > 0 else repetition
        return self.seed + repetition


def _loading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Settings that say how a model is loaded, checked. given: those that were said."""
    options = LoadOptions(**given)
    fields = {name: getattr(options, name) for name in LOADING}
    return fields | {"n_threads": options.n_threads or default_threads()}


def make_settings(
    target: Path,
    head: Path | None,
    *,
    draft_lengths: Sequence[DraftLength],
    prompts: str | None = None,
    contexts: Sequence[int] = (),
    ignore_eos: bool = False,
    load: Mapping[str, Any] | None = None,
    runs: int | None = None,
    warmup: int | None = None,
    peer: str | None = None,
    peer_settings: str = "sweep",
    random_weights: bool = False,
    **sampling: Any,
) -> Settings:
    """Fills in what was not said (None). prompts None: the Space Invaders prompts, unless the text will be senseless
    (random weights, forced acceptance) or contexts are given. sampling: fields of SamplingOptions. Raises
    InvalidRequestError.
    """
    if prompts is None:
        forced = sampling.get("synthetic_acceptance")
        prompts = TOKENS if random_weights or forced or contexts else SPACE_INVADERS
    if prompts not in PROMPT_KINDS:
        raise InvalidRequestError(f"prompts is {prompts!r}, expected one of {', '.join(PROMPT_KINDS)}")
    default = PROMPT_DEFAULTS[prompts]
    said = {name: value for name, value in sampling.items() if value is not None}
    return Settings(
        **NEUTRAL_SAMPLING | {name: default[name] for name in ("max_tokens", "temperature", "top_p")} | said,
        target=target,
        head=head,
        draft_lengths=tuple(dict.fromkeys(k for k in draft_lengths if k != 0)),
        prompts=prompts,
        contexts=tuple(contexts) or ((DEFAULT_CONTEXT,) if prompts == TOKENS else ()),
        # Token ids have no end, and two engines must generate the same number of tokens.
        ignore_eos=ignore_eos or prompts == TOKENS or peer is not None,
        **_loading(load or {}),
        runs=default["runs"] if runs is None else runs,
        warmup=default["warmup"] if warmup is None else warmup,
        peer=peer,
        peer_settings=peer_settings,
    )


def parse_draft_lengths(text: str) -> tuple[DraftLength, ...]:
    """ "3", "auto", "0..8", "1,3,auto" as draft lengths. Raises InvalidRequestError."""
    lengths: list[DraftLength] = []
    for part in text.split(","):
        low, dots, high = part.strip().partition("..")
        found: list[DraftLength]
        try:
            numbers = low != "auto" or bool(dots)
            found = list(range(int(low), int(high if dots else low) + 1)) if numbers else ["auto"]
        except ValueError:
            found = []
        if not found:
            raise InvalidRequestError(f"draft lengths are {text!r}, expected such as 3, auto, 0..8 or 1,3,auto")
        lengths += found
    for k in lengths:
        check_draft_length(k)
    return tuple(lengths)


def parse_numbers(text: str, kind: type[Number]) -> tuple[Number, ...]:
    """ ".868,.765,.687" as numbers. Raises InvalidRequestError."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        kinds = "integers" if kind is int else "numbers"
        raise InvalidRequestError(f"{text!r}, expected {kinds} with commas between them") from None


def extended_rates(rates: Sequence[float], k: int) -> tuple[float, ...]:
    """Forced acceptance rates for k drafts. Past the last given one, each draft is accepted after its predecessor as
    often as that last one was after its own. Empty if nothing is forced.
    """
    if not rates:
        return ()
    before = rates[-2] if len(rates) > 1 else 1.0
    conditional = rates[-1] / before if before > 0 else 0.0
    return tuple(rates[i] if i < len(rates) else rates[-1] * conditional ** (i + 1 - len(rates)) for i in range(k))

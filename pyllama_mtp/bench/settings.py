"""What a benchmark is asked for: parsed from the command line's words, checked, with the defaults of its prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.options import MAX_DRAFT, SamplingOptions, available_cpus, check_draft_length

SPACE_INVADERS = "space-invaders"
TOKENS = "tokens"
PROMPT_KINDS = (TOKENS, SPACE_INVADERS)
# Of each kind of prompt: what is not said on the command line.
DEFAULTS = {
    TOKENS: {"max_tokens": 128, "temperature": 0.0, "top_p": 1.0, "runs": 5, "warmup": 1},
    SPACE_INVADERS: {"max_tokens": 800, "temperature": 0.6, "top_p": 0.95, "runs": 1, "warmup": 0},
}
DEFAULT_CONTEXT = 100

DraftLength = int | str  # 0..16 or "auto"


@dataclass(frozen=True, slots=True)
class Settings:
    """One benchmark. draft_lengths: those that draft, so 1..16 or "auto"; plain decoding is always measured beside
    them. contexts: prompt tokens, for prompts of token ids. runs: counted completions of each prompt; warmup: such that
    come before and are not counted. seed None: drawn. peer: "llama.cpp" or None; peer_settings: see peer_sweep.
    """

    target: Path
    head: Path | None
    draft_lengths: tuple[DraftLength, ...]
    synthetic_acceptance: tuple[float, ...]
    prompts: str
    contexts: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    acceptance: str
    ignore_eos: bool
    n_threads: int
    n_gpu_layers: int
    runs: int
    warmup: int
    peer: str | None
    peer_settings: str

    def __post_init__(self) -> None:
        for name, value, low in (
            ("runs", self.runs, 1),
            ("warmup", self.warmup, 0),
            ("max_tokens", self.max_tokens, 2),
        ):
            if value < low:
                raise InvalidRequestError(f"{name} is {value}, expected {low} or more")
        if any(context < 2 for context in self.contexts):
            raise InvalidRequestError(f"contexts are {list(self.contexts)}, expected at least 2 tokens each")
        if self.prompts == SPACE_INVADERS and self.contexts:
            raise InvalidRequestError("contexts are for prompts of token ids: leave them out, or use --prompts tokens")
        if self.draft_lengths and self.head is None:
            raise InvalidRequestError("no MTP head to draft with: pass --mtp-head, or --num-speculative-tokens 0")
        if self.synthetic_acceptance and "auto" in self.draft_lengths:
            longest = MAX_DRAFT
        else:
            longest = max((k for k in self.draft_lengths if isinstance(k, int)), default=1)
        SamplingOptions(  # ranges and messages are those of Model.generate
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            acceptance=self.acceptance,
            synthetic_acceptance=extended_rates(self.synthetic_acceptance, longest),
        )

    def seed_of(self, repetition: int) -> int | None:
        """A seed of its own for each repetition. Greedy text needs none, but forced acceptance is drawn with it."""
        if self.seed is None:
            return None if self.temperature > 0 else repetition
        return self.seed + repetition


def make_settings(
    target: Path,
    head: Path | None,
    *,
    draft_lengths: Sequence[DraftLength],
    synthetic_acceptance: Sequence[float] = (),
    prompts: str | None = None,
    contexts: Sequence[int] = (),
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | None = None,
    acceptance: str = "auto",
    ignore_eos: bool = False,
    n_threads: int | None = None,
    n_gpu_layers: int = -1,
    runs: int | None = None,
    warmup: int | None = None,
    peer: str | None = None,
    peer_settings: str = "sweep",
    random_weights: bool = False,
) -> Settings:
    """Fills in what was not said (None). prompts None: the Space Invaders prompts, unless the text will be senseless
    (random weights, forced acceptance) or contexts are given. Raises InvalidRequestError.
    """
    if prompts is None:
        prompts = TOKENS if random_weights or synthetic_acceptance or contexts else SPACE_INVADERS
    if prompts not in PROMPT_KINDS:
        raise InvalidRequestError(f"prompts is {prompts!r}, expected one of {', '.join(PROMPT_KINDS)}")
    default = DEFAULTS[prompts]
    return Settings(
        target=target,
        head=head,
        draft_lengths=tuple(dict.fromkeys(k for k in draft_lengths if k != 0)),
        synthetic_acceptance=tuple(synthetic_acceptance),
        prompts=prompts,
        contexts=tuple(contexts) or ((DEFAULT_CONTEXT,) if prompts == TOKENS else ()),
        max_tokens=default["max_tokens"] if max_tokens is None else max_tokens,
        temperature=default["temperature"] if temperature is None else temperature,
        top_p=default["top_p"] if top_p is None else top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        acceptance=acceptance,
        # Token ids have no end, and two engines must generate the same number of tokens.
        ignore_eos=ignore_eos or prompts == TOKENS or peer is not None,
        n_threads=available_cpus() if n_threads is None else n_threads,
        n_gpu_layers=n_gpu_layers,
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
        try:
            found = ["auto"] if low == "auto" and not dots else list(range(int(low), int(high if dots else low) + 1))
        except ValueError:
            found = []
        if not found:
            raise InvalidRequestError(f"draft lengths are {text!r}, expected such as 3, auto, 0..8 or 1,3,auto")
        lengths += found
    for k in lengths:
        check_draft_length(k)
    return tuple(lengths)


def parse_numbers(text: str, kind: type[int] | type[float]) -> tuple[int, ...] | tuple[float, ...]:
    """ ".868,.765,.687" as numbers. Raises InvalidRequestError."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        names = {int: "integers", float: "numbers"}
        raise InvalidRequestError(f"{text!r}, expected {names[kind]} with commas between them") from None


def extended_rates(rates: Sequence[float], k: int) -> tuple[float, ...]:
    """Forced acceptance rates for k drafts. Past the last given one, each draft is accepted after its predecessor as
    often as that last one was after its own. Empty if nothing is forced.
    """
    if not rates:
        return ()
    before = rates[-2] if len(rates) > 1 else 1.0
    conditional = rates[-1] / before if before > 0 else 0.0
    return tuple(rates[i] if i < len(rates) else rates[-1] * conditional ** (i + 1 - len(rates)) for i in range(k))

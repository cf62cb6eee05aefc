"""Which completion runs when: plain decoding, each draft length and llama.cpp in turn, A B C A B C, so that each is
compared with its neighbours in time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from pyllama_mtp._library import MAX_DRAFT
from pyllama_mtp.bench.measure import Run, Task, measure, wait_until_idle
from pyllama_mtp.bench.peer import Peer, PeerSetting, check_installed
from pyllama_mtp.bench.peer_sweep import Trial, find_fastest, given_setting
from pyllama_mtp.bench.prompts import make_cases
from pyllama_mtp.bench.settings import Settings
from pyllama_mtp.info import ModelInfo
from pyllama_mtp.model import Model
from pyllama_mtp.names import DraftLength

REQUEST_ROOM = 512  # tokens that a Space Invaders prompt may have
_CONTEXT_STEP = 256

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Phase:
    """Completions that alternate: ours with each of draft_lengths (0: plain), then the peer's."""

    draft_lengths: tuple[DraftLength, ...]
    peer: PeerSetting | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours with num_speculative_tokens and, right after each, the peer's with its setting."""

    num_speculative_tokens: DraftLength
    setting: PeerSetting
    load_seconds: float
    pairs: list[tuple[Run, Run]]


@dataclass(slots=True)
class Results:
    """chat_template: whether the target's own made the prompts; None: they are token ids."""

    info: ModelInfo
    load_seconds: float
    chat_template: bool | None = None
    runs: list[Run] = field(default_factory=list)
    peer_trials: list[Trial] = field(default_factory=list)
    peer_fastest: PeerSetting | None = None
    comparisons: list[Comparison] = field(default_factory=list)


def context_size(settings: Settings) -> int:
    """Tokens of KV cache for the longest prompt and its completion."""
    needed = max(settings.contexts, default=REQUEST_ROOM) + settings.max_tokens + MAX_DRAFT
    return -(-needed // _CONTEXT_STEP) * _CONTEXT_STEP


def run(settings: Settings, tell: Tell, chosen: Sequence[Phase] | None = None) -> Results:
    """Loads the pair and runs everything. tell: receives a line of progress. chosen: what is run instead of phases().
    Raises PyllamaMtpError."""
    given = None
    if settings.peer is not None:
        check_installed()
        given = given_setting(settings)
    n_ctx = context_size(settings)
    begin = time.perf_counter()
    with Model(
        settings.target,
        mtp_head=settings.head,
        n_ctx=n_ctx,
        **settings.load,
    ) as model:
        results = Results(model.info, time.perf_counter() - begin)
        tell(f"loaded in {results.load_seconds:.1f} s")
        case = make_cases(model, settings, 0)[0]
        results.chat_template = case.chat_template
        if settings.peer is not None:
            results.peer_fastest = given
            if given is None and chosen is None:
                name, ids = next(iter(case.prompts.items()))
                task = Task(case.name, name, ids, 0, 0)
                results.peer_fastest, results.peer_trials = find_fastest(settings, n_ctx, task, tell)
        for phase in phases(settings, results.peer_fastest) if chosen is None else chosen:
            _run_phase(model, settings, phase, results, n_ctx, tell)
    return results


def phases(settings: Settings, fastest: PeerSetting | None) -> list[Phase]:
    """Without a peer one phase. With one (fastest: its best setting) a phase for each draft length, the peer drafting
    as many; "auto" meets the peer's fastest setting, and so does the first length if that drafts another number.
    """
    lengths = settings.draft_lengths
    if fastest is None:
        return [Phase((0, *lengths), None)]
    plan = [Phase((0,), replace(fastest, n_max=0))]
    plan += [Phase((0, k), fastest if k == "auto" else replace(fastest, n_max=k)) for k in lengths]
    if lengths and all(phase.peer != fastest for phase in plan):
        plan.append(Phase((0, lengths[0]), fastest))
    return plan


def _run_phase(model: Model, settings: Settings, phase: Phase, results: Results, n_ctx: int, tell: Tell) -> None:
    known = {r.num_speculative_tokens for r in results.runs}
    cold = set() if settings.warmup else set(phase.draft_lengths) - known
    with ExitStack() as stack:
        peer = None
        if phase.peer is not None:
            peer = stack.enter_context(Peer(settings, phase.peer, n_ctx))
            comparison = Comparison(phase.draft_lengths[-1], phase.peer, peer.load_seconds, [])
            results.comparisons.append(comparison)
        for task in _tasks(model, settings):
            counted = task.repetition < settings.runs
            for k in phase.draft_lengths:
                own = measure(model, settings, replace(task, k=k, cold=k in cold))
                cold.discard(k)
                tell(_line(own, "" if counted else "warm-up, "))
                if counted:
                    results.runs.append(own)
            if peer is None:
                continue
            wait_until_idle()
            first = settings.warmup == 0 and not comparison.pairs
            theirs = peer.measure(replace(task, k=peer.setting.n_max, cold=first))
            tell(_line(theirs, "llama.cpp, " if counted else "warm-up, llama.cpp, "))
            if counted:
                comparison.pairs.append((own, theirs))


def _tasks(model: Model, settings: Settings) -> Iterator[Task]:
    """Every prompt of every repetition, with k 0. Those of the warm-up come first, and have numbers past those
    of the counted ones, so that their prompts and seeds are others.
    """
    for repetition in (*range(settings.runs, settings.runs + settings.warmup), *range(settings.runs)):
        for case in make_cases(model, settings, repetition):
            for name, ids in case.prompts.items():
                yield Task(case.name, name, ids, 0, repetition)


def _line(run: Run, who: str) -> str:
    what = "plain" if run.mode == "plain" else f"k={run.num_speculative_tokens}"
    return f"{who}{run.case}, {run.prompt}, {what}: {run.tokens_per_second:.1f} tokens/s"

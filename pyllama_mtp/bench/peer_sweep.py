"""llama.cpp's fastest setting: a small sweep, one thing changed at a time, what helps is kept.

In this order: sampling of the target inside the compute graph (off, on), flash attention (auto, off), sampling of the
drafts inside the graph (on, off), p_min (0, 0.5; not where acceptance is forced, as it then only shortens drafts), most
drafts a round (the asked number, and 1 to 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyllama_mtp.bench.measure import Run, Task
from pyllama_mtp.bench.peer import Peer, PeerSetting
from pyllama_mtp.bench.settings import Settings, extended_rates
from pyllama_mtp.errors import InvalidRequestError

DEFAULT_N_MAX = 3  # llama.cpp's own
RUNS = 2  # of each setting; the faster one counts
_SWITCHES = {"on": True, "off": False}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "n_max": int,
    "p_min": float,
    "flash_attention": {"auto": "auto", "on": "on", "off": "off"}.__getitem__,
    "backend_sampling": _SWITCHES.__getitem__,
    "draft_backend_sampling": _SWITCHES.__getitem__,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What a setting gave. tokens_per_second: at exactly the forced acceptance, if it is forced."""

    setting: PeerSetting
    tokens_per_second: float


def first_setting(settings: Settings) -> PeerSetting:
    """llama.cpp's defaults with the first asked number of drafts."""
    asked = [k for k in settings.draft_lengths if isinstance(k, int)]
    return PeerSetting(0 if settings.head is None or not settings.draft_lengths else [*asked, DEFAULT_N_MAX][0])


def given_setting(settings: Settings) -> PeerSetting | None:
    """The setting that settings.peer_settings names ("default", or "backend_sampling=on,n_max=3,..."); None: "sweep".

    Raises InvalidRequestError.
    """
    text = settings.peer_settings
    if text == "sweep":
        return None
    setting = first_setting(settings)
    if text == "default":
        return setting
    try:
        words = dict(part.split("=") for part in text.split(","))
        changes = {name: _PARSERS[name](word) for name, word in words.items()}
    except (ValueError, KeyError):
        raise InvalidRequestError(
            f"peer settings are {text!r}, expected sweep, default, or such as {PeerSetting(DEFAULT_N_MAX)}"
        ) from None
    return replace(setting, **changes)


def find_fastest(
    settings: Settings, n_ctx: int, task: Task, tell: Callable[[str], None]
) -> tuple[PeerSetting, list[Trial]]:
    """The fastest setting for a task, and every setting that was tried."""
    trials: dict[PeerSetting, Trial] = {}

    def speed(setting: PeerSetting) -> float:
        if setting not in trials:
            with Peer(settings, setting, n_ctx) as peer:
                run_speed = max(_speed(peer.measure(task), settings) for _ in range(RUNS))
            trials[setting] = Trial(setting, run_speed)
            tell(f"llama.cpp with {setting}: {run_speed:.1f} tokens/s")
        return trials[setting].tokens_per_second

    best = first_setting(settings)
    for change in _changes(settings, best):
        best = max((best, replace(best, **change)), key=speed)
    return best, list(trials.values())


def _changes(settings: Settings, first: PeerSetting) -> Sequence[dict[str, Any]]:
    changes: list[dict[str, Any]] = [{"backend_sampling": True}, {"flash_attention": "off"}]
    if first.n_max > 0:
        changes.append({"draft_backend_sampling": False})
        if not settings.synthetic_acceptance:
            changes.append({"p_min": 0.5})
        changes += [{"n_max": n} for n in (1, 2, 3, 4) if n != first.n_max]
    return changes


def _speed(run: Run, settings: Settings) -> float:
    rates = extended_rates(settings.synthetic_acceptance, int(run.num_speculative_tokens))
    return (1 + sum(rates)) * run.rounds / run.wall_seconds if rates else run.tokens_per_second

"""The figures of a completion, as text."""

from pyllama_mtp.results import Stats


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def speed(stats: Stats) -> str:
    return "-" if stats.tokens_per_second is None else f"{stats.tokens_per_second:.1f} tokens/s"


def in_short(stats: Stats) -> str:
    """For a line that shows more."""
    accepted = "" if stats.acceptance_rate is None else f", {stats.acceptance_rate:.0%} accepted"
    return f"{stats.completion_tokens} tokens, {speed(stats)}{accepted}"


def format_stats(stats: Stats) -> str:
    """All of them, in a few lines."""
    per_position = " ".join(map(percent, stats.acceptance_per_position or ())) or "-"
    length = "-" if stats.mean_acceptance_length is None else f"{stats.mean_acceptance_length:.2f} tokens a round"
    rounds = max(1, stats.rounds)
    rest = stats.decode_seconds - stats.draft_seconds - stats.verify_seconds - stats.sample_seconds
    times = (stats.draft_seconds, stats.verify_seconds, stats.sample_seconds, rest)
    return "\n".join(
        (
            f"prompt                   {stats.prompt_tokens} tokens ({stats.cached_prompt_tokens} cached), "
            f"{stats.prompt_seconds:.3f} s",
            f"completion               {stats.completion_tokens} tokens in {stats.rounds} rounds, seed {stats.seed}, "
            f"acceptance {stats.acceptance}",
            f"sampling                 {stats.sampling}",
            f"speed                    {speed(stats)}",
            f"acceptance rate          {percent(stats.acceptance_rate)} of {stats.drafted} drafted tokens",
            f"mean acceptance length   {length}",
            f"acceptance per position  {per_position}",
            "time a round             "
            + ", ".join(
                f"{name} {seconds / rounds * 1e3:.2f} ms"
                for name, seconds in zip(("draft", "verify", "sample", "rest"), times, strict=True)
            ),
        )
    )

"""The figures of a request by the names that clients know: OpenAI's usage, vLLM's metrics, llama-server's timings."""

from dataclasses import dataclass
from typing import Any

from pyllama_mtp.results import Stats


@dataclass(slots=True)
class Usage:
    """Tokens of a request: of its prompts, each once, and of all its texts."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def as_object(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def histogram(stats: Stats) -> list[int]:
    """Rounds that drafted, by the number of their drafts that were accepted: 0, 1, 2 ..."""
    at_least = [max(stats.drafted_per_position, default=0), *stats.accepted_per_position, 0]
    return [more - fewer for more, fewer in zip(at_least, at_least[1:], strict=False)]


def speculative_decoding(stats: Stats) -> dict[str, Any]:
    """vLLM's metrics.speculative_decoding of one text. num_spec_tokens: most drafts of a round."""
    return {
        "mean_acceptance_length": stats.mean_acceptance_length,
        "draft_acceptance_rate": stats.acceptance_rate,
        "acceptance_histogram": histogram(stats),
        "num_spec_steps": max(stats.drafted_per_position, default=0),
        "num_accepted_draft_tokens": stats.accepted,
        "num_draft_tokens": stats.drafted,
        "num_spec_tokens": len(stats.drafted_per_position),
    }


def timings(stats: Stats) -> dict[str, Any]:
    """llama-server's timings of one text."""
    evaluated = stats.prompt_tokens - stats.cached_prompt_tokens
    return {
        "cache_n": stats.cached_prompt_tokens,
        "prompt_n": evaluated,
        "prompt_ms": stats.prompt_seconds * 1e3,
        "prompt_per_second": evaluated / stats.prompt_seconds if stats.prompt_seconds > 0 else None,
        "predicted_n": stats.completion_tokens,
        "predicted_ms": stats.decode_seconds * 1e3,
        "predicted_per_second": stats.tokens_per_second,
        "draft_n": stats.drafted,
        "draft_n_accepted": stats.accepted,
    }

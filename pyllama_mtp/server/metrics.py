"""Counters, gauges and histograms under vLLM's names, so that its boards, autoscalers and pickers read them unchanged.

All numbers are changed on the event loop's thread and read there. Counters of tokens grow with every chunk and are the
sums of the usage that requests report; those of drafts grow as texts end. Gauges are made when they are read, from what
the model says and the streams that there are.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from pyllama_mtp.errors import ModelClosedError
from pyllama_mtp.info import ModelInfo
from pyllama_mtp.results import Stats, Usage
from pyllama_mtp.stream import AsyncStream

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5)


class Histogram:
    """bounds: upper ends of the buckets, rising."""

    def __init__(self, bounds: tuple[float, ...]):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Buckets as Prometheus has them, each with those below it; and the sum."""
        ends = [str(bound) for bound in self._bounds] + ["+Inf"]
        return [(end, float(sum(self._counts[: i + 1]))) for i, end in enumerate(ends)], self._sum


class Metrics:
    """streams: gives those that run or wait."""

    def __init__(self, model_name: str, info: ModelInfo, streams: Callable[[], Iterable[AsyncStream]]):
        self._labels = {"model_name": model_name, "engine": "0"}
        self._info = info
        self._streams = streams
        self._counts: Counter[str] = Counter()
        self._accepted_per_position: Counter[int] = Counter()
        self._ended: Counter[str] = Counter()
        self._first_token = Histogram(_LONG)
        self._between_tokens = Histogram(_SHORT)
        self._whole = Histogram(_LONG)
        self._queued = Histogram(_LONG)
        self._prompt_sizes = Histogram(_TOKENS)
        self._text_sizes = Histogram(_TOKENS)
        self._usage = Usage(n_running=0, n_waiting=0, n_cells=0, prefix_bytes=0)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def prompt(self, n_tokens: int, n_cached: int) -> None:
        """A prompt was evaluated."""
        self._counts["prompt_tokens"] += n_tokens
        self._counts["prefix_cache_queries"] += n_tokens
        self._counts["prefix_cache_hits"] += n_cached
        self._prompt_sizes.observe(n_tokens)

    def tokens(self, n: int, seconds: float, first: bool) -> None:
        """A chunk of n tokens came so long after what was before it: its request, or another chunk."""
        self._counts["generation_tokens"] += n
        if first:
            self._first_token.observe(seconds)
        elif n:
            self._between_tokens.observe(seconds / n)

    def text(self, stats: Stats, reason: str, seconds: float) -> None:
        """A text ended, so long after it was asked for."""
        self._counts["spec_decode_num_drafts"] += max(stats.drafted_per_position, default=0)
        self._counts["spec_decode_num_draft_tokens"] += stats.drafted
        self._counts["spec_decode_num_accepted_tokens"] += stats.accepted
        self._accepted_per_position.update(dict(enumerate(stats.accepted_per_position)))
        self._ended[reason] += 1
        self._whole.observe(seconds)
        self._queued.observe(stats.queue_seconds)
        self._text_sizes.observe(stats.completion_tokens)

    def exposition(self, usage: Usage) -> bytes:
        """All of it in Prometheus' text format. usage: of the model."""
        self._usage = usage
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()

    def _gauges(self) -> Iterator[Metric]:
        used, n = 0, 0
        for stream in self._streams():
            if stream.computed:  # what is left to do is its client's
                continue
            try:
                stats = stream.stats
            except ModelClosedError:
                continue
            n += 1
            used += stats.prompt_tokens + stats.completion_tokens
        running = min(n, self._usage.n_running)  # the model notices what was left at its next step
        share = min(1.0, used / self._info.n_cells)
        for name, text, value in (
            ("num_requests_running", "Texts that are generated.", running),
            ("num_requests_waiting", "Texts that wait for their turn.", n - running),
            ("kv_cache_usage_perc", "Share of the KV cache that running texts use; 1: all.", share),
            ("gpu_cache_usage_perc", "The same, by its older name.", share),
        ):
            family = GaugeMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family

    def _counters(self) -> Iterator[Metric]:
        for name, text in (
            ("prompt_tokens", "Tokens of prompts."),
            ("generation_tokens", "Tokens that were generated."),
            ("prefix_cache_queries", "Tokens of prompts that were looked for in the KV cache."),
            ("prefix_cache_hits", "Tokens of prompts that were in the KV cache."),
            ("spec_decode_num_drafts", "Rounds that drafted."),
            ("spec_decode_num_draft_tokens", "Tokens that were drafted."),
            ("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted."),
        ):
            family = CounterMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), self._counts[name])
            yield family
        yield self._by(
            "spec_decode_num_accepted_tokens_per_pos", "position", "Accepted drafts.", self._accepted_per_position
        )
        yield self._by("request_success", "finished_reason", "Texts that ended.", self._ended)

    def _by(self, name: str, label: str, text: str, counts: "Counter[int] | Counter[str]") -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=[*self._labels, label])
        for key, count in sorted(counts.items()):
            family.add_metric([*self._labels.values(), str(key)], count)
        return family

    def _histograms(self) -> Iterator[Metric]:
        for name, text, histogram in (
            ("time_to_first_token_seconds", "From a request to its first token.", self._first_token),
            ("inter_token_latency_seconds", "From token to token.", self._between_tokens),
            ("time_per_output_token_seconds", "The same, by its older name.", self._between_tokens),
            ("e2e_request_latency_seconds", "From a request to its end.", self._whole),
            ("request_queue_time_seconds", "Until a text ran.", self._queued),
            ("request_prompt_tokens", "Tokens of a prompt.", self._prompt_sizes),
            ("request_generation_tokens", "Tokens of a text.", self._text_sizes),
        ):
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), *histogram.read())
            yield family

"""Medians, ratios, table and JSON of scripted runs; nothing is measured here."""

import json
import random
import sys
from pathlib import Path

import pytest

from pyllama_mtp import BenchmarkError
from pyllama_mtp.bench import peer, plot
from pyllama_mtp.bench.measure import Run
from pyllama_mtp.bench.peer import PeerSetting
from pyllama_mtp.bench.peer_sweep import Trial
from pyllama_mtp.bench.plan import Comparison, Results
from pyllama_mtp.bench.report import as_json, format_report
from pyllama_mtp.bench.settings import Settings, make_settings
from pyllama_mtp.bench.shapes import random_pair
from pyllama_mtp.bench.summary import spread, summarize, summarize_peer
from pyllama_mtp.model import ModelInfo

RATES = (0.8, 0.5)
PNG = b"\x89PNG\r\n\x1a\n"


def run(k: int, repetition: int = 0, seconds: float = 2.0, **options) -> Run:
    """20 tokens after the first in 10 rounds of 2 tokens, or in 20 plain ones."""
    rounds = 20 if k == 0 else 10
    fields = {
        "mode": "plain" if k == 0 else "mtp",
        "num_speculative_tokens": k,
        "case": "100 tokens",
        "prompt": "tokens",
        "repetition": repetition,
        "cold": False,
        "prompt_tokens": 100,
        "cached_prompt_tokens": 0 if k == 0 else 99,
        "completion_tokens": 21,
        "tokens_per_second": 20 / seconds,
        "wall_seconds": seconds,
        "engine_seconds": seconds / 1.01,
        "prompt_seconds": 0.5,
        "draft_seconds": seconds * 0.1 if k else 0.0,
        "verify_seconds": seconds * 0.8,
        "sample_seconds": seconds * 0.01,
        "rounds": rounds,
        "drafted": 10 * k,
        "accepted": 10 if k else 0,
        "acceptance_rate": 1 / k if k else None,
        "mean_acceptance_length": 2.0 if k else None,
        "acceptance_per_position": [0.75] + [0.25] * (k - 1) if k else None,
        "peak_memory_bytes": 10**9 + repetition,
    }
    return Run(**fields | options)


def settings(**options) -> Settings:
    return make_settings(
        Path("target.gguf"), Path("head.gguf"), **{"draft_lengths": (2,), "synthetic_acceptance": RATES} | options
    )


def results(**options) -> Results:
    numbers = dict.fromkeys(ModelInfo.__dataclass_fields__, 0) | {"name": "scripted", "placement": "here"}
    return Results(ModelInfo(**numbers), 1.5, runs=[run(0, 0), run(2, 0, 1.0), run(0, 1), run(2, 1, 1.25)], **options)


def test_spread():
    values = spread([3.0, 1.0, 2.0, 6.0])
    assert (values.n, values.median, values.mean, values.low, values.high) == (4, 2.5, 3.0, 1.0, 6.0)
    assert values.interval is None
    assert spread(range(6)).interval == (0, 5)
    assert spread(range(15)).interval == (3, 11)  # as tables of the sign test have it


def test_the_interval_of_a_median_holds_it_as_often_as_it_says():
    generator = random.Random(1)
    held = 0
    for _ in range(2000):
        low, high = spread([generator.expovariate(1) for _ in range(15)]).interval
        held += low <= 0.6931 <= high
    assert 0.95 <= held / 2000 <= 0.98  # P = .965 for 15 values


def test_ratios_are_taken_with_the_plain_run_before():
    """The machine slows down between two phases; each ratio is 2."""
    runs = [run(0, 0, 2.0), run(2, 0, 1.0), run(0, 1, 2.0), run(2, 1, 1.0), run(0, 0, 4.0), run(3, 0, 2.0)]
    plain, two, three = summarize(runs, ())
    assert plain.ratio_to_plain is None and plain.mode == "plain"
    assert (two.ratio_to_plain.median, two.ratio_to_plain.low, two.ratio_to_plain.high) == (2, 2, 2)
    assert three.ratio_to_plain.median == 2
    assert plain.tokens_per_second.n == 3


def test_a_summary():
    plain, mtp = summarize([run(0), run(2, 0, 1.0)], RATES)
    assert mtp.round_ms == pytest.approx(100) and mtp.verify_ms == pytest.approx(80)
    parts = mtp.draft_ms + mtp.verify_ms + mtp.sample_ms + mtp.rest_ms
    assert parts == pytest.approx(100 / 1.01)
    assert mtp.python_share == pytest.approx(0.01)
    assert plain.prefill_tokens_per_second == 200
    assert mtp.prefill_tokens_per_second is None  # the prompt was in the cache
    assert mtp.acceptance_per_position == [0.75, 0.25]
    # 10 rounds a second at exactly 1 + .8 + .5 tokens each, beside 10 tokens/s
    assert mtp.tokens_per_second_at_forced == pytest.approx(23)
    assert mtp.ratio_to_plain_at_forced.median == pytest.approx(2.3)
    assert plain.tokens_per_second_at_forced is None
    assert summarize([run(0), run(2)], ())[1].tokens_per_second_at_forced is None


def test_cold_runs_are_shown_apart():
    cold, warm = run(2, 0, 4.0, cold=True, prompt="html"), run(2, 0, 1.0, prompt="css")
    summary = summarize([cold, warm], ())[0]
    assert summary.cold_tokens_per_second == 5
    assert (summary.tokens_per_second.median, summary.tokens_per_second.n) == (20, 1)
    assert summarize([cold], ())[0].tokens_per_second.median == 5


def test_pairs_with_the_peer():
    pairs = [(run(2, i, 1.0), run(2, i, 2.0, draft_seconds=None, engine_seconds=None)) for i in range(3)]
    [summary] = summarize_peer(Comparison(2, PeerSetting(2), 1.0, pairs), RATES)
    assert summary.ratio.median == summary.ratio_at_forced.median == 2
    assert (summary.round_ms, summary.peer_round_ms) == (100, 200)


def test_json_has_the_promised_fields():
    found = results(
        peer_trials=[Trial(PeerSetting(2), 9.0)],
        peer_fastest=PeerSetting(2),
        comparisons=[Comparison(2, PeerSetting(2), 1.0, [(run(2, 0, 1.0), run(2, 0, 2.0))])],
    )
    report = json.loads(json.dumps(as_json(settings(), found, {"cpu": "x"}, ["bench", "target.gguf"])))
    assert [r["mode"] for r in report["runs"]] == ["plain", "mtp", "plain", "mtp"]  # ours only
    for row in report["runs"] + report["peer"]["runs"]:
        assert row.keys() >= {
            "mode",
            "num_speculative_tokens",
            "tokens_per_second",
            "rounds",
            "mean_acceptance_length",
            "wall_seconds",
            "draft_seconds",
            "verify_seconds",
            "sample_seconds",
            "peak_memory_bytes",
        }
    assert report["settings"]["synthetic_acceptance"] == list(RATES)
    assert report["settings"]["target"] == "target.gguf"
    assert report["environment"] == {"cpu": "x"}
    assert report["arguments"] == ["bench", "target.gguf"]
    assert report["summary"][1]["ratio_to_plain"]["median"] == pytest.approx(1.8)
    assert report["peer"]["summary"][0]["ratio"]["median"] == 2
    assert report["peer"]["runs"][0]["setting"]["n_max"] == 2
    assert as_json(settings(), results(), {}, [])["peer"] is None


def test_the_table():
    text = format_report(settings(draft_lengths=(2, 3)), results(), {"cpu": "x"})
    assert "acceptance forced to .800 .500 .312" in text
    assert "rates past position 2 continue" in text
    header, plain, mtp = text.split("100 tokens:\n")[1].splitlines()[:3]
    assert header.split()[:2] == ["k", "tokens/s"]
    assert plain.split()[:2] == ["plain", "10.0"] and mtp.split()[:2] == ["2", "18.0"]
    assert len(header) == len(plain) == len(mtp)
    assert "times plain" in text and "prefill: 200 tokens/s" in text
    assert "no chat template" in format_report(settings(), results(chat_template=False), {"cpu": "x"})


def test_a_picture_is_written(tmp_path: Path):
    found = results(comparisons=[Comparison(2, PeerSetting(2), 1.0, [(run(2, 0, 1.0), run(2, 0, 2.0))])])
    plot.plot(settings(), found, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes()[:8] == PNG


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchmarkError, match="pip install matplotlib"):
        plot.plot(settings(), results(), Path("never.png"))
    monkeypatch.setattr(peer, "PACKAGE", "no-such-package-here")
    with pytest.raises(BenchmarkError, match=r"not installed: pip install 'no-such-package-here==2026.10.11549'"):
        peer.check_installed()
    monkeypatch.setattr(peer, "PACKAGE", "pytest")
    with pytest.raises(BenchmarkError, match=r"pytest is \d"):
        peer.check_installed()


def test_a_run_that_was_killed_leaves_nothing_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Half a file of a process that is gone is removed, that of a living one stays, and whole files are kept."""
    from pyllama_mtp.bench import shapes
    from support.random_pairs import KINDS

    monkeypatch.setitem(shapes.SHAPES, "tiny", KINDS["e2b"])
    folder = tmp_path / shapes._GENERATION
    folder.mkdir()
    dead = folder / ".gemma4-tiny-q4_0-target.gguf.4194305.part"  # beyond the largest pid
    living = folder / ".gemma4-tiny-q4_0-target.gguf.1.part"
    dead.write_bytes(b"GGUF")
    living.write_bytes(b"GGUF")
    target, head = random_pair("tiny", "q4_0", tmp_path)
    assert not dead.exists() and living.exists()
    before = target.stat().st_mtime_ns, head.stat().st_mtime_ns
    assert (target, head) == random_pair("tiny", "q4_0", tmp_path)
    assert before == (target.stat().st_mtime_ns, head.stat().st_mtime_ns)


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="PYLLAMA_MTP_CACHE"):
        random_pair("e2b", "q4_0", tmp_path / "file")

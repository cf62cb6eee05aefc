"""`pyllama-mtp bench`: what it parses, what it writes, what it refuses; speed itself is not tested."""

import json
import optparse
import statistics
from pathlib import Path

import pytest

from pyllama_mtp import BenchmarkError, ChatTemplateError, InvalidRequestError
from pyllama_mtp.bench import kv, plot, shapes
from pyllama_mtp.bench.settings import extended_rates, make_settings, parse_draft_lengths
from pyllama_mtp.bench.summary import spread
from pyllama_mtp.cli import main
from pyllama_mtp.gguf.format import read_header
from pyllama_mtp.prompt import Prompts

FIELDS = {
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


@pytest.mark.parametrize(
    "text, expected",
    [("3", (3,)), ("auto", ("auto",)), ("0..3", (0, 1, 2, 3)), ("1,4..5,auto", (1, 4, 5, "auto"))],
)
def test_draft_lengths_are_parsed(text, expected):
    assert parse_draft_lengths(text) == expected


@pytest.mark.parametrize("text", ["", "x", "3..", "5..4", "17", "-1"])
def test_senseless_draft_lengths_are_refused(text):
    with pytest.raises(InvalidRequestError):
        parse_draft_lengths(text)


def test_rates_go_on_with_their_last_conditional_rate():
    assert extended_rates([0.8, 0.4], 4) == pytest.approx([0.8, 0.4, 0.2, 0.1])
    assert extended_rates([0.8, 0.4], 1) == (0.8,)
    assert extended_rates([], 4) == ()


def test_medians_and_ranges():
    s = spread([3.0, 1.0, 2.0, 10.0, 4.0])
    assert (s.low, s.median, s.high) == (1.0, 3.0, 10.0)


def test_space_invaders_is_the_default_work_for_real_models(demo):
    settings = make_settings(demo.target, demo.head, draft_lengths=[3])
    assert (settings.prompts, settings.max_tokens, settings.temperature, settings.top_p) == (
        "space-invaders",
        800,
        0.6,
        0.95,
    )


def run(demo, tmp_path, *arguments: str) -> dict:
    out = tmp_path / "out.json"
    files = [str(demo.target), "--mtp-head", str(demo.head)]
    assert main(["bench", *files, "--n-threads", "1", "--json", str(out), *arguments]) == 0
    return json.loads(out.read_text())


def test_forced_acceptance_is_reached_and_every_figure_is_told(demo, tmp_path, capsys):
    result = run(
        demo,
        tmp_path,
        *("--num-speculative-tokens", "3", "--synthetic-acceptance", ".868,.765,.687"),
        *("--max-tokens", "400", "--runs", "2"),
    )
    runs = result["runs"]
    assert [r["mode"] for r in runs] == ["plain", "mtp"] * 2
    for r in runs:
        assert r.keys() >= FIELDS
        assert r["completion_tokens"] == 400
        assert r["draft_seconds"] + r["verify_seconds"] + r["sample_seconds"] <= r["wall_seconds"]
        assert r["tokens_per_second"] == pytest.approx(399 / r["wall_seconds"])
        assert 1e7 < r["peak_memory_bytes"] < 1e10
    drafted = [r for r in runs if r["mode"] == "mtp"]
    assert statistics.mean(r["mean_acceptance_length"] for r in drafted) == pytest.approx(3.32, abs=0.2)
    table = capsys.readouterr().out
    assert "plain" in table and "acceptance forced to .868 .765 .687" in table


def test_forced_acceptance_beside_llama_cpp(demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = run(
        demo,
        tmp_path,
        *("--num-speculative-tokens", "3", "--synthetic-acceptance", ".868,.765,.687", "--max-tokens", "200"),
        *("--runs", "2", "--warmup", "0", "--peer", "llama.cpp", "--peer-settings", "default"),
        *("--plot", str(tmp_path / "out.png")),
    )
    runs, peer = report["runs"], report["peer"]
    # Two phases: plain beside plain, then plain, three drafts and llama.cpp's three drafts in turn.
    assert [r["num_speculative_tokens"] for r in runs] == [0, 0, 0, 3, 0, 3]
    assert [r["num_speculative_tokens"] for r in peer["runs"]] == [0, 0, 3, 3]
    assert [r["cold"] for r in runs] == [True, False, False, True, False, False]
    for r in runs + peer["runs"]:
        assert (r["prompt_tokens"], r["completion_tokens"]) == (100, 200)
        assert r["tokens_per_second"] == pytest.approx(199 / r["wall_seconds"])
        assert r["peak_memory_bytes"] > 10**7
    for r in runs:
        parts = r["draft_seconds"] + r["verify_seconds"] + r["sample_seconds"]
        assert 0.5 * r["engine_seconds"] < parts <= r["engine_seconds"] <= r["wall_seconds"] * 1.01
    for r in runs[3::2] + peer["runs"][2:]:
        assert r["mean_acceptance_length"] == pytest.approx(3.32, abs=0.47)  # three standard errors of 60 rounds
    assert runs[0]["mean_acceptance_length"] is None and runs[0]["rounds"] == 199
    assert [s["peer_num_speculative_tokens"] for s in peer["summary"]] == [0, 3]
    assert (tmp_path / "out.png").stat().st_size > 1000
    table = capsys.readouterr().out
    assert "acceptance forced to .868 .765 .687" in table and "llama.cpp (xllamacpp 2026.10.11549)" in table


def no_template(*_: object) -> str:
    raise ChatTemplateError("the model has no chat template")


@pytest.mark.parametrize("template", [True, False])
def test_the_space_invaders_prompts(demo, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, template: bool):
    if not template:
        monkeypatch.setattr(Prompts, "render", no_template)
    report = run(demo, tmp_path, "--num-speculative-tokens", "3", "--max-tokens", "20", "--ignore-eos")
    assert [r["prompt"] for r in report["runs"]] == ["html", "html", "css", "css", "javascript", "javascript"]
    assert [r["cold"] for r in report["runs"]] == [True, True, False, False, False, False]
    assert (report["settings"]["temperature"], report["settings"]["top_p"]) == (0.6, 0.95)
    assert report["chat_template"] is template
    [plain, mtp] = report["summary"]
    assert mtp["cold_tokens_per_second"] == report["runs"][1]["tokens_per_second"]
    assert mtp["tokens_per_second"]["n"] == plain["tokens_per_second"]["n"] == 2
    assert ("no chat template" in capsys.readouterr().out) is not template


@pytest.mark.parametrize(
    "arguments, seen",
    [
        (["--shape", "e2b", "x.gguf"], "either"),
        (["x.gguf", "--weights", "q8_0"], "--shape"),
        (["x.gguf", "--num-speculative-tokens", "3"], "MTP head"),
        (["x.gguf", "--json", "/nowhere/at/all.json"], "not a folder"),
        (["--shape", "e2b", "--synthetic-acceptance", ".5,.6"], "synthetic_acceptance"),
    ],
)
def test_bad_requests_end_in_one_line(arguments, seen, capsys):
    assert main(["bench", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert seen in error and "\n" not in error


def test_a_picture_without_matplotlib_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BenchmarkError, match="pip install matplotlib"):
        plot.check_installed()


def test_remains_of_a_killed_run_are_removed_and_not_used(tmp_path, monkeypatch):
    shape = "tiny"
    folder = tmp_path / shapes._GENERATION
    folder.mkdir()
    remains = folder / ".gemma4-tiny-q4_0-target.gguf.4194999.part"  # no process has such a number
    remains.write_bytes(b"half a file")
    from support.random_pairs import KINDS

    monkeypatch.setitem(shapes.SHAPES, shape, KINDS["dense"])
    target, head = shapes.random_pair(shape, "q4_0", tmp_path)
    assert not remains.exists()
    assert read_header(target).architecture == "gemma4" and read_header(head).architecture == "gemma4-assistant"
    before = target.stat().st_mtime_ns
    assert shapes.random_pair(shape, "q4_0", tmp_path)[0].stat().st_mtime_ns == before


def test_kv_compares_cache_types(demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, out = tmp_path / "text.py", tmp_path / "kv.json"
    text.write_text(Path(__file__).read_text())
    arguments = ["--kv", "turbo4/turbo3,turbo2/turbo2/f16/q8_0", "--kv-text", str(text), "--kv-tokens", "700"]
    files = [str(demo.target), "--mtp-head", str(demo.head)]
    assert main(["bench", *files, "--n-threads", "1", *arguments, "--json", str(out)]) == 0
    f16, mixed, two = json.loads(out.read_text())
    assert f16["kl"] == 0 and f16["top_1"] == 1
    assert 0.001 < mixed["kl"] < 0.1 and mixed["kl"] < two["kl"]
    assert mixed["cache_bytes"] == f16["cache_bytes"] * 3.75 / 16
    assert len(two["batch_errors"]) == 2 and two["drafted"] == 3 * 175
    assert f16["acceptance_change"] == 0 and abs(mixed["acceptance_change"]) < 0.08
    assert sum(two["acceptance_rates"]) == pytest.approx(3 * two["acceptance"])
    assert sorted(two["acceptance_rates"], reverse=True) == two["acceptance_rates"]
    assert "turbo2, turbo2 (f16, q8_0)" in capsys.readouterr().out


def test_turboquant_loses_few_drafts(demo):
    """After the same 500 contexts, of a module that Python's versions hardly change. The run is deterministic: turbo4
    gains .5 points there, turbo4/turbo3 loses .2 and with sliding layers in q8_0 gains 1.1, and the bounds leave two
    standard errors for other processors' rounding. docs/turboquant.md tells the losses over 20,480 tokens."""
    least = {"turbo4": -0.01, "turbo4/turbo3": -0.02, "turbo4/turbo3/q8_0/q8_0": -0.01}
    types = kv.parse_cache_types(",".join(least))
    text = Path(optparse.__file__).read_text()
    f16, *rows = kv.compare(demo.target, demo.head, types, [text], 2000, n_threads=1)
    assert f16.drafted == 3 * 500 and f16.acceptance > 0.5
    for row, bound in zip(rows, least.values(), strict=True):
        assert row.acceptance_change > bound, row
        assert 0 < row.acceptance_change_error < 0.015, row


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--kv", "turbo4"], "--kv-text"),
        (["--kv", "turbo4/q8_0/f16", "--kv-text", __file__], "turbo4/q8_0/f16"),
        (["--kv", "turbo4", "--kv-text", __file__, "--kv-tokens", "10000000"], "name more files"),
        (["--kv", "turbo4", "--kv-text", "missing.txt"], "missing.txt"),
    ],
)
def test_kv_refuses(demo, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(["bench", str(demo.target), "--n-threads", "1", *arguments]) == 1
    assert message in capsys.readouterr().err

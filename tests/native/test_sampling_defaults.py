"""What a caller leaves out: the file's recommendation, else what is published for its architecture, else nothing."""

from pathlib import Path

import pytest

from pyllama_mtp import Model, ModelLoadError, generate
from pyllama_mtp.cli import main
from pyllama_mtp.gguf import Entry
from pyllama_mtp.sampling import NEUTRAL, PUBLISHED, Sampling
from support.gguf_edit import rewrite

PROMPT = "def read("
OPTIONS = {"n_ctx": 256, "n_threads": 1}


def text_of(model: Model, **options) -> str:
    return model.generate(PROMPT, **({"max_tokens": 30, "seed": 1} | options)).text()


def test_the_architectures_published_ones(demo):
    gemma4 = Sampling(temperature=1.0, top_p=0.95, top_k=64)
    with Model(demo.target, **OPTIONS) as model:
        assert model.info.sampling == PUBLISHED["gemma4"] == gemma4
        assert str(model.info.sampling) == "temperature 1, top_p 0.95, top_k 64"
        stream = model.generate(PROMPT, max_tokens=30, seed=1)
        text = stream.text()
        assert stream.stats.sampling == gemma4
        assert text == text_of(model, temperature=1, top_p=0.95, top_k=64) != text_of(model, top_p=1, top_k=0)
        stream = model.generate(PROMPT, top_k=0, min_p=0.1)
        assert stream.stats.sampling == Sampling(top_p=0.95, min_p=0.1)
        stream.close()
    with Model(demo.target, sampling_defaults="vllm", **OPTIONS) as model:
        assert model.info.sampling == NEUTRAL
        assert text_of(model) == text_of(model, temperature=1, top_p=1, top_k=-1, min_p=0, repetition_penalty=1) != text
        assert text_of(model, top_p=0.95, top_k=64) == text


def test_what_was_left_out_and_drawn_is_reported_and_gives_the_text_again(demo):
    with Model(demo.target, **OPTIONS) as model:
        stream = model.generate(PROMPT, max_tokens=30)
        text, stats = stream.text(), stream.stats
        used = {name: getattr(stats.sampling, name) for name in Sampling.__slots__}
        assert text_of(model, seed=stats.seed, acceptance=stats.acceptance, **used) == text


def test_the_files_own(demo, tmp_path: Path):
    """general.sampling.* was ignored: three seeds gave three texts with top_k 1 in the file."""
    said = {"temp": Entry("f32", 0.7), "top_k": Entry("i32", 1), "min_p": Entry("f32", 0.05)}
    said |= {"penalty_repeat": Entry("f32", 1.1)}
    metadata = {f"general.sampling.{key}": entry for key, entry in said.items()}
    path = rewrite(demo.target, tmp_path / "target.gguf", metadata=metadata)
    with Model(path, **OPTIONS) as model:
        assert model.info.sampling == Sampling(0.7, 0.95, 1, 0.05, 1.1)
        assert len({text_of(model, seed=seed) for seed in range(3)}) == 1
        assert len({text_of(model, seed=seed, top_k=0) for seed in range(3)}) > 1
    stream = generate(PROMPT, model=path, sampling_defaults="vllm", **OPTIONS)
    assert stream.stats.sampling == NEUTRAL
    stream.close()


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("top_k", Entry("i32", -5)),
        ("top_k", Entry("string", "many")),
        ("top_p", Entry("f32", 0.0)),
        ("temp", Entry("f32", float("nan"))),
        ("min_p", Entry("f32", float("inf"))),
        ("penalty_repeat", Entry("bool", True)),
    ],
)
def test_a_recommendation_that_is_none(demo, tmp_path: Path, key: str, entry: Entry):
    path = rewrite(demo.target, tmp_path / "target.gguf", metadata={f"general.sampling.{key}": entry})
    with pytest.raises(ModelLoadError, match=f"general.sampling.{key} is .*sampling_defaults"):
        Model(path, **OPTIONS)
    Model(path, sampling_defaults="vllm", **OPTIONS).close()


def test_the_commands_tell(demo, capfd: pytest.CaptureFixture[str]):
    assert main(["info", str(demo.target), "--n-ctx", "256"]) == 0
    assert "temperature 1, top_p 0.95, top_k 64" in capfd.readouterr().out
    assert main(["run", str(demo.target), "--raw", "--prompt", PROMPT, "--max-tokens", "3", "--n-ctx", "256"]) == 0
    assert "temperature 1, top_p 0.95, top_k 64" in capfd.readouterr().err
    assert (
        main(
            [
                "run",
                str(demo.target),
                "--raw",
                "--prompt",
                PROMPT,
                "--max-tokens",
                "3",
                "--top-k",
                "5",
                "--n-ctx",
                "256",
            ]
        )
        == 0
    )
    assert "temperature 1, top_p 0.95, top_k 5" in capfd.readouterr().err
    assert main(["demo", "--max-tokens", "3"]) == 0
    assert "temperature 0.8, top_p 0.95, top_k 64" in capfd.readouterr().out

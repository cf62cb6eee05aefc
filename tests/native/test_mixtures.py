"""Mixtures of random weights: their tables beside llama.cpp's own choice and published files, and what is written."""

import dataclasses
import json
import runpy
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from pyllama_mtp import InvalidRequestError
from pyllama_mtp.bench import shapes
from pyllama_mtp.cli import main
from pyllama_mtp.gguf.format import read_header, tensor_bytes
from pyllama_mtp.gguf.gemma4 import SHAPES, Gemma4Shape
from pyllama_mtp.gguf.mixtures import MIXTURES, fitting, mixed_types
from pyllama_mtp.gguf.random_weights import WEIGHTS, write_assistant, write_target
from support.cmake import PROJECT
from support.drafted_texts import SHAPE

HERE = Path(__file__).resolve().parent
# Names of the source distribution: what the check of the quantiser is compiled from.
PARTS = tuple(f"thirdparty/llama.cpp/{part}" for part in ("src/", "include/", "ggml/include/", "ggml/src/ggml"))
Q3_K_S, Q5_K_S, Q6_K = 11, 16, 18  # llama.cpp's numbers for files
DENSE = dataclasses.replace(SHAPE, n_layer=8, full_every=4, n_shared=3)
# Rows of ffn_down are no whole number of blocks of 256 values, as those of 26B-A4B.
EXPERTS = dataclasses.replace(
    DENSE, n_ff=288, n_ple=0, n_shared=0, v_is_k=True, n_centroids=0, n_expert=8, n_expert_used=2, n_ff_expert=96
)


def matrices(shape: Gemma4Shape) -> list[tuple[str, tuple[int, ...]]]:
    return [(t.name, t.shape) for t in shape.tensors() if t.kind in ("matrix", "embedding")]


def target_bytes(name: str, weights: str) -> int:
    types = {t: fitting(weights, shape[0]) for t, shape in matrices(SHAPES[name])} if weights not in MIXTURES else {}
    types = types or mixed_types(MIXTURES[weights], matrices(SHAPES[name]))
    return sum(tensor_bytes(types.get(t.name, "f32"), t.shape) for t in SHAPES[name].tensors())


@pytest.fixture(scope="module")
def quantizer(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that tells llama.cpp's choice of types."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("quantizer")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, [m for m in tar if m.name.partition("/")[2].startswith(PARTS)], filter="data")
    (tree,) = folder.glob("*/thirdparty/llama.cpp")
    (folder / "ggml-version.h").write_text('#define GGML_VERSION ""\n#define GGML_COMMIT ""\n')
    headers = [folder, tree / "src", tree / "include", tree / "ggml" / "include", tree / "ggml" / "src"]
    options = ["-w", "-O0", "-D_GNU_SOURCE", *(word for path in headers for word in ("-I", path))]
    ggml, program = folder / "ggml.o", folder / "check"
    subprocess.run([compiler, "-x", "c", *options, "-c", tree / "ggml" / "src" / "ggml.c", "-o", ggml], check=True)
    sources = [HERE / "quantizer_check.cpp", tree / "src" / "llama-arch.cpp", tree / "src" / "llama-impl.cpp"]
    sources.append(tree / "ggml" / "src" / "ggml-threading.cpp")
    partly = ["-no-pie", "-Wl,--unresolved-symbols=ignore-all"]  # what quantises is not there
    subprocess.run([compiler, "-std=c++17", *options, *sources, ggml, *partly, "-o", program], check=True)
    return program


def llama_cpp_types(program: Path, file_type: int, shape: Gemma4Shape) -> dict[str, str]:
    """Name -> type; f16, that of the source, where nothing is quantised."""
    names = [(name, *dimensions, *[1] * (3 - len(dimensions))) for name, dimensions in matrices(shape)]
    lines = "".join(" ".join(map(str, line)) + "\n" for line in names)
    arguments = [str(number) for number in (file_type, shape.n_layer, shape.n_expert)]
    done = subprocess.run([program, *arguments], input=lines, capture_output=True, text=True, check=True)
    return dict(zip((name for name, *_ in names), done.stdout.lower().split(), strict=True))


@pytest.mark.parametrize("name", [*SHAPES, "26b-a4b, 6 layers"])
@pytest.mark.parametrize("mixture", ["q4_k_m", "qat"])
def test_types_are_those_that_llama_cpp_chooses(quantizer: Path, mixture: str, name: str):
    shape = SHAPES[name] if name in SHAPES else shapes.with_layers("26b-a4b", 6)
    expected = llama_cpp_types(quantizer, MIXTURES[mixture].file_type, shape)
    found = mixed_types(MIXTURES[mixture], matrices(shape))
    if mixture == "q4_k_m" and shape.n_ple:  # published files come from bf16 ones
        assert found["per_layer_model_proj.weight"] == "bf16"
        found["per_layer_model_proj.weight"] = "f16"
    assert found == expected


@pytest.mark.parametrize("weights, file_type", [("q3_k", Q3_K_S), ("q5_k", Q5_K_S), ("q6_k", Q6_K)])
def test_rows_of_no_whole_number_of_blocks_get_the_type_that_llama_cpp_takes(
    quantizer: Path, weights: str, file_type: int
):
    """Such rows were f16: at 26B-A4B's shape the experts' second matrices of a K type, most bytes of the file."""
    chosen = llama_cpp_types(quantizer, file_type, SHAPES["26b-a4b"])
    for name in ("blk.15.ffn_down.weight", "blk.15.ffn_down_exps.weight", "blk.15.ffn_gate_up_exps.weight"):
        n_in = dict(matrices(SHAPES["26b-a4b"]))[name][0]
        assert fitting(weights, n_in) == chosen[name]


@pytest.mark.parametrize(
    "name, weights, gigabytes",
    [
        # Google's QAT files.
        *(("e4b", "qat", 5.15), ("26b-a4b", "qat", 14.4)),
        # Unsloth's QAT files, named UD-Q4_K_XL.
        *(("e2b", "q4_0", 2.62), ("e4b", "q4_0", 4.22), ("12b", "q4_0", 6.72), ("26b-a4b", "q4_0", 14.2)),
        ("31b", "q4_0", 17.3),
        # Without K and V of layers that do not use them, which the published E2B and E4B have.
        *(("26b-a4b", "q4_k_m", 16.78), ("31b", "q4_k_m", 18.7), ("26b-a4b", "ud-q4_k_xl", 17.1)),
    ],
)
def test_files_are_as_large_as_the_published_ones(name: str, weights: str, gigabytes: float):
    assert target_bytes(name, weights) / 1e9 == pytest.approx(gigabytes, rel=0.011)


@pytest.mark.parametrize(
    "shape, mixture, expected",
    [
        (DENSE, "qat", {"q6_k": 2, "f16": 1, "q4_0": 8 * 7 + 5 * 2}),
        (EXPERTS, "qat", {"q6_k": 1, "q4_0": 8 * 8 + 6}),
        # Of 8 layers 0, 3, 6 and 7 have the finer type; of the 5 with attn_v 2 and 4, of the 6 of the experts 2 and 5.
        (DENSE, "q4_k_m", {"q6_k": 2 + 4 + 2, "bf16": 1, "q4_k": 8 * 6 + 5 + 3 + 4}),
        (EXPERTS, "q4_k_m", {"q6_k": 1 + 2, "q8_0": 2 * 4, "q5_0": 2 * 4, "q4_k": 8 * 6 + 4}),
        (DENSE, "ud-q4_k_xl", {"q6_k": 2 + 4, "bf16": 1, "q8_0": 5 * 2, "q5_k": 8 * 4 + 4, "q4_k": 8 * 2}),
        (EXPERTS, "ud-q4_k_xl", {"q6_k": 1, "q8_0": 8 + 6 + 8, "q5_1": 8, "q5_k": 8 * 2, "q4_k": 8 * 3}),
    ],
)
def test_written_files_have_the_types_of_the_table(tmp_path: Path, shape: Gemma4Shape, mixture: str, expected: dict):
    target = read_header(write_target(tmp_path / "target.gguf", shape, weights=mixture))
    head = read_header(write_assistant(tmp_path / "head.gguf", shape, weights=mixture))
    types = {name: tensor.type for name, tensor in target.tensors.items()}
    names = [name for name, _ in matrices(shape)]
    assert Counter(types[name] for name in names) == expected
    assert {kind for name, kind in types.items() if name not in names} == {"f32"}
    assert target.metadata["general.name"] == f"random weights, {mixture}"
    assert {tensor.type for name, tensor in head.tensors.items() if len(tensor.shape) > 1} == {"q8_0"}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_bench_measures_a_mixture_beside_llama_cpp_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mixture: str
):
    monkeypatch.setenv("PYLLAMA_MTP_CACHE", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", EXPERTS if mixture == "q4_k_m" else DENSE)
    out = tmp_path / "out.json"
    arguments = ["--shape", "tiny", "--layers", "4", "--weights", mixture, "--n-threads", "1", "--json", str(out)]
    arguments += ["--num-speculative-tokens", "3", "--synthetic-acceptance", ".868,.765,.687", "--max-tokens", "40"]
    arguments += ["--runs", "1", "--warmup", "0", "--peer", "llama.cpp", "--peer-settings", "default"]
    assert main(["bench", *arguments]) == 0
    report = json.loads(out.read_text())
    assert report["model"]["name"] == f"random weights, {mixture}" and report["model"]["n_layer"] == 4
    assert f"random weights, {mixture}" in capsys.readouterr().out
    assert [run["num_speculative_tokens"] for run in report["peer"]["runs"]] == [0, 3]
    assert report["peer"]["runs"][1]["drafted"] > 0
    written = {path.name for path in (tmp_path / shapes._GENERATION).iterdir()}
    assert written == {f"gemma4-tiny-4-layers-{mixture}-{role}.gguf" for role in ("target", "assistant")}


def test_files_of_other_weights_and_layers_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SHAPES, "tiny", DENSE)
    asked = [("q4_0", None), ("qat", None), ("q4_k_m", None), ("q4_k_m", 4), ("q4_k_m", 6)]
    pairs = [shapes.random_pair("tiny", weights, tmp_path, n_layers=layers) for weights, layers in asked]
    assert len({path for pair in pairs for path in pair}) == 2 * len(asked)
    assert [read_header(pair[0]).metadata["gemma4.block_count"] for pair in pairs] == [8, 8, 8, 4, 6]


def test_fewer_layers_keep_one_of_full_attention_with_its_own_kv():
    for name, shape in SHAPES.items():
        for n in range(shape.full_every, shape.n_layer + 1):
            fewer = shapes.with_layers(name, n)
            own = [layer for layer in range(n) if fewer.owns_kv(layer)]
            assert any(fewer.is_full(layer) for layer in own) and not all(fewer.is_full(layer) for layer in own)
        assert shapes.with_layers(name, shape.n_layer) == shape


@pytest.mark.parametrize("n", [0, 5, 31, -6])
def test_numbers_of_layers_that_there_are_not(n: int):
    with pytest.raises(InvalidRequestError, match="expected 6 to 30"):
        shapes.with_layers("26b-a4b", n)


@pytest.mark.parametrize("arguments, ks", [(["--k", "3"], {3}), (["--k", "1,2", "--search-runs", "1"], {0, 1, 2})])
def test_the_script_that_compares_weights(tmp_path: Path, monkeypatch, capsys, arguments: list[str], ks: set[int]):
    script = runpy.run_path(str(PROJECT / "benchmarks" / "weights.py"))
    monkeypatch.setitem(SHAPES, "tiny", EXPERTS)
    rows = tmp_path / "rows.json"
    options = ["--shape", "tiny", "--layers", "4", "--weights", "q8_0,q4_k_m", "--runs", "2", "--max-tokens", "20"]
    options += ["--n-threads", "1", "--folder", str(tmp_path), "--remove", "--json", str(rows)]
    monkeypatch.setattr("sys.argv", ["weights.py", *options, *arguments])
    script["main"]()
    table = capsys.readouterr().out.splitlines()
    told = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["weights"] for row in told] == ["q8_0", "q4_k_m"] and len(table) == 2 + len(told)
    for row in told:
        assert {row["k"], row["peer_k"]} <= ks
        assert (row["verify_ms"] is None) == (row["k"] == 0)
        assert row["ratio"]["n"] == row["plain_ms"]["n"] == 2 and row["ratio"]["low"] > 0
    assert not list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shape", "e2b", "--weights", "q4_k_s"], f"weights is 'q4_k_s', expected one of {', '.join(WEIGHTS)}"),
        (["--shape", "26b-a4b", "--layers", "5"], "layers is 5, expected 6 to 30 for 26b-a4b"),
        (["x.gguf", "--layers", "5"], "--layers is for --shape"),
    ],
)
def test_bench_refuses(tmp_path: Path, monkeypatch, capsys, arguments: list[str], message: str):
    monkeypatch.setenv("PYLLAMA_MTP_CACHE", str(tmp_path))
    assert main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.gguf"))

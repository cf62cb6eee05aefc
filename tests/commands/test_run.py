"""`pyllama-mtp run` as a program: where prompts come from, and what goes where."""

import subprocess
import sys
from pathlib import Path

import pytest

from commands.conftest import HOSTILE
from pyllama_mtp import Model
from support.terminal import Terminal

QUESTION = "Write a function add(a, b). It adds two numbers."
CODE = "def main():\n"
SHORT = ("--max-tokens", "12", "--temperature", "0", "--n-threads", "1", "--n-ctx", "512")


def program(*arguments: object, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """stdin None: there is nothing to read, and no pipe."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    source = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    command = [sys.executable, "-P", "-m", "pyllama_mtp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **source)


@pytest.fixture(scope="module")
def answers(demo) -> dict[str, str]:
    """What the model answers and completes, by the prompt."""
    options = {"max_tokens": 12, "temperature": 0}
    with Model(demo.target, n_threads=1, n_ctx=512) as model:
        prompts = {text: [{"role": "user", "content": text}] for text in (QUESTION, f"{CODE}\n{QUESTION}", "-x y")}
        prompts |= {"raw": CODE, "system": [{"role": "system", "content": "Be brief."}, *prompts[QUESTION]]}
        return {name: model.generate(prompt, **options).text() for name, prompt in prompts.items()}


def test_the_prompt_comes_from_words_options_files_and_pipes(demo, answers: dict[str, str], tmp_path: Path, main):
    question, code = tmp_path / "question.txt", tmp_path / "code.py"
    question.write_text(QUESTION + "\n")
    code.write_text(CODE)
    both = f"{CODE}\n{QUESTION}"
    for expected, words, stdin in (
        (QUESTION, [QUESTION], None),
        (QUESTION, QUESTION.split(), None),
        (QUESTION, ["--prompt", QUESTION], "a pipe that is not read"),
        (QUESTION, [], QUESTION + "\n"),
        (QUESTION, ["-"], QUESTION),
        (QUESTION, ["--file", question], "nor is this"),
        (both, ["--file", code, "--file", question], None),
        (both, ["-f", code, QUESTION], "nor this"),
        (both, [QUESTION], CODE),
        (both, ["-", "--prompt", QUESTION], CODE),
        ("-x y", ["--", "-x", "y"], None),
    ):
        status, out, error = main(["run", str(demo.target), *SHORT, *map(str, words)], stdin)
        assert (status, out) == (0, answers[expected] + "\n"), (words, error)
        assert "completion  " in error
    piped = program("run", demo.target, *SHORT, QUESTION, stdin=CODE)
    assert piped.stdout.decode() == answers[both] + "\n"


def test_raw_completes_the_text_as_it_is(demo, answers: dict[str, str]):
    result = program("run", demo.target, *SHORT, "--raw", "--quiet", "-", stdin=CODE)
    assert (result.stdout.decode(), result.stderr) == (answers["raw"] + "\n", b"")
    result = program("run", demo.target, *SHORT, "--quiet", "--system", "Be brief.", QUESTION)
    assert (result.stdout.decode(), result.stderr) == (answers["system"] + "\n", b"")


def test_thoughts_go_to_standard_error(demo, thinking_target: Path):
    command = ["run", thinking_target, *SHORT[2:], "--max-tokens", 60, "--think", QUESTION]
    result = program(*command)
    with Model(thinking_target, n_threads=1, n_ctx=512) as model:
        messages = [{"role": "user", "content": QUESTION}]
        thinking = {"chat_template_kwargs": {"enable_thinking": True}}
        chunks = list(model.generate(messages, max_tokens=60, temperature=0, **thinking))
    text, thought = ("".join(getattr(chunk, name) for chunk in chunks) for name in ("text", "reasoning"))
    assert text.strip() and thought.strip()
    assert result.stdout.decode() == text + "\n"
    assert result.stderr.decode().startswith(thought + "\n")
    assert program(*command, "--quiet").stderr == b""


def test_a_pipe_gets_what_the_model_wrote_and_a_terminal_nothing_that_controls_it(hostile_target: Path):
    command = ["run", str(hostile_target), *SHORT[2:], "--max-tokens", "40", QUESTION]
    assert HOSTILE.encode() in program(*command).stdout
    with Terminal([sys.executable, "-P", "-m", "pyllama_mtp", *command]) as terminal:
        assert terminal.ended() == 0
    assert "\\x1b]0;pwned\\x07\\x9b31m\\u202e\\x08" in terminal.text.replace("\n", "")
    for sequence in (b"\x1b[2J", b"\x1b]0;", b"\x07", "\x9b".encode(), "\u202e".encode()):
        assert sequence not in terminal.raw


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["MODEL"], None, "no prompt: give it as words"),
        (["MODEL"], "", "no prompt"),
        ([], None, "no model: name a GGUF file"),
        (["MODEL", "--prompt", "a", "b"], None, "two prompts"),
        (["MODEL", "-f", "missing.txt"], None, "'missing.txt': No such file or directory"),
        (["MODEL", "-f", "/"], None, "Is a directory"),
        (["MODEL", "-f", "a\0b"], None, "null byte"),
        (["MODEL", "-"], b"\xff\xfe", "standard input is no text in UTF-8"),
        (["MODEL", "--raw", "--system", "x", "y"], None, "--system is for a chat template"),
        (["MODEL", "--raw", "--think", "y"], None, "--think is for a chat template"),
        (["MODEL", "hi", "--temperature", "-1"], None, "temperature"),
        (["MODEL", "hi", "--n-ctx", "0"], None, "n_ctx"),
        (["MODEL", "hi", "--n-ctx", "many"], None, "many"),
        (["MODEL", "hi", "--cache-type-k", "f15"], None, "f15"),
        (["MODEL", "hi", "--revision", "v1"], None, "--revision is for a repository"),
        (["missing.gguf", "hi"], None, "missing.gguf"),
        (["MODEL", "hi", "--speculative-config", "{"], None, "no JSON"),
        (["MODEL", "hi", "--speculative-config", '{"model": 3}'], None, "expected a name"),
        (["MODEL", "hi", "--speculative-config", '{"method": []}'], None, 'expected "mtp"'),
        (["MODEL", "hi", "--mtp-head", "a", "--speculative-config", '{"model": "b"}'], None, "say the same"),
        (
            ["MODEL", "hi", "--num-speculative-tokens", "2", "--speculative-config", '{"num_speculative_tokens": 3}'],
            None,
            "say the same",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(demo, arguments: list[str], stdin: str | bytes | None, told: str, main):
    words = [str(demo.target) if word == "MODEL" else word for word in arguments]
    status, out, error = main(["run", *words], stdin)
    (line,) = error.splitlines()
    assert status == 1 and out == ""
    assert line.startswith("pyllama-mtp: error: ") and told in line


def test_a_model_without_a_template_names_the_way_out(demo, tmp_path: Path, main):
    from support.gguf_edit import rewrite

    bare = rewrite(demo.target, tmp_path / "bare.gguf", metadata={"tokenizer.chat_template": None})
    status, _, error = main(["run", str(bare), "hi"], None)
    assert status == 1 and "chat template" in error and "--raw" in error


def test_a_full_disk_and_a_reader_that_leaves(demo):
    command = [sys.executable, "-P", "-m", "pyllama_mtp", "run", str(demo.target), *SHORT, "--quiet", "hi"]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=120)
    (line,) = result.stderr.decode().splitlines()
    assert result.returncode == 1 and "No space left on device" in line
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(120) == 1 and process.stderr.read() == b""


def test_vllms_words_for_drafting(demo, main):
    config = f'{{"method": "mtp", "model": "{demo.head}", "num_speculative_tokens": 2}}'
    arguments = ["run", str(demo.target), *SHORT, "--ignore-eos", "--speculative-config", config, QUESTION]
    status, _, error = main(arguments, None)
    assert status == 0 and "of 0 drafted" not in error and error.count("acceptance per position") == 1
    (positions,) = [line.split()[3:] for line in error.splitlines() if line.startswith("acceptance per position")]
    assert len(positions) == 2

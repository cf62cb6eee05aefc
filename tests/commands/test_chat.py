"""`pyllama-mtp chat` on a terminal: what a user types, and what the screen shows."""

import json
import os
import re
import signal
import stat
import termios
import tty
from pathlib import Path

import pytest

from commands.conftest import HOSTILE, Chat
from pyllama_mtp.commands.chat import _ended_by_signals
from support.terminal import ALT_ENTER, CTRL_C, CTRL_D, CTRL_J, CTRL_U, ENTER, UP, Terminal

QUESTION = "Write a function add(a, b). It adds two numbers."
GREEDY = ("--temperature", "0", "--max-tokens", "60")
# And ignore_eos: minutes at any speed.
ENDLESS = ("--n-ctx", "200000", "--seed", "1", "--num-speculative-tokens", "2")


def saved(terminal: Terminal, folder: Path, name: str = "talk.json") -> dict:
    terminal.ask(f"/save {folder / name}")
    return json.loads((folder / name).read_text())


def answer(terminal: Terminal, folder: Path) -> str:
    """The last one, as the program keeps it."""
    return saved(terminal, folder)["messages"][-1]["content"]


def behind(terminal: Terminal, line: str) -> str:
    """Sends a line; returns what then comes."""
    terminal.ask(line)
    return terminal.text.rpartition(f"> {line}\n")[2]


def without_space(text: str) -> str:
    """A terminal breaks lines where it must, and does not tell spaces from nothing."""
    return "".join(text.split())


def test_an_answer_streams_and_ctrl_d_ends(chat: Chat, tmp_path: Path):
    with chat(*GREEDY) as terminal:
        terminal.ask(QUESTION)
        text = answer(terminal, tmp_path)
        assert text.strip() and text.strip() in terminal.text
        terminal.until("Target | 60 tokens, ")
        assert " tokens/s, " in terminal.text and "% accepted | " in terminal.text
        assert "(cut: max_tokens is 60)" in terminal.text
        assert "Ctrl-C stops\n" not in terminal.text  # the line of figures left nothing behind
        terminal.send(CTRL_D)
        assert terminal.ended() == 0
        assert terminal.now() == [terminal.settings[0], terminal.settings[3]]


def test_ctrl_c_stops_an_answer_and_not_the_program(chat: Chat, tmp_path: Path):
    with chat(*ENDLESS, "--ignore-eos") as terminal:
        terminal.send(QUESTION + ENTER)
        terminal.until("; Ctrl-C stops")
        terminal.until(lambda: terminal.lines[-1].endswith("% accepted; Ctrl-C stops"))  # below the text
        terminal.send(CTRL_C)
        terminal.until("(stopped)")
        terminal.until(lambda: terminal.n_prompts == 2)
        first = answer(terminal, tmp_path)
        assert first.strip() and without_space(first)[-40:] in without_space(terminal.text)
        terminal.ask("/set max_tokens 5")
        terminal.ask(QUESTION)
        assert len(saved(terminal, tmp_path)["messages"]) == 4
        asked = terminal.n_prompts
        terminal.send("half a line" + CTRL_C)
        terminal.until(lambda: terminal.n_prompts == asked + 1)
        assert "Ctrl-D ends the program" in terminal.text
        terminal.send(CTRL_D)
        assert terminal.ended() == 0


def test_several_lines_are_one_message(chat: Chat, tmp_path: Path):
    with chat("--max-tokens", "2") as terminal:
        terminal.ask(f"one{ALT_ENTER}two{CTRL_J}three\\{ENTER}four")
        terminal.ask("\x1b[200~five\nsix\x1b[201~")  # pasted
        contents = [m["content"] for m in saved(terminal, tmp_path)["messages"] if m["role"] == "user"]
        assert contents == ["one\ntwo\nthree\nfour", "five\nsix"]


def test_lines_are_kept_for_the_next_time_and_for_their_owner_alone(chat: Chat, tmp_path: Path):
    path = tmp_path / "state" / "pyllama-mtp" / "chat-history"
    with chat("--no-history") as terminal:
        terminal.ask("/think off")
    assert not path.exists()
    with chat() as terminal:
        terminal.ask("/system kept\nfor later")
        terminal.ask("/seed 5")
        terminal.send(UP)
        terminal.until(lambda: terminal.text.count("> /seed 5") == 2)
        terminal.send(CTRL_U + CTRL_D)
        assert terminal.ended() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with chat() as terminal:
        asked = terminal.n_prompts
        terminal.send(UP + UP + ENTER)
        terminal.until(lambda: terminal.n_prompts > asked)
        assert "system prompt: kept\nfor later" in terminal.text


def test_a_folder_that_takes_no_history(chat: Chat, tmp_path: Path):
    (tmp_path / "state").write_text("a file, where a folder is expected")
    with chat() as terminal:
        assert "the lines you type are not kept" in terminal.text
        terminal.ask("/seed 5")
        assert "seed: 5" in terminal.text


def test_every_command(chat: Chat, tmp_path: Path):
    from pyllama_mtp.commands.dialogue.slash import ALIASES, COMMANDS

    done = set()

    def told(line: str, *expected: str) -> None:
        done.add(line.split()[0])
        new = behind(terminal, line)
        assert all(text in new for text in expected), (line, expected, new)

    with chat("--max-tokens", "12", columns=200, lines=60) as terminal:
        told("/help", *COMMANDS)
        told("/stats", "no answer yet")
        told("/system You write Python.", "system prompt: You write Python.")
        told("/seed 11", "seed: 11")
        told("/k 2", "drafts a round: 2")
        told("/k none", "drafts a round: auto")
        told("/k 2", "drafts a round: 2")
        told("/think on", "thinking: on")
        told("/set temperature 0.7", "temperature: 0.7")
        told("/set", "max_tokens: 12", "top_k: 64, the model's own")
        told("/set stop <nowhere>", "stop: ('<nowhere>',)")
        terminal.ask(QUESTION)
        told("/stats", "seed 11", "12 tokens in", "acceptance per position")
        first = answer(terminal, tmp_path)
        told(f"/save {tmp_path / 'talk.json'}", "saved 2 messages")
        told("/regenerate", "the seed is fixed")
        assert answer(terminal, tmp_path) == first
        told("/undo", f"taken back: {QUESTION}")
        told("/undo", "there is nothing to take back")
        told("/seed none", "seed: none", "each answer draws its own")
        told("/set temperature none", "temperature: 1, the model's own")
        terminal.ask(QUESTION)
        told("/clear", "a new conversation")
        told(f"/load {tmp_path / 'talk.json'}", "loaded 2 messages", QUESTION, first.strip().split("\n")[0])
        told("/seed", "seed: 11")
        data = saved(terminal, tmp_path, "again.json")
        assert data["system"] == "You write Python." and data["think"] is True
        assert data["sampling"] == {
            "max_tokens": 12,
            "num_speculative_tokens": 2,
            "seed": 11,
            "stop": ["<nowhere>"],
            "temperature": 0.7,
        }
        terminal.send("/exit" + ENTER)
        done.add("/exit")
        assert terminal.ended() == 0
    assert done == set(COMMANDS) and set(ALIASES.values()) <= set(COMMANDS)


def test_commands_that_make_no_sense_are_told_in_a_line(chat: Chat, tmp_path: Path):
    mine = tmp_path / "mine.txt"
    mine.write_text("dear diary")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "/nonsense": "is no command: /help lists them",
        "/usr/bin/python fails": "takes a blank before it",
        "/seed x": "seed is 'x', expected an integer",
        "/k 99": "num_speculative_tokens",
        "/think maybe": "expected on or off",
        "/set colour red": "'colour' is no option",
        "/set temperature hot": "expected a finite number",
        "/stats now": "takes no argument",
        "/save": "needs a file's name",
        f"/save {mine}": "is there and no conversation",
        f"/save {tmp_path}/none/talk.json": "No such file or directory",
        f"/save {tmp_path / 'pipe'}": "is there and no conversation",
        f"/load {tmp_path / 'pipe'}": "it is no file",
        f"/load {tmp_path}/missing.json": "No such file or directory",
        f"/load {mine}": "is no JSON",
        "/regenerate": "there is no message to answer again",
    }
    with chat(columns=250) as terminal:
        for line, expected in cases.items():
            told = behind(terminal, line).strip().splitlines()
            assert expected in told[0] and told[1].strip() == ">", (line, told)
        assert mine.read_text() == "dear diary"
        terminal.ask(" /usr is a folder")  # with a blank it is a message
        assert saved(terminal, tmp_path)["messages"][0]["content"] == "/usr is a folder"


@pytest.mark.parametrize(("columns", "lines"), [(23, 7), (10, 4), (31, 3)])
def test_the_screen_holds_the_answer_and_nothing_else(chat: Chat, tmp_path: Path, columns: int, lines: int):
    """Whatever the size, also where the text has scrolled: the line of figures leaves no trace."""
    with chat("--max-tokens", "400", "--ignore-eos", "--seed", "3", columns=columns, lines=lines) as terminal:
        terminal.ask("Write.")
        rows = without_space(terminal.text).partition(">Write.")[2]
        text = without_space(answer(terminal, tmp_path))
        assert rows.startswith(f"{text}(cut:max_tokensis400)>")


def test_a_window_that_changes_its_size_amid_an_answer(chat: Chat):
    with chat(*ENDLESS, "--ignore-eos") as terminal:
        terminal.send(QUESTION + ENTER)
        for columns, lines in ((40, 10), (15, 5), (120, 40), (80, 24)):
            seen = len(terminal.raw)
            terminal.until(lambda seen=seen: len(terminal.raw) > seen + 2000)
            terminal.resize(columns, lines)
        terminal.send(CTRL_C)
        terminal.until(lambda: terminal.n_prompts == 2)
        terminal.ask("/seed 77")
        assert "seed: 77" in terminal.text


def test_thoughts_are_dimmed_and_apart_from_the_answer(chat: Chat, thinking_target: Path, tmp_path: Path):
    with chat(*GREEDY, "--think", target=thinking_target) as terminal:
        terminal.ask(QUESTION)
        asked, told = saved(terminal, tmp_path)["messages"]
        thought = told["reasoning_content"]
        assert thought.strip() and told["content"].strip() and thought != told["content"]
        dimmed = b"".join(re.findall(rb"(?<!\r)\x1b\[2m([^\x1b]*)\x1b\[0m", terminal.raw)).decode()  # but for figures
        assert thought in dimmed and told["content"].strip() not in dimmed
        assert f"{thought}\n\n{told['content'].rstrip()}" in terminal.text
        terminal.ask("/think off")
        terminal.ask(QUESTION)
        assert "reasoning_content" not in saved(terminal, tmp_path)["messages"][-1]


def test_a_hostile_model_controls_nothing(chat: Chat, hostile_target: Path, tmp_path: Path):
    """Its name and its texts would clear the screen, name the window and go back in the line."""
    with chat(*GREEDY, target=hostile_target) as terminal:
        terminal.ask(QUESTION)
        assert HOSTILE in answer(terminal, tmp_path)
        terminal.ask("/clear")
        terminal.ask(f"/load {tmp_path / 'talk.json'}")
        terminal.ask(f"/system {HOSTILE.encode('unicode_escape').decode()}")
        for sequence in (b"\x1b[2J\x1b[H", b"\x1b]0;", b"\x07", "\x9b".encode(), "\u202e".encode()):
            assert sequence not in terminal.raw
        assert terminal.title == ""
        shown = "\\x1b]0;pwned\\x07\\x9b31m\\u202e\\x08"
        assert terminal.text.replace("\n", "").count(shown) >= 2  # as it came, and as it was loaded
        assert shown.replace("\\x08", "\\r\\x08, 4096 tokens of context") in terminal.text.replace("\n", "")
        assert QUESTION in terminal.text  # nothing cleared it


def test_without_colours_and_on_a_terminal_that_can_do_nothing(chat: Chat, thinking_target: Path, tmp_path: Path):
    with chat(*GREEDY, "--think", target=thinking_target, NO_COLOR="1") as terminal:
        terminal.ask(QUESTION)
        assert b"\x1b[2m" not in terminal.raw and b"\x1b[31m" not in terminal.raw


@pytest.mark.parametrize(("number", "busy"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_a_signal_leaves_the_terminal_as_it_was(chat: Chat, number: int, busy: bool):
    """It was left without echo, in which no shell can be used."""
    with chat(*ENDLESS, "--ignore-eos") as terminal:
        if busy:
            terminal.send(QUESTION + ENTER)
            terminal.until("; Ctrl-C stops")
        assert terminal.now() != [terminal.settings[0], terminal.settings[3]]
        terminal.process.send_signal(number)
        assert terminal.ended() == 128 + number
        assert terminal.now() == [terminal.settings[0], terminal.settings[3]]
        assert "Traceback" not in terminal.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_amid_a_change_of_the_terminal_leaves_it_as_it_was(number: int, monkeypatch: pytest.MonkeyPatch):
    """It came behind the change and in front of the `try` whose `finally` takes it back, and echo stayed off."""
    keyboard, terminal = os.openpty()
    with os.fdopen(keyboard, "wb"), os.fdopen(terminal, "rb", buffering=0) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        before = termios.tcgetattr(stdin)
        with pytest.raises(SystemExit, match=str(128 + number)), _ended_by_signals():
            tty.setraw(stdin)
            assert termios.tcgetattr(stdin) != before
            os.kill(os.getpid(), number)
        assert termios.tcgetattr(stdin) == before


def test_keys_pressed_meanwhile_are_the_next_message_and_not_in_the_answer(chat: Chat):
    with chat("--max-tokens", "600", "--ignore-eos", "--seed", "1") as terminal:
        terminal.send(QUESTION + ENTER)
        terminal.until(lambda: b"; Ctrl-C stops" in terminal.raw)
        terminal.send("/seed 4242" + ENTER)
        terminal.until(lambda: terminal.n_prompts == 3)
        above, prompt, below = terminal.text.partition("> /seed 4242")
        assert prompt and "4242" not in above and "seed: 4242" in below


def test_a_message_that_does_not_fit_is_told_and_forgotten(chat: Chat, tmp_path: Path):
    with chat("--n-ctx", "256", "--max-tokens", "4") as terminal:
        terminal.ask("word " * 600)
        assert "the context holds 256" in terminal.text.replace("\n", "")
        assert saved(terminal, tmp_path)["messages"] == []
        terminal.ask("short")
        assert len(saved(terminal, tmp_path)["messages"]) == 2, terminal.text

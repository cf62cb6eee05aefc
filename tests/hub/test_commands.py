"""From a repository's name to an answer, with the command that users type."""

import os
import subprocess
import sys
from pathlib import Path

from support.hub import Hub
from support.hub_content import ASSISTANT, GGUF


def run(hub: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "PYLLAMA_MTP_CACHE": str(home / "own")}
    ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
    options = ["--raw", "--max-tokens", "8", "--temperature", "0", "--n-ctx", "256", "--n-threads", "1"]
    command = [sys.executable, "-P", "-m", "pyllama_mtp", "run", *arguments, *options, "--prompt", "def f():\n"]
    return subprocess.run(command, env=kept | ours, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_name_is_enough_for_an_answer(hub: Hub, tmp_path: Path, demo):
    done = run(hub, tmp_path, "-hf", f"{GGUF}:Q8_0", "--mtp-head", "auto")
    assert done.returncode == 0, done.stderr
    assert ASSISTANT in done.stderr and "acceptance rate" in done.stderr
    of_files = run(hub, tmp_path, str(demo.target), "--mtp-head", str(demo.head))
    assert done.stdout == of_files.stdout != ""


def test_what_cannot_be_found_is_one_line(hub: Hub, tmp_path: Path):
    done = run(hub, tmp_path, "-hf", f"{GGUF}:Q2_K", "--mtp-head", "auto")
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("pyllama-mtp: error: "), done.stderr
    assert "Q2_K" in lines[0] and done.stdout == ""

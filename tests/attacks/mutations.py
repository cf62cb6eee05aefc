"""Damaged files through Model(...) and through the converter: an exception, never a signal, never a hang.

    python tests/attacks/mutations.py --cases 10000 [--seed 0]      # 300 of them run in the test suite
    python tests/attacks/mutations.py --case 4711 [--keep FOLDER]   # one again, in this process

A case is a function of seed and number alone. Workers run many cases each under limits of memory and time; one that
dies names its case, and another goes on behind it. What loads in spite of its damage also generates a few tokens.
"""

import argparse
import collections
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyllama_mtp import Model, PyllamaMtpError
from pyllama_mtp.convert import convert_assistant
from pyllama_mtp.gguf.format import read_header
from support.checkpoint_damage import damage
from support.checkpoints import config_json, random_tensors, write_checkpoint, write_tokenizer
from support.gguf_damage import Original, damaged, fields
from support.gguf_edit import Parts
from support.tiny_pairs import SHAPES, TinyPair, write_tiny_pair

MEMORY_BYTES = 4 << 30  # address space; a worker needs 1.5 GiB of it
SECONDS = 20  # for a case; the usual one takes .01


@dataclass(frozen=True, slots=True)
class Corpus:
    """The valid files that cases begin with."""

    folder: Path
    pairs: dict[str, TinyPair]
    originals: dict[Path, Original]
    checkpoint: Path

    @classmethod
    def write(cls, folder: Path) -> "Corpus":
        pairs = {kind: write_tiny_pair(kind, folder) for kind in SHAPES}
        originals = {}
        for path in (path for pair in pairs.values() for path in (pair.target, pair.head)):
            originals[path] = Original(path.read_bytes(), fields(path.read_bytes()), Parts.read(path))
        shape = SHAPES["e2b"]
        config = config_json(centroids=shape.n_centroids)
        config["backbone_hidden_size"] = shape.n_embd
        config["text_config"]["vocab_size"] = shape.n_vocab
        checkpoint = write_checkpoint(folder / "checkpoint", config, random_tensors(config))
        write_tokenizer(checkpoint, shape.n_vocab)
        return cls(folder, pairs, originals, checkpoint)


def generate(target: Path, head: Path | None) -> None:
    with Model(target, mtp_head=head, n_ctx=64, n_threads=1) as model:
        n_vocab = model.info.n_vocab
        prompt = [min(token, n_vocab - 1) for token in (5, 6, 7)]
        model.generate(prompt, max_tokens=5, temperature=0, num_speculative_tokens=3 if head else 0).text()
        model.generate("w1 <bos> \u00e4\0", max_tokens=3, seed=1, num_speculative_tokens=2 if head else 0).text()


def run_case(corpus: Corpus, seed: int, number: int) -> tuple[str, str]:
    """(what was damaged, what came of it). Raises whatever is not one of the package's exceptions."""
    random = Random(f"{seed}/{number}")
    pair = corpus.pairs[random.choice(list(corpus.pairs))]
    part = random.choice(("target", "target", "head", "checkpoint"))
    try:
        if part == "checkpoint":
            folder = corpus.folder / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(corpus.checkpoint, folder)
            kind = f"checkpoint, {damage(random, folder)}"
            _convert(folder, corpus.folder / "converted.gguf", random.choice(("f32", "f16", "q8_0", "q4_0")))
            generate(corpus.pairs["e2b"].target, corpus.folder / "converted.gguf")
        else:
            kind, data = damaged(random, corpus.originals[getattr(pair, part)])
            kind = f"{part}, {kind}"
            path = corpus.folder / "damaged.gguf"
            path.write_bytes(data)
            if part == "target":
                generate(path, random.choice((None, pair.head)))
            else:
                generate(pair.target, path)
    except PyllamaMtpError as error:
        assert str(error) and len(str(error)) < 200_000, kind
        return kind, type(error).__name__
    return kind, "loads"


def _convert(folder: Path, out: Path, outtype: str) -> None:
    """A refusal leaves nothing behind; a success is a readable file."""
    out.unlink(missing_ok=True)
    try:
        convert_assistant(folder, out, outtype=outtype)
    except PyllamaMtpError:
        left = [path.name for path in out.parent.iterdir() if out.name in path.name]
        assert not left, left
        raise
    read_header(out)


def work(seed: int, begin: int, end: int) -> None:
    """A worker: says on stdout which case it begins and what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with _scratch() as folder:
        corpus = Corpus.write(folder)
        for number in range(begin, end):
            print(f"begin {number}", flush=True)
            signal.alarm(SECONDS)
            kind, outcome = run_case(corpus, seed, number)
            signal.alarm(0)
            print(f"ends {outcome} {kind}", flush=True)


@contextlib.contextmanager
def _scratch():
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="mutations-", dir=memory) as folder:
        yield Path(folder)


def run(n_cases: int, seed: int, begin: int = 0) -> tuple[list[str], collections.Counter[str]]:
    """Every case in workers: (findings, outcomes)."""
    findings: list[str] = []
    outcomes: collections.Counter[str] = collections.Counter()
    end = begin + n_cases
    while begin < end:
        command = [sys.executable, __file__, "--seed", str(seed), "--worker", str(begin), str(end)]
        environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
        worker = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        lines = worker.stdout.splitlines()
        outcomes.update(line.split()[1] for line in lines if line.startswith("ends "))
        if worker.returncode == 0:
            break
        begun = [int(line.split()[1]) for line in lines if line.startswith("begin ")]
        if not begun:
            raise RuntimeError(f"a worker did not start: {worker.stderr[-2000:]}")
        findings.append(f"case {begun[-1]}: status {worker.returncode}: {worker.stderr[-1500:]}")
        begin = begun[-1] + 1
    return findings, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--begin", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--keep", type=Path, help="with --case: the folder to write its files to")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.seed, *args.worker)
    elif args.case is not None:
        with contextlib.nullcontext(args.keep) if args.keep else _scratch() as folder:
            folder.mkdir(exist_ok=True)
            print(run_case(Corpus.write(folder), args.seed, args.case))
    else:
        findings, outcomes = run(args.cases, args.seed, args.begin)
        print("\n".join(findings), f"{dict(outcomes.most_common())}, {len(findings)} findings", sep="\n")
        sys.exit(bool(findings))


if __name__ == "__main__":
    main()

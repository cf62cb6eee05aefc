"""Many completions that JSON schemas restrict: all that end by themselves must be valid.

    python tests/support/constrained.py --runs 2000

Goes through schemas, rules of acceptance, numbers of drafts and temperatures, up to four completions together. Prints
counts, and fails with the first text that is not valid.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from pyllama_mtp import Model
from support.schemas import SCHEMAS, check

PROMPTS = ("import os\n\n\ndef read(path):\n", "{", "data = json.loads(text)\nprint(data)\n# ", "x")
DRAFTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, "auto")
RULES = ("auto", "coupled", "rejection", "rejection_greedy", "block")
TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.5)
NAMES = list(SCHEMAS)


def options_of(run: int) -> dict[str, Any]:
    """Each run is another combination; 40 successive ones have every schema."""
    name, turn = NAMES[run % len(NAMES)], run // len(NAMES)
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": SCHEMAS[name]}},
        "num_speculative_tokens": DRAFTS[(run + turn) % len(DRAFTS)],
        "acceptance": RULES[(run // 7 + turn) % len(RULES)],
        "temperature": TEMPERATURES[(run + 3 * turn) % len(TEMPERATURES)],
        "seed": run,
        "max_tokens": 160,
    }


def run_all(model: Model, runs: Iterator[int], together: int = 4) -> Counter[str]:
    """Counts of how they ended, of tokens, and of drafts."""
    counts: Counter[str] = Counter()
    begun: list[tuple[int, Any]] = []
    more = True
    while begun or more:
        while more and len(begun) < together:
            run = next(runs, None)
            more = run is not None
            if run is not None:
                begun.append((run, model.generate(PROMPTS[run % len(PROMPTS)], **options_of(run))))
        if not begun:
            break
        run, stream = begun.pop(0)
        text = stream.text()
        counts[str(stream.finish_reason)] += 1
        counts["tokens"] += stream.stats.completion_tokens
        counts["drafted"] += stream.stats.drafted
        counts["accepted"] += stream.stats.accepted
        if stream.finish_reason == "stop":
            try:
                check(NAMES[run % len(NAMES)], text)
            except Exception as error:
                raise AssertionError(f"run {run}, {options_of(run)}: {text!r}: {error}") from error
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    args = parser.parse_args()
    with Model(demo / "target.gguf", mtp_head=demo / "assistant.gguf", n_ctx=512, n_threads=1) as model:
        print(dict(run_all(model, iter(range(args.runs)))))


if __name__ == "__main__":
    main()

"""JSON Schema's own test suite against the masks of grammars: each valid instance must be allowed token by token, each
invalid one refused, and a schema that cannot be held to refused by an error.

    python tests/support/json_schema_suite.py FOLDER/tests/draft2020-12 FOLDER/tests/draft7 [--list]

The suite is at github.com/json-schema-org/JSON-Schema-Test-Suite; jsonschema's source distribution holds it as json/.
"""

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pyllama_mtp import InvalidRequestError, Model
from pyllama_mtp._library import ffi
from pyllama_mtp._matcher import Matcher, Thoughts
from pyllama_mtp.grammar.build import content_of, either
from pyllama_mtp.grammar.options import GrammarOptions

MAX_ORDERS = 200  # of an instance's properties that are tried

# Classes of instances that are not judged as the suite has it, by what is found in "file: group: test: instance".
NARROWED = {
    "whole numbers are written without a fraction or an exponent": r"^((const|enum|type): .*(\.0\b|float)|.*overflow)",
    "formats are held to, and are no annotations": r"^format: ",
    "a format's rarer forms, such as leap seconds and quotes in e-mail addresses": r"^optional/format/",
    r"\s is Unicode's white space, without U+FEFF": r"^optional/ecmascript-regex: .*whitespace",
    "what stands beside $ref counts in draft 7 too": r"^ref: ref overrides any sibling",
}
WEAKENED = {
    r"\S is all but Unicode's white space, and so U+FEFF": r"^optional/ecmascript-regex: .*whitespace",
    "contentEncoding and contentMediaType are annotations in draft 7 too": r"^optional/content: ",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A test of the suite."""

    file: str
    group: str
    name: str
    schema: Any
    instance: Any
    valid: bool

    @property
    def text(self) -> str:
        return f"{self.file}: {self.group}: {self.name}: {json.dumps(self.instance)}"


@dataclass(frozen=True, slots=True)
class Result:
    """refused: why there is no grammar for the schema. allowed: whether the grammar allows the instance."""

    case: Case
    refused: str | None = None
    allowed: bool = False

    @property
    def kind(self) -> str:
        if self.refused is not None:
            return "schema refused"
        if self.allowed == self.case.valid:
            return "right"
        return "weakened" if self.allowed else "narrowed"

    @property
    def reason(self) -> str:
        """A class of such results."""
        if self.refused is not None:
            return re.sub(r"'[^']*'|\d+", "...", self.refused)
        classes = WEAKENED if self.kind == "weakened" else NARROWED
        return next((name for name, found in classes.items() if re.search(found, self.case.text)), "unexplained")


def cases(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.rglob("*.json")):
        file = str(path.relative_to(folder).with_suffix(""))
        for group in json.loads(path.read_text(encoding="utf-8")):
            for test in group["tests"]:
                yield Case(
                    file, group["description"], test["description"], group["schema"], test["data"], test["valid"]
                )


def orders(value: Any) -> Iterator[Any]:
    """The value with its properties in every order: grammars have them in the schema's."""
    if isinstance(value, list):
        yield from map(list, itertools.product(*(list(itertools.islice(orders(item), 24)) for item in value)))
    elif isinstance(value, dict):
        for keys in itertools.permutations(value):
            inner = [list(itertools.islice(orders(value[key]), 24)) for key in keys]
            yield from (dict(zip(keys, values, strict=True)) for values in itertools.product(*inner))
    else:
        yield value


class Suite:
    """Tells what a model's grammars make of cases."""

    def __init__(self, model: Model, draft: str) -> None:
        """draft: the folder that the cases are from."""
        self._model = model
        self._draft = draft
        self._tokenizer = model._constraints._tables()
        self._words = (model.info.n_vocab + 31) // 32

    def results(self, given: Sequence[Case]) -> Iterator[Result]:
        for _, group in itertools.groupby(given, key=lambda case: (case.file, case.group)):
            tests = list(group)
            try:
                form = {"type": "json_schema", "json_schema": {"schema": plain(tests[0].schema, self._draft)}}
                options = GrammarOptions(response_format=form)
                grammar = either(content_of(options), None)
                Matcher(self._tokenizer, grammar, Thoughts())
            except InvalidRequestError as error:
                yield from (Result(case, refused=str(error)) for case in tests)
                continue
            for case in tests:
                tried = itertools.islice(orders(case.instance), MAX_ORDERS)
                yield Result(case, allowed=any(self._allows(grammar, value) for value in tried))

    def _allows(self, grammar: bytes, value: Any) -> bool:
        matcher = Matcher(self._tokenizer, grammar, Thoughts())
        functions, handle = matcher._functions, matcher._matcher
        mask = np.zeros(self._words, np.uint32)
        words = ffi.from_buffer("uint32_t *", mask)
        text = json.dumps(value, ensure_ascii=False)
        for token in self._model.tokenize(text, add_special=False, parse_special=False):
            assert functions.llg_matcher_compute_mask_into(handle, words, mask.nbytes) == 0, matcher._message()
            if not mask[token // 32] >> token % 32 & 1:
                return False
            assert functions.llg_matcher_consume_tokens(handle, [token], 1) == 0
        return bool(functions.llg_matcher_is_accepting(handle))


def plain(schema: Any, draft: str) -> dict[str, Any]:
    """As response_format takes it: without true and false at the top, and of 2020-12 if it says nothing else."""
    plain = schema if isinstance(schema, dict) else {"anyOf": [schema]}
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | plain if draft == "draft7" else plain


def main() -> None:
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--list", action="store_true", help="every case that is narrowed or weakened")
    args = parser.parse_args()
    with Model(demo / "target.gguf", n_threads=1) as model:
        for folder in args.folder:
            results = list(Suite(model, folder.name).results(list(cases(folder))))
            print(f"{folder.name}: {len(results)} tests, {dict(Counter(result.kind for result in results))}")
            for kind in ("schema refused", "narrowed", "weakened"):
                reasons = Counter(result.reason for result in results if result.kind == kind)
                for reason, n in reasons.most_common():
                    print(f"  {kind}: {n}: {reason[:150]}")
                if args.list and kind != "schema refused":
                    print(
                        *(f"    {r.case.text}\n      {json.dumps(r.case.schema)}" for r in results if r.kind == kind),
                        sep="\n",
                    )


if __name__ == "__main__":
    main()

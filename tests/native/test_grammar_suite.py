"""JSON Schema's own test suite, as far as CI has time for it: docs/grammar.md has the figures of all of it."""

import hashlib
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from pyllama_mtp import Model
from support.json_schema_suite import Suite, cases

SDIST = "jsonschema==4.26.0"  # which holds the suite
SHA256 = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest) -> Path:
    """The suite's tests; downloaded once and kept in pytest's cache."""
    folder = Path(request.config.cache.mkdir("jsonschema"))
    path = folder / f"{SDIST.replace('==', '-')}.tar.gz"
    if not path.exists():
        command = ["unearth", SDIST, "--no-binary", "--download", str(folder)]
        subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    with tarfile.open(path) as sdist:
        sdist.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz") / "json" / "tests"


# What is refused by name: features that are not there, and what no grammar can be made of.
REFUSED = (
    "Unimplemented keys", "Unknown format", "oneOf constraints", "minProperties", "patternProperty regexes", "Resource",
    "Unsatisfiable", "regex parse error", "Failed to generate regex", "too many digits", "dynamic", "$ref",
)  # fmt: skip


@pytest.mark.parametrize(("draft", "right"), [("draft2020-12", 950), ("draft7", 870)])
def test_instances_are_judged_as_the_suite_has_it(demo_model: Model, suite: Path, draft: str, right: int):
    """But for classes that are known, and schemas that are refused. Dates had a 29 February in every year, minutes a
    61st second, and counts of 2.0 were refused.
    """
    results = list(Suite(demo_model, draft).results(list(cases(suite / draft))))
    wrong = [result for result in results if result.kind in ("narrowed", "weakened")]
    assert not [(result.kind, result.case.text) for result in wrong if result.reason == "unexplained"]
    kinds = Counter(result.kind for result in results)
    assert kinds["right"] >= right and len(wrong) < 50
    refusals = {result.refused for result in results if result.refused is not None}
    assert not [refusal for refusal in refusals if not any(name in refusal for name in REFUSED)]
    held = {result.case.file for result in results if result.kind == "right"}
    assert held >= {"additionalProperties", "allOf", "anyOf", "enum", "items", "maximum", "maxItems", "pattern", "ref"}

"""What the server says of its API holds: requests made from that end in no 5xx, and in no status but those told."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from support.serving import Served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
EXAMPLES = 25  # of each operation


@pytest.fixture(scope="module")
def described(chat_target: Path, demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose texts are short."""
    log = tmp_path_factory.mktemp("described") / "log"
    limits = ("--max-completion-tokens", "6", "--max-choices", "3", "--max-model-len", "256", "--n-threads", "1")
    with Served(chat_target, "--mtp-head", str(demo.head), *limits, log=log) as server:
        yield server


@pytest.fixture
def api(described: Served):
    return schemathesis.openapi.from_url(f"{described.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_the_description_holds(case: schemathesis.Case):
    case.call_and_validate(checks=CHECKS)


def test_every_path_is_described(described: Served):
    told = described.ask("GET", "/openapi.json").json
    assert set(told["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
        "/",
    }

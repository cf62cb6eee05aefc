"""What the server says of its API holds: requests made from that end in no 5xx, and in no status but those told."""

import os
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
)

from support.serving import Served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = int(os.environ.get("PMTP_EXAMPLES", "20"))  # of each operation


@pytest.fixture(scope="module")
def described(chat_target: Path, demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose texts are short."""
    log = tmp_path_factory.mktemp("described") / "log"
    limits = ("--max-completion-tokens", "6", "--max-choices", "3", "--max-model-len", "256", "--n-threads", "1")
    with Served(chat_target, "--mtp-head", str(demo.head), *limits, log=log) as server:
        yield server


OPERATIONS = {
    "/v1/chat/completions": "post",
    "/v1/completions": "post",
    "/tokenize": "post",
    "/detokenize": "post",
    "/v1/models": "get",
    "/v1/models/{name}": "get",
    "/health": "get",
    "/metrics": "get",
    "/": "get",
}


@pytest.fixture(scope="module")
def api(described: Served):
    return schemathesis.openapi.from_url(f"{described.url}/openapi.json")


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("path", [path for path, method in OPERATIONS.items() if method == "post"])
def test_the_description_holds(api, path: str, mode: schemathesis.GenerationMode):
    """For what the description allows, and for what it does not."""

    @hypothesis.given(case=api[path]["POST"].as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        statuses.append(case.call_and_validate(checks=CHECKS).status_code)

    statuses: list[int] = []
    ask()
    if mode is schemathesis.GenerationMode.NEGATIVE:
        assert 200 not in statuses
    elif path != "/tokenize":  # of which few have one of prompt and messages
        assert 200 in statuses


@pytest.mark.parametrize("path", [path for path, method in OPERATIONS.items() if method == "get"])
def test_answers_without_a_body_are_as_described(api, path: str, described: Served):
    case = api[path]["GET"].Case(path_parameters={"name": described.name} if "{" in path else {})
    assert case.call_and_validate(checks=CHECKS).status_code == 200


def test_every_path_is_described(described: Served):
    told = described.ask("GET", "/openapi.json").json["paths"]
    assert {path: set(methods) - {"parameters"} for path, methods in told.items()} == {
        path: {method} for path, method in OPERATIONS.items()
    }

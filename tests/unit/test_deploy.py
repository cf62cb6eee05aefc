"""What deploy/ says to containers and Kubernetes is what this package understands: commands, paths, figures, times."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyllama_mtp import cli
from pyllama_mtp.commands.model import asked_head, load_options
from support.cmake import PROJECT, VERSION

DEPLOY = PROJECT / "deploy"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """Those of kubernetes.yaml by kind."""
    listed = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert len({each["kind"] for each in listed}) == len(listed)
    return {each["kind"]: each for each in listed}


@pytest.fixture(scope="module")
def pod(objects: dict[str, Any]) -> Any:
    return objects["Deployment"]["spec"]["template"]


@pytest.fixture(scope="module")
def container(pod: Any) -> Any:
    (only,) = pod["spec"]["containers"]
    return only


@pytest.fixture(scope="module")
def arguments(container: Any) -> Any:
    """The command as our parser reads it. What Kubernetes replaces is a word."""
    assert container["command"] == ["pyllama-mtp"]
    return cli._parser().parse_args([re.sub(r"\$\(\w+\)", "word", word) for word in container["args"]])


def test_the_command_is_one_of_ours(arguments: Any):
    assert arguments.command == "serve" and arguments.host == "0.0.0.0"
    options = load_options(arguments)
    assert options["drafter"] == "mtp" and options["num_speculative_tokens"] == 3
    assert asked_head(arguments) == "google/gemma-4-E4B-it-assistant" and arguments.hf.endswith("E4B-it-GGUF:Q4_0")


def test_the_commands_of_the_documentation_are_ours():
    """Of the container and of the systemd unit."""
    text = (PROJECT / "docs" / "deployment.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^(?:ExecStart=\S+/| {4}podman run .* )pyllama-mtp +(serve .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert cli._parser().parse_args(shlex.split(command)).command == "serve"


def test_ports_and_paths_meet(objects: dict[str, Any], pod: Any, container: Any, arguments: Any):
    (port,) = container["ports"]
    assert port["containerPort"] == arguments.port
    assert [container[probe]["httpGet"] for probe in PROBES] == [{"path": "/health", "port": port["name"]}] * 3
    (way,) = objects["Service"]["spec"]["ports"]
    assert way["targetPort"] == port["name"]
    scraped = pod["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(arguments.port) and scraped["prometheus.io/path"] == "/metrics"


def test_labels_and_names_meet(objects: dict[str, Any], pod: Any):
    labels = pod["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    scaled = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])
    assert "replicas" not in objects["Deployment"]["spec"]  # it would undo what the autoscaler says
    claims = [volume["persistentVolumeClaim"] for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": objects["PersistentVolumeClaim"]["metadata"]["name"]}]


def test_a_pod_has_time_to_drain(pod: Any, container: Any, arguments: Any):
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert before + arguments.drain_seconds + 5 <= pod["spec"]["terminationGracePeriodSeconds"]


def test_the_autoscaler_reads_a_figure_that_the_server_has(objects: dict[str, Any]):
    """By the name that the rule in docs/deployment.md gives it."""
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"].replace("vllm_", "")
    assert f'"{name}"' in Path(PROJECT / "pyllama_mtp" / "server" / "metrics.py").read_text()
    rule = (PROJECT / "docs" / "deployment.md").read_text()
    assert f"vllm:{name}" in rule and f"vllm_{name}" in rule


def test_a_pod_may_do_nothing_but_serve(pod: Any, container: Any):
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and not pod["spec"]["automountServiceAccountToken"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The instructions of the Containerfile."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_runs_our_command_as_the_user_of_the_manifest(lines: list[str], pod: Any, container: Any):
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    said = {line.partition(" ")[0]: line.partition(" ")[2] for line in last}
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert said["ENTRYPOINT"] == '["pyllama-mtp"]' and "pyllama-mtp" in scripts
    assert said["USER"] == str(pod["spec"]["securityContext"]["runAsUser"])
    assert f"uid {said['USER']} " in next(line for line in last if "useradd" in line)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert said["VOLUME"] in mounted and f"XDG_CACHE_HOME={said['VOLUME']} " in said["ENV"]
    assert "/health" in said["HEALTHCHECK"] and said["EXPOSE"] == str(container["ports"][0]["containerPort"])
    assert container["image"].endswith(f":{VERSION}")


def test_what_the_image_copies_is_there(lines: list[str]):
    script = next(word for line in lines for word in line.split() if word.startswith("/src/"))
    assert (PROJECT / script.removeprefix("/src/")).is_file()

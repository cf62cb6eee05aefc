"""300 damaged files with a fixed seed, and that the kinds of damage do what they say."""

import importlib.util
from pathlib import Path
from random import Random

from support.gguf_damage import BYTES, MEANING, Original, fields
from support.gguf_edit import Parts
from support.tiny_pairs import write_tiny_pair

_spec = importlib.util.spec_from_file_location("mutations", Path(__file__).with_name("mutations.py"))
mutations = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutations)


def test_damaged_files_give_exceptions():
    findings, outcomes = mutations.run(300, seed=0)
    assert not findings, "\n".join(findings)
    assert outcomes.total() == 300
    assert outcomes["ModelLoadError"] > 80 and outcomes["ConversionError"] > 20 and outcomes["loads"] > 20, outcomes


def test_a_worker_that_dies_is_a_finding(monkeypatch):
    monkeypatch.setattr(mutations, "__file__", str(Path(__file__).with_name("dies_at_two.py")))
    findings, outcomes = mutations.run(4, seed=0)
    assert [finding.split(":")[0] for finding in findings] == ["case 2"]
    assert "status -6" in findings[0] and outcomes["loads"] == 3


def test_every_kind_of_damage_changes_the_file(tmp_path: Path):
    path = write_tiny_pair("e2b", tmp_path).target
    original = Original(path.read_bytes(), fields(path.read_bytes()), Parts.read(path))
    assert original.parts.to_bytes() == original.data
    for kind in (*BYTES, *MEANING):
        changed = set()
        for seed in range(8):
            if kind in BYTES:
                changed.add(BYTES[kind](Random(seed), original))
            else:
                parts = Parts(dict(original.parts.metadata), dict(original.parts.tensors))
                MEANING[kind](Random(seed), parts)
                changed.add(parts.to_bytes())
        assert changed - {original.data}, kind

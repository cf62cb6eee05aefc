"""Damaged assistant checkpoints: one file of a folder changed, at random."""

import json
import math
from pathlib import Path
from random import Random

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
NONSENSE = (
    *(None, True, False, 0, 1, -1, 3, 64, 1 << 31, 1 << 63, 1 << 64, 10**40, 0.5, -1e300, math.inf, math.nan),
    *("", "x", "\0", "../x", "\ud800", "x" * 5000, [], [[]], [1, 2], {}, {"a": 1}, ["x"] * 300, "BF16", "I64", "F8"),
)


def _change_json(random: Random, value: object) -> object:
    """Replaces, removes or repeats something somewhere in a JSON value."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if random.random() < 0.1:
            return value | {random.choice((key + "x", "", "blk.0")): value[key]}
        return value | {key: _change_json(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.9:
        index = random.randrange(len(value))
        if random.random() < 0.2:
            return value[:index]
        return [*value[:index], _change_json(random, value[index]), *value[index + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5:
        return value + random.choice((-1, 1, value, 8, 1 << 32))
    return random.choice(NONSENSE)


def _change_bytes(random: Random, data: bytes, n_header: int) -> bytes:
    at = random.randrange(min(len(data), n_header))
    match random.randrange(4):
        case 0:
            return data[: random.choice((at, random.randrange(len(data))))]
        case 1:
            return data[:at] + data[at + random.choice((1, 8)) :]
        case 2:
            return data[:at] + random.randbytes(random.choice((1, 8))) + data[at:]
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _change_safetensors(random: Random, data: bytes) -> bytes:
    n = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    match random.randrange(4):
        case 0:  # values: NaN, infinity and anything else
            at = random.randrange(0, len(body), 2)
            return data[: 8 + n] + body[:at] + random.choice((b"\xc0\x7f", b"\x80\xff", b"\xff\x7e")) + body[at + 2 :]
        case 1:
            return _change_bytes(random, data, n + 8)
    text = json.dumps(_change_json(random, header)).encode()
    return len(text).to_bytes(8, "little") + text + body


def damage(random: Random, folder: Path) -> str:
    """Changes one file of a checkpoint; returns which."""
    name = random.choice(FILES)
    path = folder / name
    data = path.read_bytes()
    if random.random() < 0.02:
        path.unlink()
    elif name == "model.safetensors":
        path.write_bytes(_change_safetensors(random, data))
    elif random.random() < 0.2:
        path.write_bytes(_change_bytes(random, data, 4096))
    else:
        path.write_text(json.dumps(_change_json(random, json.loads(data))))
    return name

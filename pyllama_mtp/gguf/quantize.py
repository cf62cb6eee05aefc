"""Plain numpy quantisation of weight rows to ggml's block formats. Input float32 [rows, columns]; output bytes
[rows, n].
"""

import numpy as np

BLOCK = 32


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds to nearest, ties to even, on the bit pattern. Returns uint16 of the same shape."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """uint16 bit patterns -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _round_half_away(x: np.ndarray) -> np.ndarray:
    return np.trunc(x + np.copysign(np.float32(0.5), x))


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def to_q8_0(x: np.ndarray) -> np.ndarray:
    """Blocks of 32: an f16 scale d = max|x| / 127 and 32 signed bytes round(x / d)."""
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, BLOCK)
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    q = _round_half_away(blocks * _inverse(d)).astype(np.int8)
    return np.concatenate([d.astype(np.float16).view(np.uint8), q.view(np.uint8)], axis=1).reshape(x.shape[0], -1)


def to_q4_0(x: np.ndarray) -> np.ndarray:
    """Blocks of 32: an f16 scale d = -(the value of largest magnitude) / 8, and nibbles min(15, trunc(x / d + 8.5));
    value i in the low
    nibble of byte i, value i + 16 in the high one."""
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    q = np.minimum(np.trunc(blocks * _inverse(d) + np.float32(8.5)), 15).astype(np.uint8)
    packed = q[:, :16] | (q[:, 16:] << 4)
    return np.concatenate([d.astype(np.float16).view(np.uint8), packed], axis=1).reshape(x.shape[0], -1)


def encode(x: np.ndarray, type_name: str) -> np.ndarray:
    """float32 -> the bytes of a ggml type: f32, f16, bf16, q8_0 or q4_0. x: [rows, columns], or [n] for the first
    three.
    """
    match type_name:
        case "f32":
            return np.ascontiguousarray(x, "<f4")
        case "f16":
            return x.astype("<f2")
        case "bf16":
            return to_bf16(x)
        case "q8_0":
            return to_q8_0(x)
        case "q4_0":
            return to_q4_0(x)
    raise ValueError(f"type {type_name!r} is unknown")


DECODED_TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0")


def decode(data: np.ndarray, type_name: str) -> np.ndarray:
    """The bytes of one of DECODED_TYPES -> float32 [n]."""
    match type_name:
        case "f32":
            return data.view("<f4")
        case "f16":
            return _f16(data)
        case "bf16":
            return from_bf16(data.view("<u2"))
        case "q8_0":
            blocks = data.reshape(-1, 34)
            return (_f16(blocks[:, :2]) * blocks[:, 2:].view(np.int8)).ravel()
        case "q4_0":
            blocks = data.reshape(-1, 18)
            nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
            return (_f16(blocks[:, :2]) * (nibbles.astype(np.int8) - np.int8(8))).ravel()
        case "q4_k":
            blocks = data.reshape(-1, 144)
            return _from_k_with_offsets(blocks, _nibbles(blocks[:, 16:]))
        case "q5_k":
            blocks = data.reshape(-1, 176)
            fifth = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # bit i: of group i
            return _from_k_with_offsets(blocks, _nibbles(blocks[:, 48:]) | fifth << 4)
        case "q6_k":
            return _from_q6_k(data.reshape(-1, 210))
    raise ValueError(f"type {type_name!r} is unknown")


def _f16(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _nibbles(data: np.ndarray) -> np.ndarray:
    """uint8 [n, 128] -> [n, 8, 32]: of each 32 bytes the low nibbles, then the high ones."""
    rows = data.reshape(-1, 4, 1, 32)
    return np.concatenate([rows & 15, rows >> 4], axis=2).reshape(-1, 8, 32)


def _from_k_with_offsets(blocks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Blocks of 8 groups of 32 codes: f16 units of the scales and of the offsets, then 12 bytes with 6 bits for each of
    the 8 scales and 8 offsets: those of the last four groups are split into nibbles and the upper bits of the others.
    """
    first, second, third = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    offsets = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    scales, offsets = _f16(blocks[:, :2]) * scales, _f16(blocks[:, 2:4]) * offsets
    return (scales[:, :, None] * codes - offsets[:, :, None]).ravel()


def _from_q6_k(blocks: np.ndarray) -> np.ndarray:
    """Blocks of two halves of 128 codes, each in 64 bytes of lower nibbles and 32 bytes of upper bits; then a signed
    scale for each 16 codes, and their f16 unit.
    """
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    codes = (low | high << 4).astype(np.int8) - np.int8(32)
    scales = _f16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8)
    return (scales[:, :, None] * codes.reshape(-1, 16, 16)).ravel()

"""Attention for parallel training on the CPU: the sums of Gemma 4's attention, arranged so that little is computed.

With one KV head the query heads fold into rows, so K and V are never repeated; a sliding layer computes only the
band of keys its window can reach. `ahead` shifts the queries: row p stands at position p + ahead, keys at 0..p.
"""

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "folded"
_MASKED = -1e9


def _fold(query: torch.Tensor, blocks: int) -> torch.Tensor:
    """[rows, heads, length, dim] -> [rows, blocks, heads * length / blocks, dim]"""
    rows, heads, length, dim = query.shape
    return query.view(rows, heads, blocks, length // blocks, dim).transpose(1, 2).reshape(rows, blocks, -1, dim)


def _unfold(out: torch.Tensor, heads: int) -> torch.Tensor:
    """[rows, blocks, heads * n, dim] -> [rows, blocks * n, heads, dim]"""
    rows, blocks, folded, dim = out.shape
    return out.view(rows, blocks, heads, folded // heads, dim).transpose(2, 3).reshape(rows, -1, heads, dim)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    weights = functional.softmax((query @ key.transpose(-1, -2)).float() + bias, dim=-1)
    return weights.to(value.dtype) @ value


def _band(tensor: torch.Tensor, window: int) -> torch.Tensor:
    """[rows, length, dim] -> [rows, blocks, 2 * window, dim]: every block of keys behind the one before it."""
    blocks = functional.pad(tensor, (0, 0, window, 0)).unflatten(1, (-1, window))
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2)


def folded_attention(
    module, query, key, value, attention_mask, scaling=1.0, sliding_window=None, ahead=0, dropout=0.0, **_
):
    """Interface of transformers' attention functions. Needs one KV head and a length divisible by the window."""
    heads, length = query.shape[1:3]
    if attention_mask is not None or key.shape[1] != 1 or key.shape[2] != length or scaling != 1.0 or dropout:
        raise ValueError("folded attention takes one KV head, no mask, scale 1 and as many keys as queries")
    query, key, value = query.to(value.dtype), key[:, 0].to(value.dtype), value[:, 0]
    if sliding_window is not None and length > sliding_window:
        blocks = length // sliding_window
        row = torch.arange(sliding_window)[:, None] + sliding_window
        column = torch.arange(2 * sliding_window)[None, :]
        seen = (column <= row) & (row + ahead - column < sliding_window)
        seen = seen.repeat(blocks, 1, 1)
        seen[0] &= column >= sliding_window  # the first block has none before it
        bias = torch.where(seen, 0.0, _MASKED).repeat(1, heads, 1)
        out = _attend(_fold(query, blocks), _band(key, sliding_window), _band(value, sliding_window), bias)
        return _unfold(out, heads), None
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    seen = distance >= 0
    if sliding_window is not None:
        seen &= distance + ahead < sliding_window
    bias = torch.where(seen, 0.0, _MASKED).repeat(heads, 1)
    return _unfold(_attend(_fold(query, 1), key[:, None], value[:, None], bias), heads), None


AttentionInterface.register(NAME, folded_attention)

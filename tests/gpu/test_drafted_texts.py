"""Texts with drafting on and off on a CUDA device: no byte may differ."""

import pytest

from support.drafted_texts import EMBEDDED, cases, differing, pair

CACHE_TYPES = ("f16", "bf16", "q8_0", "q4_0", "turbo4", "turbo3", "turbo2")


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_texts_do_not_depend_on_drafts(device, tmp_path, cache_type):
    """With 8 drafts one text of q4_0 and one of turbo3 caches differed: 9 rows had another kernel than 8 for a product
    with rows of 32 values."""
    chosen = [case for case in cases([cache_type], [2]) if case.drafts in (2, 8)]
    assert not differing(pair(EMBEDDED, tmp_path), chosen)

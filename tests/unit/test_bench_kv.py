"""The statistics of `pyllama-mtp bench --kv`."""

import numpy as np
import pytest

from pyllama_mtp.bench import kv

N = 5120


def first_order(rng: np.random.Generator, rho: float) -> np.ndarray:
    """float64 [N]: correlated as rho ** distance, of variance 1."""
    noise = rng.standard_normal(N) * np.sqrt(1 - rho**2)
    values = np.empty(N)
    values[0] = rng.standard_normal()
    for i in range(1, N):
        values[i] = rho * values[i - 1] + noise[i]
    return values


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.8])
def test_the_standard_error_knows_of_correlated_neighbours(rho: float):
    """The mean's variance is (1 + rho) / (1 - rho) / N; blocks of 32 miss a few per cent of it."""
    rng = np.random.default_rng(0)
    expected = np.sqrt((1 + rho) / (1 - rho) / N)
    errors = [kv.standard_error(first_order(rng, rho), 32) for _ in range(40)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(expected, rel=0.1)


def test_of_blocks_of_equal_values_only_their_number_counts():
    means = np.array([1.0, 2.0, 4.0])
    expected = means.std(ddof=1) / np.sqrt(3)
    assert kv.standard_error(np.repeat(means, 32), 32) == pytest.approx(expected)
    assert kv.standard_error(np.repeat(means, 40), 32) == pytest.approx(expected)  # the rest joins the blocks


@pytest.mark.parametrize("n", [0, 1, 63])
def test_fewer_than_two_blocks_tell_no_error(n: int):
    assert kv.standard_error(np.zeros(n), 32) is None


def test_a_row_of_the_table():
    row = kv.Row(
        kv.CacheTypes("q4_0", "turbo3"), 0.0125, 0.0003, 0.94, 0.5, (0.705, 0.5, 0.292), -0.01, 0.004, 3, (), 9, 7.0
    )
    assert kv.table([row]).splitlines()[-1] == (
        "| q4_0, turbo3 | 0.0125 ± 0.0003 | 0.940 | 0.500 | .70/.50/.29 | -0.0100 ± 0.0040 | 9 | 7.0 |  |"
    )

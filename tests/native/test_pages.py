"""Several sequences in one KV cache: a row's logits are those of its sequence alone, wherever its cells lie."""

import ctypes
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.kv_cells import PAGE, WINDOW, Cache, Row, Target, build_library

ROWS = 17  # that the products compute with bits of their own
CACHE_TYPES = [("f16", "f16"), ("q8_0", "q8_0"), ("turbo4", "turbo3"), ("f32", "f32"), ("bf16", "bf16")]
needs_kernels = pytest.mark.skipif(
    "avx2" not in Path("/proc/cpuinfo").read_text(), reason="this CPU has no AVX2: llama.cpp's own kernels are used"
)


@pytest.fixture(scope="module")
def library(patched_build: Path) -> ctypes.CDLL:
    return build_library(patched_build)


@pytest.fixture(scope="module")
def target(library: ctypes.CDLL, demo) -> Iterator[Target]:
    target = Target(library, demo.target)
    yield target
    target.close()


def texts(n: int, length: int) -> list[list[int]]:
    """n texts of random tokens that bytes stand for."""
    rng = random.Random(1)
    return [[rng.randrange(300, 900) for _ in range(length)] for _ in range(n)]


def rows(sequence: int, tokens: list[int], begin: int, end: int) -> list[Row]:
    return [Row(sequence, position, tokens[position]) for position in range(begin, end)]


def interleaved(batch: list[Row], rng: random.Random) -> list[Row]:
    """Rows of sequences among each other, each sequence's in their order."""
    left = {sequence: [row for row in batch if row.sequence == sequence] for sequence in {r.sequence for r in batch}}
    labels = [row.sequence for row in batch]
    rng.shuffle(labels)
    return [left[sequence].pop(0) for sequence in labels]


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_those_of_the_cells(library, seed):
    """Whatever was taken, shared, moved and freed before, also where a cell belongs to several sequences."""
    assert library.pages_wrong_masks(seed) == 0


@pytest.mark.parametrize("window", [0, 512])
@pytest.mark.parametrize("seed", range(6))
def test_tables_for_devices_have_the_pages_of_positions(library, seed, window):
    """Of caches with more than 8192 cells: a row's bits depended there on where its sequence's pages lay."""
    assert library.pages_wrong_tables(seed, window) == 0


class Alone:
    """Logits of texts, a row at a time, alone in an empty cache, on one thread; remembered."""

    def __init__(self, target: Target, **options: object) -> None:
        self.target, self.options = target, options
        self.known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, tokens: list[int]) -> np.ndarray:
        if (key := tuple(tokens)) not in self.known:
            with Cache(self.target, sequences=1, **self.options) as cache:
                self.known[key] = np.concatenate([cache.decode([row]) for row in rows(0, tokens, 0, len(tokens))])
        return self.known[key]


def check_pages(cache: Cache) -> None:
    """Every position lies at its place in a page, and a page holds one part of the positions."""
    for sliding in (False, True):
        cells = cache.cells(sliding=sliding)
        parts: dict[int, set[int]] = {}
        pages: dict[tuple[int, int], set[int]] = {}
        for at, (position, owners) in enumerate(cells):
            if position >= 0:
                assert position % PAGE == at % PAGE
                parts.setdefault(at // PAGE, set()).add(position // PAGE)
                for owner in owners:
                    pages.setdefault((owner, position // PAGE), set()).add(at // PAGE)
        assert all(len(found) == 1 for found in (*parts.values(), *pages.values()))


@needs_kernels
@pytest.mark.parametrize("k, v", CACHE_TYPES)
def test_logits_do_not_depend_on_other_sequences_cells_threads_and_chunks(target: Target, k: str, v: str):
    """Sequences that take turns lie between each other; some are rolled back, some end and begin anew."""
    rng = random.Random(f"{k} {v}")
    alone = Alone(target, k=k, v=v)
    chosen = texts(5, 230)
    with Cache(target, sequences=4, k=k, v=v, cells=1024) as cache:
        running: dict[int, tuple[int, int]] = {}  # sequence -> text, positions that are cached
        finished = 0
        while finished < 7:
            for sequence in range(4):
                running.setdefault(sequence, (rng.randrange(5), 0))
            batch, parts = [], []
            for sequence in rng.sample(range(4), rng.randint(1, 4)):
                text, n = running[sequence]
                size = min(rng.choice((1, 1, 4, 5, 17)), 230 - n, ROWS - len(batch))
                if size == 0:
                    continue
                parts.append((sequence, n, size))
                batch += rows(sequence, chosen[text], n, n + size)
            if rng.random() < 0.3:
                batch = interleaved(batch, rng)
            cache.set_threads(rng.randint(1, 3))
            got = cache.decode(batch)
            for row, logits in zip(batch, got, strict=True):
                expected = alone.logits(chosen[running[row.sequence][0]])[row.position]
                assert np.array_equal(logits, expected), (row, parts)
            check_pages(cache)
            for sequence, n, size in parts:
                text, n = running[sequence][0], n + size
                if n == 230:
                    cache.remove(sequence)
                    finished += 1
                    del running[sequence]
                    continue
                if size > 1 and rng.random() < 0.4:  # drafts that are rejected
                    n -= rng.randrange(size)
                    cache.remove(sequence, n)
                running[sequence] = (text, n)


@needs_kernels
@pytest.mark.parametrize("k, v", CACHE_TYPES)
def test_a_shared_prefix_and_a_restored_window_change_no_bit(target: Target, k: str, v: str):
    """Full layers share whole pages, the sliding layers get a saved window: what a prefix cache does."""
    alone = Alone(target, k=k, v=v)
    text, other = texts(2, 230)
    fork = text[:128] + other[:60]
    with Cache(target, sequences=4, k=k, v=v, threads=2) as cache:
        cache.decode(rows(3, other, 0, 16))  # lies in the first page
        for n in range(0, 128, 16):
            cache.decode(rows(0, text, n, n + 16))
        window = cache.save(0, window=True)
        cache.decode(rows(0, text, 128, 140))
        cache.remove(0, 131)  # back into a page that the fork does not have
        cache.share(0, 1, 0, 128)
        assert cache.restore(1, window, window=True)
        assert sum(owners == {0, 1} for _, owners in cache.cells(sliding=False)) == 128
        assert not any(owners == {0, 1} for _, owners in cache.cells(sliding=True))
        check_pages(cache)
        for n in range(0, 56, 8):
            batch = [*rows(0, text, 131 + n, 139 + n), *rows(1, fork, 128 + n, 136 + n)]
            expected = [alone.logits(fork if row.sequence else text)[row.position] for row in batch]
            assert np.array_equal(cache.decode(batch), expected)
        cache.remove(0)  # the fork keeps the pages that they shared
        assert np.array_equal(cache.decode([Row(1, 184, fork[184])])[0], alone.logits(fork)[184])
        check_pages(cache)


@needs_kernels
def test_a_page_is_taken_with_all_that_is_left_in_it(target: Target):
    """A restored window begins within a page. The next sequence took that page at its empty cells, and found no room
    when it came to those that the window had left behind; or the first one went back to them.
    """
    alone = Alone(target)
    text, other = texts(2, 230)
    with Cache(target, sequences=2, sliding=5 * 64) as cache:
        for n in range(0, 100, 10):
            cache.decode(rows(0, text, n, n + 10))
        saved = cache.save(0, window=False)
        cache.remove(0)
        assert cache.restore(0, saved, window=False)
        for n in range(100, 190, 10):
            cache.decode(rows(0, text, n, n + 10))
        for n in range(0, 80, 10):
            logits = cache.decode(rows(1, other, n, n + 10))
            assert np.array_equal(logits, alone.logits(other)[n : n + 10])
        assert np.array_equal(cache.decode(rows(0, text, 190, 200)), alone.logits(text)[190:200])
        check_pages(cache)


@needs_kernels
@pytest.mark.parametrize("length", [30, 64, 100, 150])
def test_a_saved_sequence_goes_on_in_another_place(target: Target, length: int):
    alone = Alone(target)
    text, other = texts(2, 230)
    with Cache(target, sequences=3) as cache:
        cache.decode(rows(1, other, 0, 17))
        for n in range(0, length, 10):
            cache.decode(rows(0, text, n, min(n + 10, length)))
        saved = cache.save(0, window=False)
        cache.remove(0)
        cache.decode(rows(2, other, 0, 17))
        assert cache.restore(0, saved, window=False)
        check_pages(cache)
        expected = alone.logits(text)[length : length + 17]
        assert np.array_equal(cache.decode(rows(0, text, length, length + 17)), expected)


@needs_kernels
@pytest.mark.parametrize("sliding", [None, 1024])
def test_without_a_page_nothing_happens(target: Target, sliding: int | None):
    """Full layers of four pages: a fifth is refused, and who was there goes on."""
    alone = Alone(target)
    chosen = texts(3, 230)
    with Cache(target, sequences=3, cells=256, sliding=sliding) as cache:
        for n in range(0, 64, 16):
            cache.decode(rows(0, chosen[0], n, n + 16))
            cache.decode(rows(1, chosen[1], n, n + 16))
        cache.decode([*rows(0, chosen[0], 64, 65), *rows(1, chosen[1], 64, 65)])
        before = [cache.cells(sliding=kind) for kind in (False, True)]
        for _ in range(2):
            status, _ = cache.try_decode([*rows(0, chosen[0], 65, 66), *rows(2, chosen[2], 0, 3)])
            assert status == 1
            assert [cache.cells(sliding=kind) for kind in (False, True)] == before
        batch = [*rows(0, chosen[0], 65, 70), *rows(1, chosen[1], 65, 69)]
        expected = [alone.logits(chosen[row.sequence])[row.position] for row in batch]
        assert np.array_equal(cache.decode(batch), expected)
        cache.remove(1)
        assert np.array_equal(cache.decode(rows(2, chosen[2], 0, 3)), alone.logits(chosen[2])[:3])


def test_a_page_that_two_sequences_share_and_have_not_filled_is_refused(target: Target):
    """The second would overwrite what the first has written there, or be overwritten."""
    text, other = texts(2, 230)
    with Cache(target, sequences=2) as cache:
        cache.decode(rows(0, text, 0, 10))
        cache.share(0, 1, 0, 8)
        cache.remove(0, 9)
        assert cache.try_decode(rows(1, other, 8, 9))[0] == 1
        assert cache.try_decode(rows(0, text, 9, 10))[0] == 0


def worst_lengths(n_running: int, n_batch: int) -> Iterator[list[int]]:
    """How many rows each sequence gets in a batch: all alike, one all of it, random shares."""
    rng = random.Random(n_running * 1000 + n_batch)
    share = n_batch // n_running
    for _ in range(12):
        yield [share] * n_running
        yield [n_batch - (n_running - 1) if i == rng.randrange(n_running) else 1 for i in range(n_running)]
        yield [rng.randint(1, share) for _ in range(n_running)]


@pytest.mark.parametrize("n_running, n_batch", [(1, 32), (1, 64), (1, 200), (2, 70), (4, 32), (4, 100)])
def test_sliding_cells_suffice(target: Target, n_running: int, n_batch: int):
    """Batches of any shape at any positions, after any roll-back of drafts, find their cells."""
    rng = random.Random(0)
    text = texts(1, 600)[0]
    cells = target.library.pages_sliding_cells(WINDOW, n_running, n_batch)
    assert cells % PAGE == 0 and cells <= n_running * (WINDOW + 2 * PAGE) + n_batch
    with Cache(target, cells=2048, sequences=8, sliding=cells, n_batch=n_batch, threads=2) as cache:
        length = dict.fromkeys(rng.sample(range(8), n_running), 0)
        for counts in worst_lengths(n_running, n_batch):
            batch = []
            for sequence, n in zip(length, counts[:n_running], strict=True):
                n = max(min(n, n_batch - len(batch)), 0)
                batch += rows(sequence, text, length[sequence], length[sequence] + n)
                length[sequence] += n
            cache.decode(batch)
            for sequence in length:
                back = rng.choice((0, 0, 1, 3))
                if length[sequence] > 300:  # ends; another begins
                    cache.remove(sequence)
                    length[sequence] = 0
                elif back < sum(row.sequence == sequence for row in batch):
                    length[sequence] -= back
                    cache.remove(sequence, length[sequence])
        check_pages(cache)


def test_fewer_sliding_cells_do_not_suffice(target: Target):
    """A batch that begins within a page touches a page more than it would need."""
    text = texts(1, 400)[0]
    cells = target.library.pages_sliding_cells(WINDOW, 1, 131)
    for spared, status in ((0, 0), (PAGE, 1)):
        with Cache(target, sequences=1, sliding=cells - spared, n_batch=131) as cache:
            cache.decode(rows(0, text, 0, 63))
            cache.decode(rows(0, text, 63, 126))
            assert cache.try_decode(rows(0, text, 126, 257))[0] == status


def test_a_page_is_whole_where_the_cache_is_no_multiple_of_pages(target: Target):
    """The last 36 cells are no page, and are never handed out."""
    text = texts(1, 700)[0]
    with Cache(target, sequences=1, sliding=256 + 36, n_batch=17) as cache:
        for n in range(0, 600, 17):
            cache.decode(rows(0, text, n, n + 17))
            assert all(position < 0 for position, _ in cache.cells(sliding=True)[256:])
        check_pages(cache)


def test_a_sequence_does_not_lose_its_window_to_one_that_takes_a_page_of_its_past(target: Target):
    """A page is taken whole: were positions left in it, their sequence could go back to them, and the taker would
    find the cells of its own page occupied.
    """
    first, second = texts(2, 400)
    with Cache(target, sequences=2, sliding=3 * PAGE, n_batch=17) as cache:
        for n in range(0, 135, 15):
            cache.decode(rows(0, first, n, n + 15))
        cache.decode(rows(1, second, 0, 5))
        owners = cache.cells(sliding=True)
        assert [position for position, who in owners if who == {1}] == [0, 1, 2, 3, 4]
        assert min(position for position, who in owners if who == {0}) == 64
        cache.remove(0, 130)
        for n in range(5, 50, 15):
            cache.decode(rows(1, second, n, n + 15))
        check_pages(cache)

"""The CPU attention kernel: right, and the same bits for one row and several, whatever the threads."""

import copy
import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
# Of 64 values, by the types of attention_check.cpp.
BYTES64 = {2: 18, 3: 26, 4: 34, 8: 68, 80: 68, 16: 128, 17: 128, 32: 256, 40: 36, 41: 36}
POINTER = ctypes.c_void_p
IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


@pytest.fixture(scope="module", params=["native", "x86-64-v3", "x86-64"])
def kernel(request, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compilers = shutil.which("gcc"), shutil.which("g++")
    if None in compilers:
        pytest.skip("no C and C++ compiler")
    target = request.param
    if target == "x86-64-v3" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX2")
    folder = tmp_path_factory.mktemp("attention")
    flags = [f"-march={target}", "-O2", "-w", "-fPIC", "-I", CSRC]
    codec, library = [folder / "cpu.o", folder / "reference.o"], folder / "attention.so"
    for source in codec:
        command = [
            compilers[0],
            *flags,
            "-ffp-contract=off",
            "-c",
            CSRC / "turboquant" / f"{source.stem}.c",
            "-o",
            source,
        ]
        subprocess.run(command, check=True)
    kernel = CSRC / "kernels" / "attention" / "cpu"
    sources = [HERE / "attention_check.cpp", kernel / "attend.cpp", kernel / "plan.cpp", *codec]
    subprocess.run([compilers[1], "-std=c++17", *flags, "-shared", *sources, "-o", library], check=True)
    lib = ctypes.CDLL(str(library))
    integer, real = ctypes.c_int, ctypes.c_float
    lib.turbo_encode.argtypes = [integer, integer, POINTER, POINTER, ctypes.c_int64]
    lib.turbo_decode.argtypes = [integer, POINTER, POINTER, ctypes.c_int64]
    lib.attention.argtypes = [
        *(integer, integer, POINTER, POINTER, integer, integer, ctypes.c_size_t, POINTER),
        *(POINTER, integer, integer, POINTER, POINTER, ctypes.c_int64, integer, integer, integer, integer, integer),
        *(real, real, integer, POINTER, integer, POINTER, ctypes.c_int64, ctypes.c_int64),
    ]
    lib.attention_chunk_width.restype = lib.attention_items.restype = ctypes.c_int64
    lib.exp_vector.argtypes = [POINTER, POINTER]
    return lib


class Case:
    """Random rows in the cache formats, and attention over them in float64 and by the kernel."""

    def __init__(
        self, lib, k_bits=4, v_bits=3, size=64, v_size=None, cells=300, heads=8, kv_heads=1, rows=4, **options
    ):
        self.lib, self.k_bits, self.v_bits, self.size, self.v_size = lib, k_bits, v_bits, size, v_size or size
        self.cells, self.heads, self.kv_heads, self.rows = cells, heads, kv_heads, rows
        self.batches, self.kv_batches = options.get("batches", 1), options.get("kv_batches", 1)
        self.padding = options.get("padding", 0)
        self.scale, self.softcap, self.sinks = 1.5 / size**0.5, options.get("softcap", 0.0), options.get("sinks")
        rng = np.random.default_rng(options.get("seed", 0))
        self.q = rng.standard_normal((self.batches, heads, rows, size)).astype(np.float32)
        self.k, self.k_values = self.encode(rng, k_bits, 0, self.size)
        self.v, self.v_values = self.encode(rng, v_bits, 1, self.v_size)
        self.mask = options.get("mask")  # [batches][heads][rows][cells] or what broadcasts to it

    def encode(self, rng, bits: int, role: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.kv_batches, self.kv_heads, self.cells, size)
        x = rng.standard_normal(shape).astype(np.float32)
        if bits == 16:
            half = x.astype(np.float16)
            rows, values = half.view(np.uint8), half.astype(np.float64)
        elif bits == 17:
            upper = (x.view(np.uint32) >> 16).astype(np.uint16)
            rows, values = upper.view(np.uint8), (upper.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        elif bits == 32:
            rows, values = x.view(np.uint8), x.astype(np.float64)
        elif bits in (8, 80):
            blocks = np.zeros((x.size // 32, 34), np.uint8)
            scale = (np.abs(x.reshape(-1, 32)).max(axis=1) / 127).astype(np.float16)
            q = np.rint(x.reshape(-1, 32) / scale.astype(np.float32)[:, None]).clip(-127, 127).astype(np.int8)
            blocks[:, :2], blocks[:, 2:] = scale[:, None].view(np.uint8), q.view(np.uint8)
            rows, values = blocks, scale[:, None].astype(np.float64) * q
        elif bits in (40, 41):
            codebook = np.arange(-8, 8) if bits == 40 else IQ4_NL
            blocks = np.zeros((x.size // 32, 18), np.uint8)
            scale = (np.abs(x.reshape(-1, 32)).max(axis=1) / np.abs(codebook).max()).astype(np.float16)
            i = np.abs(x.reshape(-1, 32, 1) / scale.astype(np.float32)[:, None, None] - codebook).argmin(axis=-1)
            blocks[:, :2], blocks[:, 2:] = scale[:, None].view(np.uint8), i[:, :16] | i[:, 16:] << 4
            rows, values = blocks, scale[:, None].astype(np.float64) * codebook[i]
        else:
            rows, values = np.zeros(x.size // 64 * BYTES64[bits], np.uint8), np.zeros(shape, np.float32)
            self.lib.turbo_encode(bits, role, x.ctypes.data, rows.ctypes.data, x.size)
            self.lib.turbo_decode(bits, rows.ctypes.data, values.ctypes.data, x.size)
        rows = rows.reshape(*shape[:3], size * BYTES64[bits] // 64)
        rows = np.concatenate([rows, np.full((*shape[:3], self.padding), 255, np.uint8)], axis=-1)
        return np.ascontiguousarray(rows), values.reshape(shape).astype(np.float64)

    def expected(self) -> np.ndarray:
        """float64 [batches][rows][heads][v_size]."""
        per = self.batches // self.kv_batches
        k, v = (
            np.repeat(np.repeat(x, per, axis=0), self.heads // self.kv_heads, axis=1)
            for x in (self.k_values, self.v_values)
        )
        logits = self.scale * (self.q.astype(np.float64) @ k.swapaxes(-1, -2))
        if self.softcap:
            logits = self.softcap * np.tanh(logits / self.softcap)
        if self.mask is not None:
            logits = logits + self.mask.astype(np.float64)
        if self.sinks is not None:
            sinks = np.broadcast_to(self.sinks.astype(np.float64)[None, :, None, None], (*logits.shape[:3], 1))
            logits = np.concatenate([logits, sinks], axis=-1)
        largest = logits.max(axis=-1, keepdims=True)
        p = np.exp(logits - np.where(np.isfinite(largest), largest, 0))
        total = p.sum(axis=-1, keepdims=True)
        p = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
        return (p[..., : self.cells] @ v).swapaxes(1, 2)

    def run(
        self, rows: slice = slice(None), threads: int = 1, cells: int | None = None, pages: "Pages | None" = None
    ) -> np.ndarray:
        """float32 [batches][rows][heads][v_size]; `cells`: of a shorter cache, for one head and batch of K and V."""
        cells = cells or self.cells
        q = np.ascontiguousarray(self.q[:, :, rows])
        mask, mask_heads, mask_batches = None, 1, 1
        if self.mask is not None:
            mask = np.ascontiguousarray(self.mask[:, :, rows, :cells].astype(np.float16))
            mask_batches, mask_heads = mask.shape[:2]
        result = np.full((self.batches, q.shape[2], self.heads, self.v_size), np.nan, np.float32)
        intact = self.lib.attention(
            *(self.k_bits, self.v_bits, self.k.ctypes.data, self.v.ctypes.data, self.size, self.v_size, self.padding),
            *(q.ctypes.data, None if mask is None else mask.ctypes.data, mask_heads, mask_batches),
            *(None if self.sinks is None else self.sinks.ctypes.data, result.ctypes.data, cells, q.shape[2]),
            *(self.heads, self.kv_heads, self.batches, self.kv_batches, self.scale, self.softcap, threads),
            *((None, 0, None, 0, 0) if pages is None else pages.arguments()),
        )
        assert intact, "written behind the work buffer"
        return result

    def check(self, **options) -> None:
        expected = self.expected()
        assert np.abs(self.run(**options) - expected).max() <= 3e-6 * max(np.abs(expected).max(), 0.1)


@dataclass(frozen=True, slots=True)
class Pages:
    """The table of a batch: runs [n][5] int64 and first_cells int32, see csrc/kernels/attention/pages.h."""

    runs: np.ndarray
    first_cells: np.ndarray
    chunk: int

    def arguments(self) -> tuple:
        return self.runs.ctypes.data, len(self.runs), self.first_cells.ctypes.data, len(self.first_cells), self.chunk


def causal(rows: int, cells: int, window: int | None = None) -> np.ndarray:
    """[1][1][rows][cells]: row r sees the cells up to cells - rows + r, of a window the last ones of them."""
    last = np.arange(cells - rows, cells)[:, None]
    at = np.arange(cells)
    seen = (at <= last) & (at > last - (window or cells + rows))
    return np.where(seen, 0, -np.inf)[None, None]


def test_exponential(kernel):
    x = np.linspace(-100, 0, 16_000).astype(np.float32).reshape(-1, 16)
    y = np.zeros(16, np.float32)
    lanes = kernel.attention_lanes()
    for row in x:
        kernel.exp_vector(row.ctypes.data, y.ctypes.data)
        exact = np.where(row[:lanes] < -87, 0, np.exp(row[:lanes].astype(np.float64)))
        assert y[:lanes] == pytest.approx(exact, rel=2.5e-7, abs=0)


@pytest.mark.parametrize("k_bits, v_bits", [(k, v) for k in BYTES64 for v in BYTES64])
def test_every_pair_of_types(kernel, k_bits: int, v_bits: int):
    Case(kernel, k_bits, v_bits, size=128, cells=333, rows=3, mask=causal(3, 333)).check(threads=2)


@pytest.mark.parametrize("bits", [8, 16, 17, 32])
@pytest.mark.parametrize("size", [32, 96, 224])
def test_head_sizes_that_are_no_multiple_of_64(kernel, size: int, bits: int):
    for heads, rows in ((1, 1), (2, 1), (1, 2), (8, 3)):
        Case(kernel, bits, bits, size=size, cells=150, heads=heads, rows=rows).check(threads=2)


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 2), (4, 1), (8, 1), (16, 1), (6, 2)])
def test_head_sizes_and_groups(kernel, size: int, heads: int, kv_heads: int):
    for rows in (1, 9):
        Case(kernel, size=size, cells=270, heads=heads, kv_heads=kv_heads, rows=rows).check()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 18, 40])
def test_rows(kernel, rows: int):
    Case(kernel, cells=700, heads=16, rows=rows, mask=causal(rows, 700)).check(threads=3)


def test_masks(kernel):
    rng = np.random.default_rng(1)
    holes = np.where(rng.random((1, 1, 4, 900)) < 0.3, 0, -np.inf)
    one_cell = np.full((1, 1, 4, 900), -np.inf)
    one_cell[0, 0, np.arange(4), [0, 64, 500, 899]] = 0
    gap = np.zeros((1, 1, 4, 900))
    gap[..., 64:640] = -np.inf  # whole tiles and a whole chunk
    a_row_that_sees_nothing = causal(4, 900)
    a_row_that_sees_nothing[0, 0, 2] = -np.inf
    weighted = rng.standard_normal((1, 1, 4, 900)).astype(np.float16)
    heads = np.where(rng.random((1, 8, 4, 900)) < 0.5, 0, -np.inf)
    for mask in (holes, one_cell, gap, a_row_that_sees_nothing, weighted, heads, causal(4, 900, window=100), None):
        Case(kernel, cells=900, mask=mask).check()


@pytest.mark.parametrize("cells", [1, 2, 63, 64, 65, 255, 256, 257, 4095, 4097, 5300])
def test_lengths(kernel, cells: int):
    Case(kernel, cells=cells, rows=1, padding=6).check(threads=2)


def test_batches_softcap_sinks_and_sizes_that_differ(kernel):
    sinks = np.linspace(-2, 6, 8).astype(np.float32)
    mask = np.concatenate([causal(2, 300), causal(2, 300, window=40)])
    Case(kernel, rows=2, batches=2, kv_batches=2, kv_heads=2, mask=mask).check()
    Case(kernel, rows=2, batches=4, kv_batches=2, mask=mask[:1]).check()
    for rows in (2, 20):
        Case(kernel, rows=rows, softcap=2.0, sinks=sinks, size=128, v_size=64).check()
    nothing = np.full((1, 1, 2, 300), -np.inf)
    Case(kernel, rows=2, sinks=sinks, mask=nothing).check()


def test_cells_that_nobody_sees_may_hold_anything(kernel):
    case = Case(kernel, cells=400, rows=2, mask=causal(2, 400, window=100))
    expected = case.run()
    case.k[..., :200, :] = 255  # scales of NaN
    case.v[..., :200, :] = 255
    assert np.array_equal(case.run(), expected)


@pytest.mark.parametrize("k_bits, v_bits", [(4, 3), (8, 8), (16, 16), (17, 32), (40, 41), (80, 80)])
@pytest.mark.parametrize("cells", [400, 5000])  # columns, or chunks, are what threads take
@pytest.mark.parametrize("heads, kv_heads", [(8, 1), (3, 3), (16, 1), (6, 2)])
def test_bits_do_not_depend_on_rows_threads_or_what_follows(kernel, heads, kv_heads, cells, k_bits, v_bits):
    rows = 40
    case = Case(
        kernel, k_bits, v_bits, cells=cells, heads=heads, kv_heads=kv_heads, rows=rows, mask=causal(rows, cells)
    )
    together = case.run(threads=3)  # more than 17 rows: another way of splitting
    assert np.array_equal(case.run(threads=1), together)
    for n, threads in ((1, 1), (1, 2), (2, 1), (4, 2), (9, 5), (17, 1)):
        for first in (0, rows - n):
            part = case.run(slice(first, first + n), threads=threads)
            assert np.array_equal(part, together[:, first : first + n]), (n, threads)
    if kv_heads == 1:
        shorter = case.run(slice(0, 1), cells=cells - rows + 1)  # all that the first row sees
        assert np.array_equal(shorter, together[:, :1])


class PagedCase:
    """Sequences whose pages lie anywhere in one cache, and the same sequences each in a cache of its own."""

    def __init__(self, lib, lengths: list[int], counts: list[int], window: int = 0, **options):
        """The last `counts` positions of each sequence are the rows; between its pages lie pages of nobody."""
        self.lib, self.window, self.rows = lib, window, sum(counts)
        rng = np.random.default_rng(7)
        n_pages = [(length + 63) // 64 for length in lengths]
        places = rng.permutation(sum(n_pages) + 3).astype(np.int32)
        self.case = Case(lib, cells=64 * len(places), rows=self.rows, **options)
        self.case.mask = np.full((1, 1, self.rows, self.case.cells), -np.inf)
        self.sequences, row = [], 0
        for length, n, pages in zip(lengths, counts, np.split(places, np.cumsum(n_pages))[:-1], strict=True):
            at = (64 * pages[:, None] + np.arange(64)).ravel()[:length]  # the cell of every position
            for position in range(length - n, length):
                self.case.mask[0, 0, row, at[max(position + 1 - window, 0) if window else 0 : position + 1]] = 0
                row += 1
            self.sequences.append((at, 64 * pages, slice(row - n, row)))

    def table(self, whole: bool = False) -> Pages:
        """`whole`: windows too begin at position 0."""
        runs, cells = [], []
        for at, first_cells, rows in self.sequences:
            first = (
                max(len(at) - (rows.stop - rows.start) + 1 - self.window, 0) // 64 if self.window and not whole else 0
            )
            runs.append([rows.start, rows.stop - rows.start, first, len(first_cells) - first, len(cells)])
            cells += first_cells[first:].tolist()
        return Pages(np.array(runs, np.int64), np.array(cells, np.int32), self.lib.attention_chunk_width(self.window))

    def run(self, threads: int, whole: bool = False) -> np.ndarray:
        return self.case.run(threads=threads, pages=self.table(whole))

    def alone(self) -> np.ndarray:
        """Every row for itself, the cells in the order of positions."""
        results = []
        for at, _, rows in self.sequences:
            alone = copy.copy(self.case)
            alone.cells = len(at)
            alone.k, alone.v = (np.ascontiguousarray(x[:, :, at]) for x in (self.case.k, self.case.v))
            alone.mask = self.case.mask[..., at]
            n_pages = (len(at) + 63) // 64
            table = Pages(
                np.array([[0, 1, 0, n_pages, 0]]), np.arange(n_pages, dtype=np.int32) * 64, self.table().chunk
            )
            pages = table if self.window else None
            results += [alone.run(slice(row, row + 1), pages=pages) for row in range(rows.start, rows.stop)]
        return np.concatenate(results, axis=1)


@pytest.mark.parametrize(
    "k_bits, v_bits, window", [(4, 3, 0), (8, 8, 0), (16, 17, 100), (32, 80, 512), (8, 4, 1024), (41, 40, 0)]
)
@pytest.mark.parametrize(
    "lengths, counts",
    [
        ([700, 64, 1, 5300, 129], [4, 4, 1, 2, 3]),
        ([2000, 70], [70, 1]),
        ([900, 100, 1100, 20, 300, 400, 64, 600], [4] * 8),
    ],
)
def test_bits_do_not_depend_on_where_pages_lie_or_on_other_sequences(kernel, lengths, counts, k_bits, v_bits, window):
    case = PagedCase(kernel, lengths, counts, window, k_bits=k_bits, v_bits=v_bits)
    alone = case.alone()
    expected = case.case.expected()
    assert np.abs(alone - expected).max() <= 3e-6 * np.abs(expected).max()
    for threads in (1, 2, 7):
        assert np.array_equal(case.run(threads), alone), threads
    assert np.array_equal(case.run(2, whole=True), alone)


@pytest.mark.parametrize("window", [0, 512])
@pytest.mark.parametrize("n", [17, 65, 512])
def test_bits_do_not_depend_on_the_size_of_a_chunk_of_a_prompt(kernel, n: int, window: int):
    case = PagedCase(kernel, [1100, 300, 200], [n, 1, 4], window, k_bits=8, v_bits=4)
    alone = case.alone()
    for threads in (1, 2, 5):
        assert np.array_equal(case.run(threads), alone), threads


@pytest.mark.parametrize("threads", [2, 4, 8, 16])
def test_all_threads_have_work_with_several_sequences(kernel, threads: int):
    """One KV head: a sequence an item would leave threads idle, and others with the longest sequence."""
    for lengths in ([300] * 8, [40, 80, 500, 600], [2000] * 2):
        case = PagedCase(kernel, lengths, [4] * len(lengths))
        assert np.array_equal(case.run(threads), case.run(1))
        case.run(threads)
        assert kernel.attention_items() >= threads

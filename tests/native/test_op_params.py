"""Words of an operation's parameters that our hooks use: llama.cpp itself, unmodified, leaves them zero and reads none.

Called through the symbols of the wheel xllamacpp, which is the pinned build.
"""

import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xllamacpp

from support.cmake import PROJECT

PARAM = int(re.search(r"#define TURBO_PARAM (\d+)", (PROJECT / "csrc/turboquant/turboquant.h").read_text())[1])
F16, F32, I64 = 1, 0, 27
HADAMARD, FULL_PRECISION = 1, 10


class Tensor(ctypes.Structure):
    """The beginning of ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
    )


class InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """A context of ggml's, and its functions; those that begin with new_, and operations, give tensors."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
        self.context = ctypes.c_void_p(self("init", ctypes.c_void_p, InitParams(16 << 20, None, False)))

    def __call__(self, name: str, result: type | None, *arguments: object) -> object:
        function = getattr(self.library, f"ggml_{name}")
        function.restype = result
        return function(*arguments)

    def op(self, name: str, *arguments: object) -> ctypes.POINTER(Tensor):
        return self(name, ctypes.POINTER(Tensor), self.context, *arguments)

    def tensor(self, kind: int, *sizes: int) -> ctypes.POINTER(Tensor):
        t = self.op(f"new_tensor_{len(sizes)}d", kind, *map(ctypes.c_int64, sizes))
        data, size = self.data(t), self("nbytes", ctypes.c_size_t, t)
        ctypes.memmove(data, bytes((i % 29) if kind == I64 else 60 for i in range(size)), size)
        if kind == I64:
            for i in range(size // 8):
                ctypes.c_int64.from_address(data + 8 * i).value = i
        return t

    def data(self, t: ctypes.POINTER(Tensor)) -> int:
        return self("get_data", ctypes.c_void_p, t)

    def compute(self, t: ctypes.POINTER(Tensor)) -> bytes:
        graph = ctypes.c_void_p(self("new_graph", ctypes.c_void_p, self.context))
        self("build_forward_expand", None, graph, t)
        assert self("graph_compute_with_ctx", ctypes.c_int, self.context, graph, 1) == 0
        return ctypes.string_at(self.data(t), self("nbytes", ctypes.c_size_t, t))


@pytest.fixture
def ggml() -> Iterator[Ggml]:
    ggml = Ggml()
    yield ggml
    ggml("free", None, ggml.context)


def set_rows(ggml: Ggml) -> ctypes.POINTER(Tensor):
    cache = ggml.tensor(F16, 64, 8)
    ctypes.memset(ggml.data(cache), 0, 2 * 64 * 8)
    return ggml.op("set_rows", cache, ggml.tensor(F32, 64, 3), ggml.tensor(I64, 3))


def rotation(ggml: Ggml) -> ctypes.POINTER(Tensor):
    """As llama_mul_mat_hadamard makes it, with what else can be set on a product."""
    product = ggml.op("mul_mat", ggml.tensor(F32, 64, 64), ggml.tensor(F32, 64, 4))
    ggml("mul_mat_set_hint", None, product, HADAMARD)
    assert ggml("prec_set_acc", ctypes.c_bool, product, FULL_PRECISION)
    assert ggml("prec_set_src", ctypes.c_bool, product, FULL_PRECISION, 1)
    return product


def product(ggml: Ggml) -> ctypes.POINTER(Tensor):
    return ggml.op("mul_mat", ggml.tensor(F16, 64, 8), ggml.tensor(F32, 64, 4))


def named_input(ggml: Ggml) -> ctypes.POINTER(Tensor):
    t = ggml.tensor(F32, 64, 64)
    ggml("set_input", None, t)
    ggml("set_name", ctypes.c_void_p, t, b"attn_inp_k_rot")
    return t


def words(t: ctypes.POINTER(Tensor)) -> list[int]:
    return list(t.contents.op_params)


def test_the_structure_is_the_one_that_ggml_has(ggml):
    """Else the other tests would look at other words."""
    t = rotation(ggml)
    assert words(t)[:4] == [FULL_PRECISION, HADAMARD, 0, FULL_PRECISION]
    assert list(t.contents.ne) == [64, 4, 1, 1] and list(t.contents.nb)[:2] == [4, 256]


@pytest.mark.parametrize("build", [set_rows, rotation, product, named_input])
def test_llama_cpp_leaves_the_word_zero(ggml, build: Callable[[Ggml], ctypes.POINTER(Tensor)]):
    assert words(build(ggml))[PARAM] == 0


@pytest.mark.parametrize("build", [set_rows, rotation, product])
def test_llama_cpp_does_not_read_the_word(ggml, build: Callable[[Ggml], ctypes.POINTER(Tensor)]):
    results = []
    for value in (0, 1):
        t = build(ggml)
        t.contents.op_params[PARAM] = value
        results.append(ggml.compute(t))
    assert results[0] == results[1] and any(results[0])

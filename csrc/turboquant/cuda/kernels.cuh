// TurboQuant's row functions on a CUDA device: the bytes and floats of reference.c. So these files must be compiled
// without contraction and flushing of small numbers, and with exact division and roots (-fmad=false -ftz=false
// -prec-div=true -prec-sqrt=true, after ggml-cuda's -use_fast_math).
#pragma once

#include "turboquant/turboquant.h"

#include <cuda_runtime.h>

namespace pmtp::turboquant {

// A tensor of rows, [n, rows, matrices, batches]; n a multiple of 64, fewer than 2^32 blocks in all.
struct Shape {
    int64_t n, rows, matrices, batches;

    int64_t blocks() const { return n / TURBO_BLOCK * rows * matrices * batches; }
};

// Bytes from one row, matrix, batch to the next. A row's values, or blocks, lie one after another.
struct Strides {
    int64_t row, matrix, batch;
};

// Where rows are written to: row i of matrix m and batch b to the row whose number is at data + i strides.row + (m %
// matrices) strides.matrix + (b % batches) strides.batch. Without data, row i to row i.
struct RowNumbers {
    const char * data = nullptr;
    bool wide = false;  // i64, else i32
    Strides strides{};
    int64_t matrices = 1, batches = 1;
};

void encode(int bits, turbo_role role, const float * x, Strides x_strides, void * blocks, Strides strides,
            RowNumbers numbers, Shape shape, cudaStream_t stream);

// T: float, or half, whose rows must be aligned to 16 bytes; it is the decoded float, rounded to nearest.
template <typename T>
void decode(int bits, const void * blocks, Strides strides, T * x, Strides x_strides, Shape shape, cudaStream_t stream);

// y = R x for rows of n values, one after another; R = D H D. signs: f32 [n], of which the signs are D's diagonal. n:
// 64, 128, 256 or 512.
template <typename T>
void rotate(const T * x, const float * signs, float * y, int n, int64_t n_rows, cudaStream_t stream);

}  // namespace pmtp::turboquant

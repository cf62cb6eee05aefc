// What a layer does with its queries, keys and values between their products and the attention, in one launch: norms of
// heads, rotation by position, the rotation of a quantised cache, and writing keys and values to the cache.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"
#include "turboquant/turboquant.h"

#include <cuda_runtime.h>

#include <cstdint>

enum class CellType { f16, bf16, q8_0, q4_0, turbo4, turbo3, turbo2 };

// Where heads are written: those of row i to the cell whose number is the i-th.
struct CellRows {
    char * data = nullptr;
    CellType type = CellType::f16;
    turbo_role role = TURBO_KEY;
    int64_t cell_bytes = 0;  // from one cell to the next
    const char * numbers = nullptr;
    bool wide = false;  // i64, else i32
};

// n_heads heads a row, one after another, and rows likewise. In this order, each step or not:
struct Heads {
    const float * x = nullptr;
    int n_heads = 0;
    bool norms = false;  // x / sqrt(mean(x^2) + eps)
    float eps = 0.0f;
    const float * weight = nullptr;  // [n], or null: times it
    bool turns = false;              // by position
    int rotation = 0;                // values that are rotated together, 64 to n; 0: none
    const float * signs = nullptr;   // [rotation], or null: of R = D H D, see turboquant/cuda/kernels.cuh; constants
    float * out = nullptr;           // may be x; or
    CellRows cells;
};

// Values j and j + n / 2 of a head turn by position * (scale * 2^(j log2_base) / factors[j]) (neox).
struct Turn {
    const int32_t * positions = nullptr;  // a row
    const float * factors = nullptr;      // [n / 2], or null
    float log2_base = 0.0f;
    float scale = 1.0f;
    float magnitude = 1.0f;  // of the result
};

constexpr int kMostHeadKinds = 3;

struct HeadsOp {
    Heads kinds[kMostHeadKinds];
    int n_kinds = 0;
    int n_rows = 0;
    Turn turn;
};

// n: of a head, 64, 128, 256 or 512. A head's results depend on its row alone.
constexpr bool pmtp_has_heads(int64_t n) { return n == 64 || n == 128 || n == 256 || n == 512; }
void pmtp_cuda_finish_heads(const HeadsOp & op, int n, cudaStream_t stream);

// y = R x for each `rotation` values of rows of n, and y quantised. y may be x. n: a multiple of rotation, and that 64,
// 128, 256 or 512; signs: [rotation], or null.
void pmtp_cuda_rotate_rows(const float * x, const float * signs, int rotation, float * y, PmtpQ8Block * quantised,
                           int n, int n_rows, cudaStream_t stream);

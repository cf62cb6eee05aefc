// The products themselves: one pass over the weights, each block decoded once and multiplied with all rows.
#pragma once

#include "kernels/products/cpu/activations.h"

#include <cstdint>

namespace pmtp::products {

// rows[i].result[c] = weight row c . activation row i, for c in first..last. `weights` is the start of the matrix.
using Kernel = void (*)(const void * weights, int64_t n_in, const Row * rows, int64_t first, int64_t last);

// ggml's 8x8 layouts: 8 weight rows interleaved by 8 bytes. first and last are multiples of 8. n_rows: 1..kMaxRows.
Kernel q4_0_8x8(int n_rows);
Kernel q4_K_8x8(int n_rows);

// ggml's plain layouts.
Kernel q8_0(int n_rows);
Kernel q6_K(int n_rows);

}  // namespace pmtp::products

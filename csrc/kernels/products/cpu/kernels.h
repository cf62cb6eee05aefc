// The products themselves: passes over the weights, each for some tiles of rows.
#pragma once

#include "kernels/products/cpu/activations.h"

#include <cstdint>

namespace pmtp::products {

// Column c of a tile's result = weight row c . activation row, for c in first..last. `weights` is the start of the
// matrix. What is added, and in which order, depends on neither the tiles nor their widths.
using Kernel = void (*)(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first,
                        int64_t last);

// How often multiply() passes over the weights.
int64_t count_passes(const Activations & activations);

// Column c of row r at result + r * stride + c, or places[r] * stride, for c in first..last and all rows.
void multiply(Kernel kernel, const void * weights, const Activations & activations, float * result, int64_t stride,
              int64_t first, int64_t last, const int32_t * places = nullptr);

// ggml's 8x8 layouts: 8 weight rows interleaved by 8 bytes. first and last are multiples of 8.
void q4_0_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void iq4_nl_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q4_K_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);

// ggml's plain layouts.
void q8_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q5_1(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q5_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q4_1(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void iq4_nl(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void iq4_xs(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q3_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q5_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void q6_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);

// Rows of a multiple of 32 values.
void f32(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void f16(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);
void bf16(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last);

}  // namespace pmtp::products

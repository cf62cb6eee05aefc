// ggml-cuda's quantised activations, for products with quantised weights.
#pragma once

#include "kernels/cuda/reduce.cuh"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

// block_q8_1: 32 values.
struct PmtpQ8Block {
    half2 scale_and_sum;
    int8_t values[32];
};
static_assert(sizeof(PmtpQ8Block) == 36);

// Blocks of a quantised row of n values; ggml-cuda pads rows to 512, and reads no padding.
constexpr __host__ __device__ int64_t pmtp_row_blocks(int64_t n) { return (n + 511) / 512 * 16; }

// Up to so many rows lie one after another, as ggml-cuda has them.
constexpr int kPmtpFewRows = 8;
// More lie in tiles of as many rows as a tensor-core instruction takes, which hold 32 values of each: four words for
// each lane, then scale_and_sum of the rows. Tiles of the same rows follow one another.
constexpr int kPmtpTileRows = 16;
constexpr int kPmtpTileWords = kPmtpTileRows * (int) sizeof(PmtpQ8Block) / 4;

constexpr __host__ __device__ bool pmtp_is_tiled(int64_t n_rows) { return n_rows > kPmtpFewRows; }

// Blocks of n_rows rows in all; a block of threads takes one or two tiles of rows.
constexpr __host__ __device__ int64_t pmtp_all_blocks(int64_t n, int64_t n_rows) {
    const int64_t multiple = !pmtp_is_tiled(n_rows) ? 1 : n_rows <= kPmtpTileRows ? kPmtpTileRows : 2 * kPmtpTileRows;
    return (n_rows + multiple - 1) / multiple * multiple * pmtp_row_blocks(n);
}

// Where a block of a row lies, which may be nowhere.
struct PmtpQ8Place {
    uint32_t * words = nullptr;
    half2 * scale_and_sum = nullptr;
    int step = 0;  // from a word to the next of four,
    int half = 0;  // and to that of the 16 values further on

    __host__ __device__ uint32_t * word(int i) const { return words + i % 4 * step + i / 4 * half; }
};

// Of `row` among n_rows rows of n values at `data`.
inline __host__ __device__ PmtpQ8Place pmtp_place(PmtpQ8Block * data, int64_t n, int64_t n_rows, int64_t row,
                                                  int64_t block) {
    if (!pmtp_is_tiled(n_rows)) {
        PmtpQ8Block * b = data + row * pmtp_row_blocks(n) + block;
        return { (uint32_t *) b->values, &b->scale_and_sum, 1, 4 };
    }
    const int in_tile = (int) (row % kPmtpTileRows);
    auto * tile = (uint32_t *) data + (row / kPmtpTileRows * pmtp_row_blocks(n) + block) * kPmtpTileWords;
    return { tile + in_tile % 8 * 16 + in_tile / 8, (half2 *) (tile + 8 * kPmtpTileRows) + in_tile, 4, 2 };
}

#ifdef __CUDACC__
// Quantises 32 consecutive values, n_values of each of 32 / n_values lanes, 1 or 4. All lanes of a warp call it. The
// sum is that of neighbours, then of neighbouring pairs, and so on, whichever lanes have them: products have their
// activations from one kernel or another.
template <int n_values>
__device__ __forceinline__ void pmtp_quantise(const float (&x)[n_values], const PmtpQ8Place & to) {
    static_assert(n_values == 1 || n_values == 4);
    constexpr int kLanes = 32 / n_values;
    float largest = 0.0f;
    for (float v : x) {
        largest = fmaxf(largest, fabsf(v));
    }
    largest = pmtp::reduce_lanes<kLanes>(largest, pmtp::Max());
    float sum = x[0];
    if constexpr (n_values == 4) {
        sum = (x[0] + x[1]) + (x[2] + x[3]);
    }
#pragma unroll
    for (int offset = 1; offset < kLanes; offset *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    if (to.words == nullptr) {
        return;
    }
    const float scale = largest / 127.0f;
    const int lane = threadIdx.x % kLanes;
    alignas(4) int8_t quants[n_values];
    for (int i = 0; i < n_values; i++) {
        quants[i] = largest == 0.0f ? 0 : (int8_t) roundf(x[i] / scale);
    }
    if constexpr (n_values == 4) {
        *to.word(lane) = *(const uint32_t *) quants;
    } else {
        ((int8_t *) to.word(lane / 4))[lane % 4] = quants[0];
    }
    if (lane == 0) {
        *to.scale_and_sum = make_half2(scale, sum);
    }
}
#endif

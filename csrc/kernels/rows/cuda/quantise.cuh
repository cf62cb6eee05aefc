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

#ifdef __CUDACC__
// Quantises 32 consecutive values, n_values of each of 32 / n_values lanes, as ggml-cuda does. All lanes of a warp call
// it; null: nothing is written.
template <int n_values> __device__ __forceinline__ void pmtp_quantise(const float (&x)[n_values], PmtpQ8Block * block) {
    constexpr int kLanes = 32 / n_values;
    float largest = 0.0f;
    float sum = 0.0f;
    for (float v : x) {
        largest = fmaxf(largest, fabsf(v));
        sum += v;
    }
    largest = pmtp::reduce_lanes<kLanes>(largest, pmtp::Max());
    sum = pmtp::reduce_lanes<kLanes>(sum, pmtp::Sum());
    if (block == nullptr) {
        return;
    }
    const float scale = largest / 127.0f;
    const int lane = threadIdx.x % kLanes;
    alignas(4) int8_t quants[n_values];
    for (int i = 0; i < n_values; i++) {
        quants[i] = largest == 0.0f ? 0 : (int8_t) roundf(x[i] / scale);
    }
    if constexpr (n_values == 4) {
        *(int32_t *) &block->values[lane * 4] = *(const int32_t *) quants;
    } else {
        block->values[lane] = quants[0];
    }
    if (lane == 0) {
        block->scale_and_sum = make_half2(scale, sum);
    }
}
#endif

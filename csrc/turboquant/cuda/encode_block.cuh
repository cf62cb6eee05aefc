// The encoder of codec.h, a warp to a block. Every sum has the order that codec.h gives it: over 16 lanes, each of
// which adds its four values, and then over the lanes one after another.
#pragma once

#include "turboquant/cuda/blocks.cuh"

#include <cuda_fp16.h>

namespace pmtp::turboquant {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kWarp = 32;
// Lane j has values j, j + 16, j + 32 and j + 48, and the warp's second half has them again.
constexpr int kLanes = 16;
constexpr int kParts = TURBO_BLOCK / kLanes;
// Scales that the search tries.
constexpr int kSteps = 15;
// Partial sums of |x| c and c^2, by step and lane; padded so that 16 threads read 16 banks.
struct Partial {
    float xc[kLanes][kLanes + 1], cc[kLanes][kLanes + 1];
};

// Warps that share the search for a block's scale, all of which have its values: one, or all of a thread block.
struct Team {
    int n_warps = 1, own = 0;

    __device__ __forceinline__ void meet() const {
        if (n_warps == 1) {
            __syncwarp();
        } else {
            __syncthreads();
        }
    }
};

__device__ __forceinline__ float lane_sum(float x) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kLanes; j++) {
        sum += __shfl_sync(kAll, x, j, kLanes);
    }
    return sum;
}

__device__ __forceinline__ unsigned largest(unsigned x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(kAll, x);
#else
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        x = max(x, __shfl_xor_sync(kAll, x, offset));
    }
    return x;
#endif
}

// This lane's part of the sums of |x| c and c^2, x quantised with a scale to levels c.
template <int bits>
__device__ __forceinline__ void products(const float (&x)[kParts], float scale, float & xc, float & cc) {
    xc = cc = 0;
#pragma unroll
    for (int p = 0; p < kParts; p++) {
        float c = level<bits>(0);
#pragma unroll
        for (int e = 0; e + 1 < kHalf<bits>; e++) {
            c = fabsf(x[p]) > edge<bits>(e) * scale ? level<bits>(e + 1) : c;
        }
        xc += fabsf(x[p]) * c;
        cc += c * c;
    }
}

// The whole sums.
template <int bits>
__device__ __forceinline__ void whole_products(const float (&x)[kParts], float scale, float & xc, float & cc) {
    const bool is_upper = threadIdx.x % kWarp >= kLanes;
    products<bits>(x, scale, xc, cc);
    const float sum = lane_sum(is_upper ? cc : xc), other = __shfl_xor_sync(kAll, sum, kLanes);
    xc = is_upper ? other : sum;
    cc = is_upper ? sum : other;
}

// Sums for the scales of a grid around the root mean square. The halves of the team's warps take steps in turn.
template <int bits>
__device__ __forceinline__ void try_grid(const float (&x)[kParts], float rms, Partial & partial, Team team) {
    const int lane = threadIdx.x % kLanes, half = threadIdx.x % kWarp / kLanes;
#pragma unroll 1
    for (int step = 2 * team.own + half; step < kLanes; step += 2 * team.n_warps) {
        float xc, cc;
        products<bits>(x, rms * (0.72f + 0.045f * (float) step), xc, cc);
        partial.xc[step][lane] = xc;
        partial.cc[step][lane] = cc;
    }
}

// The best scale of the grid, of whose steps `partial` has the sums; the first of equal ones.
__device__ __forceinline__ float best_scale(const Partial & partial) {
    const int step = threadIdx.x % kLanes;
    const bool is_upper = threadIdx.x % kWarp >= kLanes;
    const float * lanes = is_upper ? partial.cc[step] : partial.xc[step];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kLanes; j++) {
        sum += lanes[j];
    }
    const float other = __shfl_xor_sync(kAll, sum, kLanes);
    const float xc = is_upper ? other : sum, cc = is_upper ? sum : other;
    // the squares' part that is met: no number below 0, so that its bits have its order
    const unsigned met = step < kSteps ? __float_as_uint(xc * xc / cc) : 0, best = largest(met);
    return __shfl_sync(kAll, xc / cc, __ffs((int) __ballot_sync(kAll, step < kSteps && met == best)) - 1);
}

template <int bits> __device__ __forceinline__ int quantise(float x, float scale) {
    int level = 0;
#pragma unroll
    for (int e = 0; e + 1 < kHalf<bits>; e++) {
        level += fabsf(x) > edge<bits>(e) * scale;
    }
    return x < 0 ? kHalf<bits> - 1 - level : kHalf<bits> + level;
}

// All of a block but its scale.
template <int bits>
__device__ __forceinline__ void store_indices(const float (&x)[kParts], float scale, uint8_t * block) {
    const int lane = threadIdx.x % kWarp;
    int index[kParts];
#pragma unroll
    for (int p = 0; p < kParts; p++) {
        index[p] = quantise<bits>(x[p], scale);
    }
    uint16_t high = 0;
    if (bits == 3) {
#pragma unroll
        for (int p = 0; p < kParts; p++) {
            const unsigned ballot = __ballot_sync(kAll, index[p] >> 2);  // bit j: of value 16 p + j
            high = lane == p ? (uint16_t) ballot : high;
        }
    }
    if (lane >= kLanes) {
        return;
    }
    uint8_t * data = block + sizeof(uint16_t);
    if (bits == 4) {
        data[lane] = (uint8_t) (index[0] | index[2] << 4);
        data[lane + kLanes] = (uint8_t) (index[1] | index[3] << 4);
        return;
    }
    data[lane] = (uint8_t) ((index[0] & 3) | (index[1] & 3) << 2 | (index[2] & 3) << 4 | (index[3] & 3) << 6);
    if (bits == 3 && lane < kParts) {
        *(uint16_t *) (data + 16 + 2 * lane) = high;
    }
}

// All lanes of the team's warps call it, once: x are values j, j + 16, j + 32 and j + 48 of a block, j = lane % 16.
template <int bits> __device__ __forceinline__ void encode_block(const float (&x)[kParts], turbo_role role,
                                                                 uint8_t * block, Partial & partial, Team team = {}) {
    float squares = 0;
#pragma unroll
    for (int p = 0; p < kParts; p++) {
        squares += x[p] * x[p];
    }
    squares = lane_sum(squares);
    const bool is_sought = squares > 0 && squares < INFINITY;
    if (is_sought) {
        try_grid<bits>(x, sqrtf(squares / TURBO_BLOCK), partial, team);
        team.meet();
    }
    if (team.own != 0) {
        return;
    }
    float scale = is_sought ? best_scale(partial) : squares, xc, cc;
#pragma unroll 1
    for (int round = 0; is_sought && round < 2; round++) {
        whole_products<bits>(x, scale, xc, cc);
        scale = xc / cc;
    }
    store_indices<bits>(x, scale, block);
    if (is_sought && role == TURBO_VALUE) {  // the unbiased one
        whole_products<bits>(x, scale, xc, cc);
        scale = squares / xc;
    }
    if (threadIdx.x % kWarp == 0) {
        *(uint16_t *) block = __half_as_ushort(__float2half_rn(scale > 65504.0f ? 65504.0f : scale));
    }
}

}  // namespace pmtp::turboquant

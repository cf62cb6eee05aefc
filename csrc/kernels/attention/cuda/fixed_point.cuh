// Sums of chunks in fixed point, whose order does not matter, and what is done with them.
#pragma once

#include "kernels/attention/cuda/attend.cuh"

namespace pmtp::attention::cuda {

// Dimensions that an infinite or NaN value among them spoils.
constexpr int kSlice = 64;

// Of a weight, at least 1 for the chunk with the largest logit and at most its cells; of a weighted value, a part of a
// mean of halves. Sums stay below 2^58.
constexpr float kWeightOne = (float) (1ll << 32), kValueOne = (float) (1ll << 40);

// Of a chunk beside the column's largest logit; 0: it saw nothing.
__device__ __forceinline__ float weight_of(const State & state, float max) {
    return state.sum != 0.0f ? state.sum * exp2f((state.max - max) * kLog2E) : 0.0f;
}

__device__ __forceinline__ float inverse_of(long long fixed_sum, float sink, float max) {
    const float sum =
        __ll2float_rn(fixed_sum) * (1.0f / kWeightOne) + (sink != -INFINITY ? exp2f((sink - max) * kLog2E) : 0.0f);
    return sum > 0.0f ? 1.0f / sum : 0.0f;
}

// A step of the rotation of kSlice values: of the half of them that a warp's lanes have. The halves are then added and
// subtracted.
__device__ __forceinline__ float rotate_half(float x) {
#pragma unroll
    for (int h = 1; h < kWarp; h *= 2) {
        x = __fmaf_rn(x, (threadIdx.x & h) == 0 ? 1.0f : -1.0f, __shfl_xor_sync(0xffffffffu, x, h));
    }
    return x;
}

// n of a column's values, in pairs.
template <int n> struct FixedSums {
    long long x[n] = {};
    float invalid = 0.0f;  // NaN if a weight or value was infinite or NaN

    __device__ __forceinline__ void add(float weight, const uint32_t (&pairs)[n / 2]) {
        invalid = fmaf(weight, 0.0f, invalid);
#pragma unroll
        for (int i = 0; i < n / 2; i++) {
            const float2 two = __half22float2(as_halves(pairs[i]));
            x[2 * i] += __float2ll_rn(weight * two.x * kValueOne);
            x[2 * i + 1] += __float2ll_rn(weight * two.y * kValueOne);
            invalid = fmaf(two.x, 0.0f, fmaf(two.y, 0.0f, invalid));
        }
    }
};

}  // namespace pmtp::attention::cuda

// Activations as sums of numbers of the weights' own type, which tensor-core instructions take: two of f16, 22 bits of
// a value that a power of two has brought near the largest of them, or three of bf16, all of its 24 bits.
#pragma once

#include "kernels/cuda/tensor_cores.cuh"
#include "kernels/products/cuda/formats.cuh"

#include <cuda_fp16.h>

namespace {

// Of a stage of one row: what its values are multiplied with, and its results.
struct StageScale {
    float to, back;
};

template <typename Format> struct FloatParts;

template <> struct FloatParts<pmtp::formats::F16> {
    static constexpr int kParts = 2;
    static constexpr bool kScaled = true;
    // Values whose products an instruction adds to those of the one before: a stage, or half of one.
    static constexpr int kChain = 128;

    // largest: of the values' sizes, but NaN's; it becomes less than 2^15. Powers of two stay normal numbers.
    static __device__ __forceinline__ StageScale scale(float largest) {
        const uint32_t exponent = __float_as_uint(largest) >> 23;
        const uint32_t to = min(268u - min(exponent, 254u), 253u);
        return { __uint_as_float(to << 23), __uint_as_float((254u - to) << 23) };
    }

    // The parts of two values, largest first. What an infinity lacks is a NaN.
    static __device__ __forceinline__ void split(uint32_t (&parts)[kParts], float2 x, const StageScale & scale) {
        x = make_float2(__fmul_rn(x.x, scale.to), __fmul_rn(x.y, scale.to));
        const half2 high = __floats2half2_rn(x.x, x.y);
        const float2 had = __half22float2(high);
        const half2 low = __floats2half2_rn(__fsub_rn(x.x, had.x), __fsub_rn(x.y, had.y));
        parts[0] = *(const uint32_t *) &high;
        parts[1] = *(const uint32_t *) &low;
    }

    // c[i] of a lane becomes c[i] and the sum over 16 values for row lane / 4 of x, of which c[2], c[3] have the one 8
    // further on, and weight row 2 (lane % 4) + i % 2 of the tile. x, w: values 2 (lane % 4) ... and 8 more on.
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
        pmtp::add_product_f16(c, x[0], x[1], x[2], x[3], w0, w1);
    }
};

template <> struct FloatParts<pmtp::formats::BF16> {
    static constexpr int kParts = 3;
    static constexpr bool kScaled = false;
    static constexpr int kChain = 64;

    static __device__ __forceinline__ StageScale scale(float) { return { 1.0f, 1.0f }; }

    // Cut off, not rounded: what is left is exact, and no part is larger than the value. What an infinity lacks, and a
    // NaN, is a NaN that is not cut off.
    static __device__ __forceinline__ void split(uint32_t (&parts)[kParts], float2 x, const StageScale &) {
#pragma unroll
        for (int i = 0; i < kParts; i++) {
            parts[i] = __byte_perm(__float_as_uint(x.x), __float_as_uint(x.y), 0x7632);
            x = make_float2(rest(x.x), rest(x.y));
        }
    }

    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
        pmtp::add_product_bf16(c, x[0], x[1], x[2], x[3], w0, w1);
    }

  private:
    static __device__ __forceinline__ float rest(float x) {
        return __fsub_rn(x, __uint_as_float(__float_as_uint(x) & 0xffff0000));
    }
};

// Four matrices of 8 rows of 16 bytes: a lane gets word lane % 4 of row lane / 4 of each, and says where row lane % 8
// of the lane / 8-th is.
__device__ __forceinline__ uint4 load_matrices(const uint32_t * row) {
    uint4 out = {};
#if __CUDA_ARCH__ >= 800
    const auto at = (uint32_t) __cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                 : "r"(at));
#endif
    return out;
}

}  // namespace

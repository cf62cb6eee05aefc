// Floats in an order that integers can be compared in.
#pragma once

#include <cstdint>

// Order of floats as unsigned integers; total, also on NaNs.
__device__ __forceinline__ uint32_t order_of(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

constexpr uint32_t kOrderOfMinusInfinity = 0x007fffffu;
constexpr uint32_t kOrderOfInfinity = 0xff800000u;

// A value and its index in one number, so that the larger is the better: the larger value, then the smaller index.
__device__ __forceinline__ uint64_t rank_of(uint32_t order, uint32_t index) { return (uint64_t) order << 32 | ~index; }
__device__ __forceinline__ uint32_t order_in(uint64_t rank) { return (uint32_t) (rank >> 32); }
__device__ __forceinline__ uint32_t index_in(uint64_t rank) { return ~(uint32_t) rank; }

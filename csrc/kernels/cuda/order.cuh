// Floats in an order that integers can be compared in.
#pragma once

#include <cstdint>

constexpr int kWarp = 32;

// Order of floats as unsigned integers; total, also on NaNs.
__device__ __forceinline__ uint32_t order_of(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

constexpr uint32_t kOrderOfMinusInfinity = 0x007fffffu;
constexpr uint32_t kOrderOfInfinity = 0xff800000u;

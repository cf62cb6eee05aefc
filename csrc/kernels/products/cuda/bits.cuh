// Bits and bytes of words, as the formats of weights need them. Compiles as C++ too, for a test.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define PMTP_EVERYWHERE __host__ __device__ __forceinline__
#else
#include <cmath>
#define PMTP_EVERYWHERE inline
#endif

namespace pmtp::formats {

// Bits `shift` to shift + 31 of two words; shift below 32.
PMTP_EVERYWHERE uint32_t shift_right(uint32_t low, uint32_t high, uint32_t shift) {
#ifdef __CUDA_ARCH__
    return __funnelshift_r(low, high, shift);
#else
    return (uint32_t) (((uint64_t) high << 32 | low) >> shift);
#endif
}

// The bytes of a and b, 0 to 7, that the four low nibbles of `which` name.
PMTP_EVERYWHERE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t which) {
#ifdef __CUDA_ARCH__
    return __byte_perm(a, b, which);
#else
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        out |= (uint32_t) (((uint64_t) b << 32 | a) >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    }
    return out;
#endif
}

PMTP_EVERYWHERE float half_to_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half((unsigned short) bits));
#else
    const int exponent = (int) (bits >> 10 & 31);
    const float size = exponent == 0    ? std::ldexp((float) (bits & 1023), -24)
                       : exponent == 31 ? ((bits & 1023) == 0 ? INFINITY : NAN)
                                        : std::ldexp((float) (bits & 1023 | 1024), exponent - 25);
    return (bits & 0x8000) != 0 ? -size : size;
#endif
}

PMTP_EVERYWHERE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

PMTP_EVERYWHERE int byte_of(uint32_t word, int i) { return (int) (word >> 8 * i & 255); }

}  // namespace pmtp::formats

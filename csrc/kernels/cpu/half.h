// IEEE halves to floats and back, with F16C where the target has it, and bfloat16 to floats.
#pragma once

#include "kernels/cpu/simd.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace pmtp::cpu {

inline float half_to_float(uint16_t half) {
#ifdef __F16C__
    return _cvtsh_ss(half);
#else
    const uint32_t sign = (uint32_t) (half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ff;
    float value;
    if (exponent == 0) {
        value = (float) mantissa * 0x1p-24f;
    } else {
        const uint32_t bits = (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
        std::memcpy(&value, &bits, sizeof(value));
    }
    return sign ? -value : value;
#endif
}

// kLanes halves.
PMTP_INLINE Float load_halves(const uint16_t * halves) {
#if PMTP_SIMD == 64
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) halves));
#elif PMTP_SIMD == 32
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) halves));
#else
    Float x;
    for (int i = 0; i < kLanes; i++) {
        x[i] = half_to_float(halves[i]);
    }
    return x;
#endif
}

// kLanes bfloat16 numbers: the upper halves of floats.
PMTP_INLINE Float load_bfloats(const uint16_t * bfloats) {
#if PMTP_SIMD == 64
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) bfloats));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
#elif PMTP_SIMD == 32
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) bfloats));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
#else
    typedef uint16_t Uint16 __attribute__((vector_size(kBytes / 2)));
    return float_of(__builtin_convertvector(load_as<Uint16>(bfloats), Int32) << 16);
#endif
}

#ifdef __F16C__
// The half nearest to x, as a float.
inline float rounded_to_half(float x) { return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
#endif

}  // namespace pmtp::cpu

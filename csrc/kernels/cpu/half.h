// IEEE halves to floats and back, with F16C where the target has it.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

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

inline void halves_to_floats(const uint16_t * halves, float * x, int n) {
    int i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (halves + i))));
    }
#endif
    for (; i < n; i++) {
        x[i] = half_to_float(halves[i]);
    }
}

#ifdef __F16C__
// The half nearest to x, as a float.
inline float rounded_to_half(float x) { return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
#endif

}  // namespace pmtp::cpu

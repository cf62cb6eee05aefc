// Vectors of the attention kernel, in the compiler's own extension: 16 lanes with AVX-512, 8 with AVX2, else 4.
#pragma once

#include <cstdint>
#include <cstring>

namespace pmtp::attention {

#define PMTP_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(float))));

PMTP_INLINE Vec load(const float * p) {
    Vec v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}
PMTP_INLINE void store(float * p, Vec v) { std::memcpy(p, &v, sizeof(v)); }
PMTP_INLINE Vec broadcast(float x) { return x - Vec{}; }

PMTP_INLINE float maximum(Vec v) {
    float m = v[0];
    for (int i = 1; i < kLanes; i++) {
        m = v[i] > m ? v[i] : m;
    }
    return m;
}
PMTP_INLINE float total(Vec v) {
    float sum = 0;
    for (int i = 0; i < kLanes; i++) {
        sum += v[i];
    }
    return sum;
}

// Lanes 2i + (2i + 1) of a, then of b.
PMTP_INLINE Vec add_pairs(Vec a, Vec b) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

// Lane i of the result: the sum of v[i]'s lanes. v is overwritten.
PMTP_INLINE Vec totals(Vec (&v)[kLanes]) {
    for (int n = kLanes / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) {
            v[i] = add_pairs(v[2 * i], v[2 * i + 1]);
        }
    }
    return v[0];
}

// e^x for x <= 0, to 2 units in the last place; 0 below -87. (x = n ln 2 + r, a polynomial in r: Cephes' expf.)
PMTP_INLINE Vec exp_nonpositive(Vec x) {
    const Vec zero{};
    const IntVec is_zero = x < zero - 87.0f;
    const Vec y = is_zero ? zero : x;
    const Vec shifted = y * 1.44269504f + 12582912.0f;  // the integer nearest to x / ln 2, in the low bits
    const Vec n = shifted - 12582912.0f;
    const Vec r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    IntVec bits, exponent;
    std::memcpy(&bits, &p, sizeof(bits));
    std::memcpy(&exponent, &shifted, sizeof(exponent));
    bits += exponent << 23;  // the constant's own bits leave at the top
    Vec e;
    std::memcpy(&e, &bits, sizeof(e));
    return is_zero ? zero : e;
}

}  // namespace pmtp::attention

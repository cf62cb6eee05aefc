#include "kernels/rows/cpu/tanh.h"
#include "kernels/cpu/simd.h"

#include <algorithm>

#ifdef PMTP_SIMD

namespace pmtp::rows {
namespace {

// tanh |x| = e / (e + 2) with e = exp(2 |x|) - 1, which keeps its relative precision near 0. With 2 |x| = n ln 2 + r,
// |r| <= ln 2 / 2: e = 2^n (exp(r) - 1) + 2^n - 1, and the series of exp(r) - 1 to r^7 is exact to 2e-8.
__m256 tanh8(__m256 x) {
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    // tanh(10) rounds to 1. The order of the operands lets a NaN through.
    const __m256 y = _mm256_min_ps(_mm256_set1_ps(20.0f), _mm256_add_ps(magnitude, magnitude));
    const __m256 n =
        _mm256_round_ps(_mm256_mul_ps(y, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // ln 2 in two parts, the first with trailing zeros: n times it is exact.
    const __m256 r =
        _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), y));
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    for (const float coefficient : { 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f }) {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coefficient));
    }
    p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r);
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    const __m256 power = _mm256_castsi256_ps(exponent);
    const __m256 e = _mm256_fmadd_ps(power, p, _mm256_sub_ps(power, _mm256_set1_ps(1.0f)));
    return _mm256_or_ps(sign, _mm256_div_ps(e, _mm256_add_ps(e, _mm256_set1_ps(2.0f))));
}

}  // namespace

void tanh_values(const float * x, float * result, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(result + i, tanh8(_mm256_loadu_ps(x + i)));
    }
    if (i < n) {
        float rest[8] = {};
        std::copy(x + i, x + n, rest);
        _mm256_storeu_ps(rest, tanh8(_mm256_loadu_ps(rest)));
        std::copy(rest, rest + (n - i), result + i);
    }
}

}  // namespace pmtp::rows

#endif  // PMTP_SIMD

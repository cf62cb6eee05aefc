// Exponentials of whole vectors. x = n ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^n e^r, and e^r is a polynomial.
#pragma once

#include "kernels/cpu/simd.h"

#include <initializer_list>

namespace pmtp::cpu {

constexpr float kLog2E = 1.44269504f;
// ln 2 in two parts, the first with trailing zeros: n times it is exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// e^x for x <= 0, to 2 units in the last place; 0 below -87. (The polynomial is that of Cephes' expf.)
PMTP_INLINE Float exp_nonpositive(Float x) {
    const Float zero{};
    const Int32 is_zero = x < zero - 87.0f;
    const Float y = is_zero ? zero : x;
    const Float shifted = y * kLog2E + 12582912.0f;  // the integer nearest to x / ln 2, in the low bits
    const Float n = shifted - 12582912.0f;
    const Float r = (y - n * kLn2High) - n * kLn2Low;
    Float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    // The constant's own bits leave at the top.
    const Float e = float_of(bits_of(p) + (bits_of(shifted) << 23));
    return is_zero ? zero : e;
}

#ifdef PMTP_SIMD
// e^x - 1 for 0 <= x <= 88, with the relative precision of x near 0; NaN for NaN. The series of e^r - 1 to r^7 is exact
// to 2e-8.
PMTP_INLINE Float exp_minus_one(Float x) {
    const Float n = round_to_integers(x * kLog2E);
    const Float r = fnma(n, broadcast(kLn2Low), fnma(n, broadcast(kLn2High), x));
    Float p = broadcast(1.0f / 5040);
    for (const float coefficient : { 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f }) {
        p = fma(p, r, broadcast(coefficient));
    }
    p = fma(r * r, p, r);
    const Float power = float_of((to_int(n) + 127) << 23);
    return fma(power, p, power - 1.0f);
}
#endif

}  // namespace pmtp::cpu

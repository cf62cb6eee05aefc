// The noise of noise.h on a device, in single precision.
#pragma once

#include "sampling/noise.h"

// -log(-log(u)) of a token's uniform number u. Where u is close to 1 the small 1 - u is what counts. Error below 1e-5.
__device__ __forceinline__ float device_gumbel(uint64_t bits) {
    const uint64_t u = bits >> 12;
    // 2^-52
    constexpr float kStep = 1.0f / 4503599627370496.0f;
    const float above = ((float) (4503599627370495ull - u) + 0.5f) * kStep;
    const float exponential = above < 0.25f ? -log1pf(-above) : -logf(((float) u + 0.5f) * kStep);
    return -logf(exponential);
}

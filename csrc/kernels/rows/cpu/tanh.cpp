#include "kernels/rows/cpu/tanh.h"

#include "kernels/cpu/exp.h"
#include "kernels/cpu/simd.h"

#include <algorithm>

#ifdef PMTP_SIMD

namespace pmtp::rows {
namespace {

using namespace cpu;

// tanh |x| = e / (e + 2) with e = e^(2 |x|) - 1, which keeps its relative precision near 0.
Float tanh_lanes(Float x) {
    const Int32 sign = bits_of(x) & INT32_MIN;
    const Float magnitude = float_of(bits_of(x) & INT32_MAX);
    const Float twice = magnitude + magnitude;
    // tanh(10) rounds to 1. The order of the operands lets a NaN through.
    const Float e = exp_minus_one(broadcast(20.0f) < twice ? broadcast(20.0f) : twice);
    return float_of(bits_of(e / (e + 2.0f)) | sign);
}

}  // namespace

void tanh_values(const float * x, float * result, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        store(result + i, tanh_lanes(load_floats(x + i)));
    }
    if (i < n) {
        float rest[kLanes] = {};
        std::copy(x + i, x + n, rest);
        store(rest, tanh_lanes(load_floats(rest)));
        std::copy(rest, rest + (n - i), result + i);
    }
}

}  // namespace pmtp::rows

#endif  // PMTP_SIMD

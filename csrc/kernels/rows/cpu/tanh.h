// The hyperbolic tangent of many values.
#pragma once

#include <cstdint>

namespace pmtp::rows {

// result[i] = tanh(x[i]) to 2e-7 of it; result may be x. A value does not depend on its place. Not defined without
// PMTP_SIMD (kernels/cpu/simd.h).
void tanh_values(const float * x, float * result, int64_t n);

}  // namespace pmtp::rows

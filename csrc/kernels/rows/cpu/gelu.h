// GELU of many values, each times its gate, as ggml has it: looked up by the value's nearest f16 number.
#pragma once

#include <cstdint>

namespace pmtp::rows {

// result[i] = gelu(x[i]) * gate[i] with the bits of ggml_vec_geglu_f32. table: of all 65536 f16 numbers, 4-byte
// aligned. Not defined without PMTP_SIMD (kernels/cpu/simd.h).
void gelu_gated(const float * x, const float * gate, float * result, int64_t n, const uint16_t * table);

}  // namespace pmtp::rows

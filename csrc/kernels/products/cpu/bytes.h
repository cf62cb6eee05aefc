// Weights of signed bytes where a weight row has a 32-bit lane (blocks_8x8.h, q8_0.cpp): with VNNI as unsigned ones,
// 128 more, whose products with activations are corrected by Coding::wide_zero_point.
#pragma once

#include "kernels/cpu/simd.h"

namespace pmtp::products {

using namespace cpu;

#ifdef PMTP_SIMD_VNNI

constexpr int kByteOffset = 128;

using ByteDots = NibbleDots;

PMTP_INLINE Int byte_start(int32_t correction) { return broadcast32(correction); }

#else

constexpr int kByteOffset = 0;

// |w| * (x with w's sign): two of these products fit 16 bits.
class ByteDots {
  public:
    PMTP_INLINE void begin(Int start) { sum_ = start; }
    PMTP_INLINE void add(Int w, Int x) { sum_ = dot(sum_, absolute8(w), signed8(x, w)); }
    PMTP_INLINE void add_quad(Int w, const int8_t * x) { add(w, broadcast32(load_as<int32_t>(x))); }
    PMTP_INLINE Int total() const { return sum_; }

  private:
    Int sum_;
};

PMTP_INLINE Int byte_start(int32_t) { return zero(); }

#endif

}  // namespace pmtp::products

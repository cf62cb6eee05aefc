// The codebook of IQ4_NL and IQ4_XS.
#pragma once

#include "kernels/cpu/simd.h"

namespace pmtp::cpu {

#ifdef PMTP_SIMD
// The values that nibbles stand for, plus `Offset`, in bytes.
template <int Offset> PMTP_INLINE __m128i iq4_codebook() {
    return _mm_setr_epi8((char) (-127 + Offset), (char) (-104 + Offset), (char) (-83 + Offset), (char) (-65 + Offset),
                         (char) (-49 + Offset), (char) (-35 + Offset), (char) (-22 + Offset), (char) (-10 + Offset),
                         (char) (1 + Offset), (char) (13 + Offset), (char) (25 + Offset), (char) (38 + Offset),
                         (char) (53 + Offset), (char) (69 + Offset), (char) (89 + Offset), (char) (113 + Offset));
}
#endif

}  // namespace pmtp::cpu

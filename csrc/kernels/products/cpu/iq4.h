// The codebook of IQ4_NL and IQ4_XS.
#pragma once

#include "kernels/cpu/simd.h"

namespace pmtp::products {

using namespace cpu;

// Nibbles to the values they stand for, plus `offset` in bytes.
template <int Offset> PMTP_INLINE Int iq4_values(Int nibbles) {
    const __m128i codebook =
        _mm_setr_epi8((char) (-127 + Offset), (char) (-104 + Offset), (char) (-83 + Offset), (char) (-65 + Offset),
                      (char) (-49 + Offset), (char) (-35 + Offset), (char) (-22 + Offset), (char) (-10 + Offset),
                      (char) (1 + Offset), (char) (13 + Offset), (char) (25 + Offset), (char) (38 + Offset),
                      (char) (53 + Offset), (char) (69 + Offset), (char) (89 + Offset), (char) (113 + Offset));
#if PMTP_SIMD == 64
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codebook), nibbles);
#else
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codebook), nibbles);
#endif
}

}  // namespace pmtp::products

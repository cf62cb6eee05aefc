// Vectors of IQ4_NL's and IQ4_XS's values.
#pragma once

#include "kernels/cpu/iq4.h"

namespace pmtp::products {

using namespace cpu;

// Nibbles to the values they stand for, plus `Offset`, in bytes.
template <int Offset> PMTP_INLINE Int iq4_values(Int nibbles) {
#if PMTP_SIMD == 64
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(iq4_codebook<Offset>()), nibbles);
#else
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(iq4_codebook<Offset>()), nibbles);
#endif
}

}  // namespace pmtp::products

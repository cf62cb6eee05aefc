// The fifth bits of Q5_0 and Q5_1: 32 of a block, in the order of the values.
#pragma once

#include "kernels/products/cpu/blocks.h"

namespace pmtp::products {

// kAdded in each byte, of 4 bits, whose own bit of `a` is set, or, if not kSet, is not; where a vector holds two blocks
// the second half's bits are those of b.
#if PMTP_SIMD == 64
template <bool kSet, int kAdded> PMTP_INLINE Int add_where(Int values, const uint8_t * a, const uint8_t * b) {
    const uint64_t bits = load_as<uint32_t>(a) | (uint64_t) load_as<uint32_t>(b) << 32;
    return _mm512_mask_add_epi8(values, (__mmask64) (kSet ? bits : ~bits), values, broadcast8(kAdded));
}
#else
template <bool kSet, int kAdded> PMTP_INLINE Int add_where(Int values, const uint8_t * a, const uint8_t *) {
    const Int bytes =
        _mm256_shuffle_epi8(broadcast32((int) load_as<uint32_t>(a)),
                            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const Int bit = _mm256_set1_epi64x((long long) 0x8040201008040201);
    const Int is_set = _mm256_cmpeq_epi8(and_bits(bytes, bit), bit);
    const Int added = broadcast8(kAdded);
    return or_bits(values, kSet ? and_bits(is_set, added) : _mm256_andnot_si256(is_set, added));
}
#endif

}  // namespace pmtp::products

// Q5_0 in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"

namespace pmtp::products {
namespace {

// value = d * (q - 16), q of 5 bits: those of `high` are in the order of the values.
struct Q5_0 {
    struct Block {
        uint16_t d;
        uint8_t high[4];
        uint8_t low[16];
    };

    PMTP_INLINE static Int decode(const Block & a, const Block & b) {
        const Int low = nibbles(a.low, b.low);
#if PMTP_SIMD == 64
        const uint64_t high = load_as<uint32_t>(a.high) | (uint64_t) load_as<uint32_t>(b.high) << 32;
        return _mm512_mask_sub_epi8(low, (__mmask64) ~high, low, broadcast8(16));
#else
        // Every byte's own bit of `high`.
        const Int bytes =
            _mm256_shuffle_epi8(broadcast32((int) load_as<uint32_t>(a.high)),
                                _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
        const Int bit = _mm256_set1_epi64x((long long) 0x8040201008040201);
        const Int is_set = _mm256_cmpeq_epi8(and_bits(bytes, bit), bit);
        return or_bits(low, _mm256_andnot_si256(is_set, broadcast8(0xf0)));  // 0xf0 is -16
#endif
    }
};
static_assert(sizeof(Q5_0::Block) == 22, "ggml's block_q5_0");

}  // namespace

void q5_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfBlocks<Q5_0>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

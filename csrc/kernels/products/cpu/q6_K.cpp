// Q6_K in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/super_blocks.h"

namespace pmtp::products {
namespace {

// value = d * scale * (q - 32), q of 6 bits.
struct Q6_K {
    struct Block {
        uint8_t low[2][64];
        uint8_t high[2][32];
        int8_t scales[16];
        uint16_t d;
    };

    static constexpr bool kHasMins = false;

    // Of a half block (128 values), byte l of `low` holds the low bits of value l and of value l + 64, and byte l % 32
    // of `high` the high bits of values l, l + 32, l + 64 and l + 96.
    PMTP_INLINE static Int decode(const Block & block, int v) {
        constexpr int kOfHalf = 128 / kBytes;
        const int half = v / kOfHalf, quarter = v % kOfHalf * kBytes / 32;
        const Int low = load(block.low[half] + v % kOfHalf * kBytes % 64);
        const Int high = shifted_twice(block.high[half], 2 * quarter - 4, 2 * quarter - 2);
        return or_bits(quarter < 2 ? and_bits(low, broadcast8(0x0f)) : high_nibbles(low),
                       and_bits(high, broadcast8(0x30)));
    }
    PMTP_INLINE static __m256i scales(const Block & block) {
        return _mm256_cvtepi8_epi16(load_as<__m128i>(block.scales));
    }
    PMTP_INLINE static __m256i offsets(const Block &, __m256i scales) {
        return _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(scales, 5));
    }
};
static_assert(sizeof(Q6_K::Block) == 210, "ggml's block_q6_K");

}  // namespace

void q6_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfSuperBlocks<Q6_K>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

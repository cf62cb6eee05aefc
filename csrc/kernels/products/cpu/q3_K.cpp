// Q3_K in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/super_blocks.h"

namespace pmtp::products {
namespace {

// value = d * scale * (q - 4), q of 3 bits, scales of 6 bits less 32.
struct Q3_K {
    struct Block {
        uint8_t high[32];
        uint8_t low[2][32];
        uint8_t scales[12];
        uint16_t d;
    };

    static constexpr bool kHasMins = false;

    // Byte l of `low` holds the low bits of values l, l + 32, l + 64 and l + 96 of a half block, byte l of `high` the
    // high bits of values l, l + 32, ..., l + 224 of the block.
    PMTP_INLINE static Int decode(const Block & block, int v) {
        constexpr int kOfHalf = 128 / kBytes;
        const int eighth = v * kBytes / 32, quarter = eighth % 4;
        const Int low = shifted_twice(block.low[v / kOfHalf], 2 * quarter, 2 * quarter + 2);
        return add_where_set<4>(and_bits(low, broadcast8(3)), block.high, eighth, eighth + 1);
    }
    // Four words: their nibbles hold the low bits of scales 0-3, 4-7, and 8-11, 12-15 above them; the third word has
    // the high bits of all.
    PMTP_INLINE static __m256i scales(const Block & block) {
        const __m128i words = _mm_cvtsi64_si128(load_as<long long>(block.scales));
        const __m128i low = _mm_unpacklo_epi64(words, _mm_srli_epi16(words, 4));
        const __m128i high = _mm_srlv_epi32(_mm_set1_epi32(load_as<int>(block.scales + 8)), _mm_setr_epi32(0, 2, 4, 6));
        const __m128i scales = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(0x0f)),
                                            _mm_slli_epi16(_mm_and_si128(high, _mm_set1_epi8(3)), 4));
        return _mm256_cvtepi8_epi16(_mm_sub_epi8(scales, _mm_set1_epi8(32)));
    }
    PMTP_INLINE static __m256i offsets(const Block &, __m256i scales) {
        return _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(scales, 2));
    }
};
static_assert(sizeof(Q3_K::Block) == 110, "ggml's block_q3_K");

}  // namespace

void q3_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfSuperBlocks<Q3_K>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

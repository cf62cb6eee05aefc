// Q5_K in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/super_blocks.h"

namespace pmtp::products {
namespace {

// value = d * scale * q - dmin * min, q of 5 bits; scales and mins, of 6 bits, are those of 32 values.
struct Q5_K {
    struct Block {
        uint16_t d, dmin;
        uint8_t scales[12];
        uint8_t high[32];
        uint8_t low[4][32];
    };

    static constexpr bool kHasMins = true;

    // Byte l of low[i] holds the low bits of values l and l + 32 of a quarter of the block, byte l of `high` the high
    // bits of values l, l + 32, ..., l + 224.
    PMTP_INLINE static Int decode(const Block & block, int v) {
        const int eighth = v * kBytes / 32, shift = 4 * (eighth % 2);
        const Int low = shifted_twice(block.low[eighth / 2], shift, shift + 4);
        return add_where_set<16>(and_bits(low, broadcast8(0x0f)), block.high, eighth, eighth + 1);
    }
    PMTP_INLINE static __m256i scales(const Block & block) { return twice(unpack(block.scales, 0)); }
    PMTP_INLINE static __m256i offsets(const Block & block, __m256i) {
        return _mm256_sub_epi16(_mm256_setzero_si256(), twice(unpack(block.scales, 4)));
    }

  private:
    // Eight scales (first = 0) or mins (4): the low six bits of four bytes, then nibbles of the last four bytes under
    // the high bits of those four.
    PMTP_INLINE static uint64_t unpack(const uint8_t * packed, int first) {
        const uint32_t bytes = load_as<uint32_t>(packed + first), nibbles = load_as<uint32_t>(packed + 8) >> first;
        return (bytes & 0x3f3f3f3f) | (uint64_t) ((nibbles & 0x0f0f0f0f) | ((bytes >> 2) & 0x30303030)) << 32;
    }
    PMTP_INLINE static __m256i twice(uint64_t bytes) {
        const __m128i x = _mm_cvtsi64_si128((long long) bytes);
        return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, x));
    }
};
static_assert(sizeof(Q5_K::Block) == 176, "ggml's block_q5_K");

}  // namespace

void q5_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfSuperBlocks<Q5_K>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

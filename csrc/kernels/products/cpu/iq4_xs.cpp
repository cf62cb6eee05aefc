// IQ4_XS in ggml's layout: a vector holds successive values of one weight row, whose lanes are added once, at the end.
// Four products of two bytes each are too large for the whole numbers of super_blocks.h, so that scales are floats.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"
#include "kernels/products/cpu/iq4.h"

namespace pmtp::products {
namespace {

// Eight sub-blocks of 32 values: value = d * (scale - 32) * codebook[nibble], scales of 6 bits.
struct BlockIQ4_XS {
    uint16_t d;
    uint8_t scales_high[2];
    uint8_t scales_low[4];
    uint8_t packed[8][16];
};
static_assert(sizeof(BlockIQ4_XS) == 136, "ggml's block_iq4_xs");

// Weights as bytes, and their products with activations. With VNNI they are unsigned and 128 too large, which
// `kOffset` times the sums of the activations makes good.
#ifdef PMTP_SIMD_VNNI
constexpr int kOffset = -128;
PMTP_INLINE Int weights_of(Int nibbles) { return iq4_values<128>(nibbles); }
PMTP_INLINE Int products_of(Int w, Int x) { return dot(zero(), w, x); }
#else
constexpr int kOffset = 0;
PMTP_INLINE Int weights_of(Int nibbles) { return iq4_values<0>(nibbles); }
PMTP_INLINE Int products_of(Int w, Int x) { return dot(zero(), absolute8(w), signed8(x, w)); }
#endif

// Of the lanes of vector v.
#if PMTP_SIMD == 64
PMTP_INLINE Float scales_of_vector(__m256 scales, int v) {
    const __m512i lanes = _mm512_mask_blend_epi32(0xff00, broadcast32(2 * v), broadcast32(2 * v + 1));
    return _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(scales));
}
PMTP_INLINE Float first_lanes(__m128i x) { return _mm512_zextps128_ps512(_mm_cvtepi32_ps(x)); }
#else
PMTP_INLINE Float scales_of_vector(__m256 scales, int v) { return _mm256_permutevar8x32_ps(scales, broadcast32(v)); }
PMTP_INLINE Float first_lanes(__m128i x) { return _mm256_zextps128_ps256(_mm_cvtepi32_ps(x)); }
#endif

PMTP_INLINE __m256i scales_of(const BlockIQ4_XS & block) {
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(load_as<int>(block.scales_low)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_as<uint16_t>(block.scales_high)),
                                           _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i scales = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(0x0f)),
                                           _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    return _mm256_sub_epi32(scales, _mm256_set1_epi32(32));
}

struct StripIQ4_XS {
    static constexpr int kColumns = 1;
    static constexpr int kVectors = 1;
    static constexpr int kOfBlock = 256 / kBytes;
    static int64_t bytes(int64_t n_in) { return n_in / 256 * (int64_t) sizeof(BlockIQ4_XS); }

    struct Decoded {
        Int w[kOfBlock];
        Float scales[kOfBlock];
        __m128i offsets;
        Float d;
    };

    StripIQ4_XS(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 256),
          blocks((const BlockIQ4_XS *) weights + column * n_records),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        const BlockIQ4_XS & block = blocks[r];
        fetch_ahead<sizeof(block), 2048>(&block);
        const __m256i scales = scales_of(block);
        const __m256 of_sub_blocks = _mm256_cvtepi32_ps(scales);
        Decoded d;
        for (int v = 0; v < kOfBlock; v++) {
            const int first = v * kBytes / 32;
            d.w[v] = weights_of(nibbles(block.packed[first], block.packed[first + kSpan - 1]));
            d.scales[v] = scales_of_vector(of_sub_blocks, v);
        }
        const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(scales), _mm256_extracti128_si256(scales, 1));
        d.offsets = _mm_mullo_epi16(_mm_set1_epi16(kOffset), narrow);
        d.d = broadcast(half_to_float(block.d));
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const char * x = (const char *) tile.values + (r * N + n) * 256;
            const __m128i sums32 = load_as<__m128i>(tile.sums32 + (r * N + n) * 8);
            // Whole numbers, most of them below 2^24.
            Float dots = kOffset != 0 ? first_lanes(_mm_madd_epi16(d.offsets, sums32)) : zero_float();
            PMTP_UNROLL
            for (int v = 0; v < kOfBlock; v++) {
                dots = fma(to_float(products_of(d.w[v], load(x + v * kBytes))), d.scales[v], dots);
            }
            sums[0][n] = fma(dots, d.d * broadcast(tile.scales[r * N + n]), sums[0][n]);
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[1][N], const Tile & tile) const {
        store_totals(sums, tile, column);
    }

    const int64_t n_records;
    const BlockIQ4_XS * const blocks;
    const int64_t column;
};

struct Strips {
    template <int N> struct Of {
        using Wide = StripIQ4_XS;
        using Narrow = StripIQ4_XS;
    };
};

}  // namespace

void iq4_xs(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

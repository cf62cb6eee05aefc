// Q6_K in ggml's layout: a vector holds successive values of one weight row, whose lanes are added once, at the end.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/pass.h"

namespace pmtp::products {
namespace {

// 16 sub-blocks of 16 values: value = d * scale * (q - 32), q of 6 bits.
struct BlockQ6_K {
    uint8_t low[2][64];
    uint8_t high[2][32];
    int8_t scales[16];
    uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210, "ggml's block_q6_K");

constexpr int kVectorsOfBlock = 256 / kBytes;

// Values kBytes * v .. of a block as unsigned bytes. Of a half block (128 values), byte l
// of `low` holds the low bits of value l and of value l + 64, and byte l % 32 of `high` the high bits of values l, l +
// 32, l + 64 and l + 96. And the scales of each lane of vectors a and b, in its lower and upper half.
#if PMTP_SIMD == 64
PMTP_INLINE Int decode_q6_K(const BlockQ6_K & block, int v) {
    const Int low = load(block.low[v / 2]);
    const Int high = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) block.high[v / 2]));
    const __m512i shifts = _mm512_mask_blend_epi32(0xff00, _mm512_set1_epi16(v % 2 == 0 ? 4 : 0), _mm512_set1_epi16(2));
    const Int shifted = v % 2 == 0 ? _mm512_sllv_epi16(high, shifts) : _mm512_srlv_epi16(high, shifts);
    return or_bits(v % 2 == 0 ? and_bits(low, broadcast8(0x0f)) : high_nibbles(low),
                   and_bits(shifted, broadcast8(0x30)));
}
PMTP_INLINE Int lane_scales(__m256i scales, int a, int b) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x20002, 0x20002, 0x20002,
                                            0x20002, 0x30003, 0x30003, 0x30003, 0x30003);
    return _mm512_permutexvar_epi16(_mm512_add_epi32(lanes, _mm512_set1_epi32(4 * b << 16 | 4 * a)),
                                    _mm512_castsi256_si512(scales));
}
PMTP_INLINE Int zero_point(__m256i scales, __m256i sums) {
    return _mm512_zextsi256_si512(_mm256_madd_epi16(scales, sums));
}
#else
PMTP_INLINE Int decode_q6_K(const BlockQ6_K & block, int v) {
    const Int low = load(block.low[v / 4] + v % 2 * 32);
    const Int high = load(block.high[v / 4]);
    const Int shifted = v % 4 == 0   ? _mm256_slli_epi16(high, 4)
                        : v % 4 == 1 ? _mm256_slli_epi16(high, 2)
                        : v % 4 == 2 ? high
                                     : _mm256_srli_epi16(high, 2);
    return or_bits(v % 4 < 2 ? and_bits(low, broadcast8(0x0f)) : high_nibbles(low),
                   and_bits(shifted, broadcast8(0x30)));
}
PMTP_INLINE Int lane_scales(__m256i scales, int a, int b) {
    int16_t s[16];
    _mm256_storeu_si256((__m256i *) s, scales);
    const auto pair = [&](int i) { return _mm_set1_epi32((uint16_t) s[2 * a + i] | (uint32_t) s[2 * b + i] << 16); };
    return _mm256_set_m128i(pair(1), pair(0));
}
PMTP_INLINE Int zero_point(__m256i scales, __m256i sums) { return _mm256_madd_epi16(scales, sums); }
#endif

template <int C> struct StripQ6_K {
    static constexpr int kColumns = C;
    static constexpr int kVectors = C;
    static int64_t bytes(int64_t n_in) { return C * n_in / 256 * (int64_t) sizeof(BlockQ6_K); }

    struct Decoded {
        Int w[C][kVectorsOfBlock];
#ifdef PMTP_SIMD_VNNI
        Int scales[C][kVectorsOfBlock / 2];  // of two vectors each, the second's in the upper halves
#else
        Int scales[C][kVectorsOfBlock];  // in both halves
#endif
        __m256i offset[C];  // -32 * scale
        float d[C];
    };

    StripQ6_K(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 256),
          blocks((const BlockQ6_K *) weights + column * n_records),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        Decoded d;
        for (int c = 0; c < C; c++) {
            const BlockQ6_K & block = blocks[c * n_records + r];
            fetch_ahead<sizeof(block), 2048>(&block);
            const __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) block.scales));
            for (int v = 0; v < kVectorsOfBlock; v++) {
                d.w[c][v] = decode_q6_K(block, v);
#ifdef PMTP_SIMD_VNNI
                if (v % 2 == 0) {
                    d.scales[c][v / 2] = lane_scales(scales, v, v + 1);
                }
#else
                d.scales[c][v] = lane_scales(scales, v, v);
#endif
            }
            d.offset[c] = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(scales, 5));
            d.d[c] = half_to_float(block.d);
        }
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[C][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const char * x = (const char *) tile.values + (r * N + n) * 256;
            const __m256i sums16 = _mm256_loadu_si256((const __m256i *) (tile.sums16 + (r * N + n) * 16));
            const float scale = tile.scales[r * N + n];
            PMTP_UNROLL
            for (int c = 0; c < C; c++) {
                Int dots = zero_point(d.offset[c], sums16);
#ifdef PMTP_SIMD_VNNI  // a lane's 4 products of 63 and 127 fit 16 bits
                PMTP_UNROLL
                for (int v = 0; v < kVectorsOfBlock; v += 2) {
                    const Int a = dot(zero(), d.w[c][v], load(x + v * kBytes));
                    const Int b = dot(zero(), d.w[c][v + 1], load(x + (v + 1) * kBytes));
                    dots = dot16(dots, low_halves(a, b), d.scales[c][v / 2]);
                }
#else
                PMTP_UNROLL
                for (int v = 0; v < kVectorsOfBlock; v++) {
                    dots = dot16(dots, pairs16(d.w[c][v], load(x + v * kBytes)), d.scales[c][v]);
                }
#endif
                sums[c][n] = fma(to_float(dots), broadcast(d.d[c] * scale), sums[c][n]);
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[C][N], const Tile & tile) const {
        store_totals(sums, tile, column);
    }

    const int64_t n_records;
    const BlockQ6_K * const blocks;
    const int64_t column;
};

struct Strips {
    template <int N> struct Of {
        using Wide = StripQ6_K<(kBytes == 64 && N > 4) ? 2 : 1>;
        using Narrow = StripQ6_K<1>;
    };
};

}  // namespace

void q6_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

// Weights in ggml's plain layouts: a vector holds successive values of one weight row, whose lanes are added once, at
// the end.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <cstddef>

#ifdef PMTP_SIMD

namespace pmtp::products {
namespace {

using namespace cpu;

struct BlockQ8_0 {
    uint16_t d;
    int8_t values[32];
};
static_assert(sizeof(BlockQ8_0) == 34, "ggml's block_q8_0");

// Blocks of 32 values in a vector.
constexpr int kSpan = kBytes / 32;

// Two signed bytes are multiplied as an unsigned and a signed one. With VNNI: (x + 128) * w, the sum starting at -128 *
// w. Without: |w| * (x with w's sign), because x + 128 would overflow the 16-bit sums.
struct SignedWeights {
    Int values;
    Int start;
};

#ifdef PMTP_SIMD_VNNI
inline SignedWeights signed_weights(Int w) { return { w, sub32(zero(), dot(zero(), broadcast8(0x80), w)) }; }
inline Int signed_activations(const int8_t * x) { return xor_bits(load(x), broadcast8(0x80)); }
inline Int signed_dot(const SignedWeights & w, Int x) { return dot(w.start, x, w.values); }
#else
inline SignedWeights signed_weights(Int w) { return { w, absolute8(w) }; }
inline Int signed_activations(const int8_t * x) { return load(x); }
inline Int signed_dot(const SignedWeights & w, Int x) { return dot(zero(), w.start, signed8(x, w.values)); }
#endif

#if PMTP_SIMD == 64
inline Float spread(float a, float b) { return _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(a), _mm512_set1_ps(b)); }
inline Float spread_scales(const float * scales) { return spread(scales[0], scales[1]); }
inline void load_q8_0(const BlockQ8_0 * block, bool whole, Int & w, Float & scale) {
    w = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *) block[0].values));
    if (whole) {
        w = _mm512_inserti64x4(w, _mm256_loadu_si256((const __m256i *) block[1].values), 1);
    }
    scale = spread(half_to_float(block[0].d), whole ? half_to_float(block[1].d) : 0.0f);
}
#else
inline Float spread_scales(const float * scales) { return broadcast(scales[0]); }
inline void load_q8_0(const BlockQ8_0 * block, bool, Int & w, Float & scale) {
    w = load(block->values);
    scale = broadcast(half_to_float(block->d));
}
#endif

template <int C, int N>
void q8_0_columns(const BlockQ8_0 * weights, int64_t n_blocks, const Row * rows, int64_t column) {
    // One column follows the other; of several at a time each is fetched for the next group.
    const int64_t ahead = C == 1 ? 2048 : C * n_blocks * (int64_t) sizeof(BlockQ8_0);
    Float sums[C][N];
    for (auto & group : sums) {
        for (Float & sum : group) {
            sum = zero_float();
        }
    }
    for (int64_t b = 0; b < n_blocks; b += kSpan) {
        SignedWeights w[C];
        Float scale[C];
        for (int c = 0; c < C; c++) {
            Int values;
            fetch_ahead<kSpan * sizeof(BlockQ8_0), 0>((const char *) (weights + c * n_blocks + b) + ahead);
            load_q8_0(weights + c * n_blocks + b, b + kSpan <= n_blocks, values, scale[c]);
            w[c] = signed_weights(values);
        }
        for (int n = 0; n < N; n++) {
            const Int x = signed_activations(rows[n].values + b * 32);
            const Float d = spread_scales(rows[n].scales + b);
            for (int c = 0; c < C; c++) {
                sums[c][n] = fma(to_float(signed_dot(w[c], x)), scale[c] * d, sums[c][n]);
            }
        }
    }
    for (int c = 0; c < C; c++) {
        for (int n = 0; n < N; n++) {
            rows[n].result[column + c] = total(sums[c][n]);
        }
    }
}

template <int N> void q8_0_rows(const void * weights, int64_t n_in, const Row * rows, int64_t first, int64_t last) {
    const int64_t n_blocks = n_in / 32;
    const BlockQ8_0 * blocks = (const BlockQ8_0 *) weights;
    constexpr int kGroup = kBytes == 64 ? (N == 1   ? 1
                                           : N <= 4 ? 4
                                                    : 2)
                                        : (N == 1 || N > 4 ? 1 : 2);  // as many columns as there are registers
    int64_t column = first;
    for (; column + kGroup <= last; column += kGroup) {
        q8_0_columns<kGroup, N>(blocks + column * n_blocks, n_blocks, rows, column);
    }
    for (; column < last; column++) {
        q8_0_columns<1, N>(blocks + column * n_blocks, n_blocks, rows, column);
    }
}

// 16 sub-blocks of 16 values: value = d * scale * (q - 32), q of 6 bits.
struct BlockQ6_K {
    uint8_t low[2][64];
    uint8_t high[2][32];
    int8_t scales[16];
    uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210, "ggml's block_q6_K");

constexpr int kVectors = 256 / kBytes;

// Values kBytes * v .. of a block as unsigned bytes, and the scale of each lane. Of a half block (128 values), byte l
// of `low` holds the low bits of value l and of value l + 64, and byte l % 32 of `high` the high bits of values l, l +
// 32, l + 64 and l + 96.
#if PMTP_SIMD == 64
inline Int decode_q6_K(const BlockQ6_K & block, int v) {
    const Int low = load(block.low[v / 2]);
    const Int high = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) block.high[v / 2]));
    const __m512i shifts = _mm512_mask_blend_epi32(0xff00, _mm512_set1_epi16(v % 2 == 0 ? 4 : 0), _mm512_set1_epi16(2));
    const Int shifted = v % 2 == 0 ? _mm512_sllv_epi16(high, shifts) : _mm512_srlv_epi16(high, shifts);
    return or_bits(v % 2 == 0 ? and_bits(low, broadcast8(0x0f)) : high_nibbles(low),
                   and_bits(shifted, broadcast8(0x30)));
}
inline Int lane_scales(const BlockQ6_K & block, int v) {
    const __m512i scales = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) block.scales));
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(4 * v)), scales);
}
inline Int zero_point(__m256i scales, __m256i sums) { return _mm512_zextsi256_si512(_mm256_madd_epi16(scales, sums)); }
#else
inline Int decode_q6_K(const BlockQ6_K & block, int v) {
    const Int low = load(block.low[v / 4] + v % 2 * 32);
    const Int high = load(block.high[v / 4]);
    const Int shifted = v % 4 == 0   ? _mm256_slli_epi16(high, 4)
                        : v % 4 == 1 ? _mm256_slli_epi16(high, 2)
                        : v % 4 == 2 ? high
                                     : _mm256_srli_epi16(high, 2);
    return or_bits(v % 4 < 2 ? and_bits(low, broadcast8(0x0f)) : high_nibbles(low),
                   and_bits(shifted, broadcast8(0x30)));
}
inline Int lane_scales(const BlockQ6_K & block, int v) {
    return _mm256_set_m128i(_mm_set1_epi32(block.scales[2 * v + 1]), _mm_set1_epi32(block.scales[2 * v]));
}
inline Int zero_point(__m256i scales, __m256i sums) { return _mm256_madd_epi16(scales, sums); }
#endif

template <int N> void q6_K_column(const BlockQ6_K * weights, int64_t n_blocks, const Row * rows, int64_t column) {
    Float sums[N];
    for (Float & sum : sums) {
        sum = zero_float();
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        const BlockQ6_K & block = weights[b];
        fetch_ahead<sizeof(block), 2048>(&block);
        const __m256i scales16 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) block.scales));
        const __m256i offset = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(scales16, 5));  // -32 * scale
        Int dots[N];
        for (int n = 0; n < N; n++) {
            dots[n] = zero_point(offset, _mm256_loadu_si256((const __m256i *) (rows[n].sums16 + b * 16)));
        }
        for (int v = 0; v < kVectors; v++) {
            const Int w = decode_q6_K(block, v);
            const Int scale = lane_scales(block, v);
            for (int n = 0; n < N; n++) {
                const Int x = load(rows[n].values + b * 256 + v * kBytes);
                dots[n] = add32(dots[n], mul32(dot(zero(), w, x), scale));
            }
        }
        const float d = half_to_float(block.d);
        for (int n = 0; n < N; n++) {
            sums[n] = fma(to_float(dots[n]), broadcast(d * rows[n].scales[b]), sums[n]);
        }
    }
    for (int n = 0; n < N; n++) {
        rows[n].result[column] = total(sums[n]);
    }
}

template <int N> void q6_K_rows(const void * weights, int64_t n_in, const Row * rows, int64_t first, int64_t last) {
    const int64_t n_blocks = n_in / 256;
    for (int64_t column = first; column < last; column++) {
        q6_K_column<N>((const BlockQ6_K *) weights + column * n_blocks, n_blocks, rows, column);
    }
}

}  // namespace

Kernel q8_0(int n_rows) {
    static constexpr Kernel by_rows[kMaxRows] = { q8_0_rows<1>, q8_0_rows<2>, q8_0_rows<3>, q8_0_rows<4>, q8_0_rows<5>,
                                                  q8_0_rows<6>, q8_0_rows<7>, q8_0_rows<8>, q8_0_rows<9> };
    return by_rows[n_rows - 1];
}

Kernel q6_K(int n_rows) {
    static constexpr Kernel by_rows[kMaxRows] = { q6_K_rows<1>, q6_K_rows<2>, q6_K_rows<3>, q6_K_rows<4>, q6_K_rows<5>,
                                                  q6_K_rows<6>, q6_K_rows<7>, q6_K_rows<8>, q6_K_rows<9> };
    return by_rows[n_rows - 1];
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

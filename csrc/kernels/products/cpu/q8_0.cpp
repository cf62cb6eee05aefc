// Q8_0 in ggml's layout: a vector holds successive values of one weight row, whose lanes are added once, at the end.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/pass.h"

namespace pmtp::products {
namespace {

struct BlockQ8_0 {
    uint16_t d;
    int8_t values[32];
};
static_assert(sizeof(BlockQ8_0) == 34, "ggml's block_q8_0");

// Blocks of 32 values in a vector.
constexpr int kSpan = kBytes / 32;

// Two signed bytes are multiplied as an unsigned and a signed one. With VNNI: (x + 128) * w, the sum starting at -128 *
// w; activations come with the 128. Without: |w| * (x with w's sign), because x + 128 would overflow the 16-bit sums.
struct SignedWeights {
    Int values;
    Int start;
};

#ifdef PMTP_SIMD_VNNI
inline SignedWeights signed_weights(Int w) { return { w, sub32(zero(), dot(zero(), broadcast8(0x80), w)) }; }
inline Int signed_dot(const SignedWeights & w, Int x) { return dot(w.start, x, w.values); }
#else
inline SignedWeights signed_weights(Int w) { return { w, absolute8(w) }; }
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

template <int C> struct StripQ8_0 {
    static constexpr int kColumns = C;
    static constexpr int kVectors = C;
    static int64_t bytes(int64_t n_in) { return C * n_in / 32 * (int64_t) sizeof(BlockQ8_0); }

    struct Decoded {
        SignedWeights w[C];
        Float scale[C];
    };

    StripQ8_0(const void * weights, int64_t n_in, int64_t column)
        : n_records((n_in / 32 + kSpan - 1) / kSpan),
          n_blocks(n_in / 32),
          blocks((const BlockQ8_0 *) weights + column * n_blocks),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        // One column follows the other; of several at a time each is fetched for the next group.
        const int64_t ahead = C == 1 ? 2048 : C * n_blocks * (int64_t) sizeof(BlockQ8_0);
        const int64_t b = r * kSpan;
        Decoded d;
        for (int c = 0; c < C; c++) {
            Int values;
            fetch_ahead<kSpan * sizeof(BlockQ8_0), 0>((const char *) (blocks + c * n_blocks + b) + ahead);
            load_q8_0(blocks + c * n_blocks + b, b + kSpan <= n_blocks, values, d.scale[c]);
            d.w[c] = signed_weights(values);
        }
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[C][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const Int x = load((const char *) tile.values + (r * N + n) * kBytes);
            const Float scale = spread_scales(tile.scales + (r * N + n) * kSpan);
            PMTP_UNROLL
            for (int c = 0; c < C; c++) {
                sums[c][n] = fma(to_float(signed_dot(d.w[c], x)), d.scale[c] * scale, sums[c][n]);
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[C][N], const Tile & tile) const {
        store_totals(sums, tile, column);
    }

    const int64_t n_records;
    const int64_t n_blocks;
    const BlockQ8_0 * const blocks;
    const int64_t column;
};

// As many columns as there are registers for.
struct Strips {
    template <int N> struct Of {
        using Wide = StripQ8_0<kBytes == 64 ? (N == 1 ? 1 : N <= 4 ? 4 : 2) : (N == 1 || N > 4 ? 1 : 2)>;
        using Narrow = StripQ8_0<1>;
    };
};

}  // namespace

void q8_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD

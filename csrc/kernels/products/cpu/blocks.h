// Types of blocks of 32 values under one scale, in ggml's layout: a vector holds successive values of one weight row,
// whose lanes are added once, at the end. A type has
//
//   Block              with an f16 scale `d`; if kHasMins with an f16 `min`
//   kHasMins           value = d * byte + min, otherwise d * byte
//   decode(a, b)       the signed bytes of block a, where a vector holds two blocks then those of b
#pragma once

#include "kernels/cpu/half.h"
#include "kernels/products/cpu/pass.h"

namespace pmtp::products {

// Blocks of 32 values in a vector.
constexpr int kSpan = kBytes / 32;

// The nibbles of 16 bytes as 32 values, the low ones first; where a vector has room for 64, behind them those of b.
#if PMTP_SIMD == 64
PMTP_INLINE Int nibbles(const uint8_t * a, const uint8_t * b) {
    const Int packed = _mm512_inserti64x4(_mm512_broadcast_i32x4(load_as<__m128i>(a)),
                                          _mm256_broadcastsi128_si256(load_as<__m128i>(b)), 1);
    return and_bits(_mm512_srlv_epi64(packed, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4)), broadcast8(0x0f));
}
#else
PMTP_INLINE Int nibbles(const uint8_t * a, const uint8_t *) {
    const Int packed = _mm256_broadcastsi128_si256(load_as<__m128i>(a));
    return and_bits(_mm256_srlv_epi64(packed, _mm256_setr_epi64x(0, 0, 4, 4)), broadcast8(0x0f));
}
#endif

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
inline Float spread_halves(uint16_t a, uint16_t b) { return spread(half_to_float(a), half_to_float(b)); }
#else
inline Float spread_scales(const float * scales) { return broadcast(scales[0]); }
inline Float spread_halves(uint16_t a, uint16_t) { return broadcast(half_to_float(a)); }
#endif

template <class Type, int C> struct StripOfBlocks {
    using Block = typename Type::Block;

    static constexpr int kColumns = C;
    static constexpr int kVectors = C;
    static int64_t bytes(int64_t n_in) { return C * n_in / 32 * (int64_t) sizeof(Block); }

    struct Decoded {
        SignedWeights w[C];
        Float scale[C];
        Float min[C];
    };

    StripOfBlocks(const void * weights, int64_t n_in, int64_t column)
        : n_records((n_in / 32 + kSpan - 1) / kSpan),
          n_blocks(n_in / 32),
          blocks((const Block *) weights + column * n_blocks),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        // One column follows the other; of several at a time each is fetched for the next group.
        const int64_t ahead = C == 1 ? 2048 : C * n_blocks * (int64_t) sizeof(Block);
        const int64_t b = r * kSpan;
        // A block that is not there has activations without a scale, so any will do in its place.
        const int64_t behind = b + kSpan <= n_blocks ? kSpan - 1 : 0;
        Decoded d;
        for (int c = 0; c < C; c++) {
            const Block * block = blocks + c * n_blocks + b;
            fetch_ahead<kSpan * sizeof(Block), 0>((const char *) block + ahead);
            d.scale[c] = spread_halves(block[0].d, block[behind].d);
            d.w[c] = signed_weights(Type::decode(block[0], block[behind]));
            if constexpr (Type::kHasMins) {
                d.min[c] = spread_halves(block[0].min, block[behind].min);
            }
        }
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[C][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const Int x = load((const char *) tile.values + (r * N + n) * kBytes);
            const Float scale = spread_scales(tile.scales + (r * N + n) * kSpan);
            if constexpr (Type::kHasMins) {
                const Float x_sums = to_float(signed_dot(signed_weights(broadcast8(1)), x));
                PMTP_UNROLL
                for (int c = 0; c < C; c++) {
                    const Float value = fma(x_sums, d.min[c], to_float(signed_dot(d.w[c], x)) * d.scale[c]);
                    sums[c][n] = fma(value, scale, sums[c][n]);
                }
            } else {
                PMTP_UNROLL
                for (int c = 0; c < C; c++) {
                    sums[c][n] = fma(to_float(signed_dot(d.w[c], x)), d.scale[c] * scale, sums[c][n]);
                }
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[C][N], const Tile & tile) const {
        store_totals(sums, tile, column);
    }

    const int64_t n_records;
    const int64_t n_blocks;
    const Block * const blocks;
    const int64_t column;
};

// As many columns as there are registers for.
template <class Type> constexpr int columns_beside(int n_rows) {
    if (n_rows == 1) {
        return 1;
    }
    if (kBytes == 64) {
        return n_rows <= 4 && !Type::kHasMins ? 4 : 2;
    }
    return n_rows <= 4 && !Type::kHasMins ? 2 : 1;
}

template <class Type> struct StripsOfBlocks {
    static constexpr bool kKeepsDecoded = false;
    template <int N> struct Of {
        using Wide = StripOfBlocks<Type, columns_beside<Type>(N)>;
        using Narrow = StripOfBlocks<Type, 1>;
    };
};

}  // namespace pmtp::products

// Types of blocks of 256 values whose 16 sub-blocks of 16 have whole numbers for scales, in ggml's layout: a vector
// holds successive values of one weight row, whose lanes are added once, at the end. A type has
//
//   Block             with an f16 scale `d`; if kHasMins with `dmin`
//   kHasMins          value = d * scale * q - dmin * min, otherwise d * scale * (q - zero point)
//   decode(block, v)  values kBytes * v .. as unsigned bytes
//   scales(block)     of the sub-blocks
//   offsets(..)       -min, or -zero point * scale, of the sub-blocks
#pragma once

#include "kernels/cpu/half.h"
#include "kernels/products/cpu/pass.h"

namespace pmtp::products {

constexpr int kVectorsOfBlock = 256 / kBytes;

// Scales of sub-blocks, and the scales of each lane of vectors a and b, in its lower and upper half.
#if PMTP_SIMD == 64
PMTP_INLINE Int lane_scales(__m256i scales, int a, int b) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x20002, 0x20002, 0x20002,
                                            0x20002, 0x30003, 0x30003, 0x30003, 0x30003);
    return _mm512_permutexvar_epi16(_mm512_add_epi32(lanes, _mm512_set1_epi32(4 * b << 16 | 4 * a)),
                                    _mm512_castsi256_si512(scales));
}
PMTP_INLINE Int lane_products(__m256i a, __m256i b) { return _mm512_zextsi256_si512(_mm256_madd_epi16(a, b)); }
#else
PMTP_INLINE Int lane_scales(__m256i scales, int a, int b) {
    int16_t s[16];
    _mm256_storeu_si256((__m256i *) s, scales);
    const auto pair = [&](int i) { return _mm_set1_epi32((uint16_t) s[2 * a + i] | (uint32_t) s[2 * b + i] << 16); };
    return _mm256_set_m128i(pair(1), pair(0));
}
PMTP_INLINE Int lane_products(__m256i a, __m256i b) { return _mm256_madd_epi16(a, b); }
#endif

// The 32 bytes of p, where a vector is longer twice, shifted right by a bits, the second time by b bits (left if less
// than 0). Bits of a byte cross into its neighbour.
#if PMTP_SIMD == 64
PMTP_INLINE Int shifted_twice(const uint8_t * p, int a, int b) {
    const Int bytes = _mm512_broadcast_i64x4(load_as<__m256i>(p));
    const __m512i shifts =
        _mm512_mask_blend_epi32(0xff00, _mm512_set1_epi16((short) std::abs(a)), _mm512_set1_epi16((short) std::abs(b)));
    return a < 0 ? _mm512_sllv_epi16(bytes, shifts) : _mm512_srlv_epi16(bytes, shifts);
}
// kAdded in each byte whose bit a of p is set, the second time bit b.
template <int kAdded> PMTP_INLINE Int add_where_set(Int values, const uint8_t * p, int a, int b) {
    const Int bytes = _mm512_broadcast_i64x4(load_as<__m256i>(p));
    const __m512i bits = _mm512_mask_blend_epi32(0xff00, broadcast8(1 << a), broadcast8(1 << b));
    return _mm512_mask_add_epi8(values, _mm512_test_epi8_mask(bytes, bits), values, broadcast8(kAdded));
}
#else
PMTP_INLINE Int shifted_twice(const uint8_t * p, int a, int) {
    return a < 0 ? _mm256_slli_epi16(load(p), -a) : _mm256_srli_epi16(load(p), a);
}
template <int kAdded> PMTP_INLINE Int add_where_set(Int values, const uint8_t * p, int a, int) {
    const Int bit = broadcast8(1 << a);
    return or_bits(values, and_bits(_mm256_cmpeq_epi8(and_bits(load(p), bit), bit), broadcast8(kAdded)));
}
#endif

// One weight row: more at a time gain nothing, as the activations come from the first-level cache fast enough.
template <class Type> struct StripOfSuperBlocks {
    using Block = typename Type::Block;

    static constexpr int kColumns = 1;
    static constexpr int kVectors = 1;
    static int64_t bytes(int64_t n_in) { return n_in / 256 * (int64_t) sizeof(Block); }

    struct Decoded {
        Int w[kVectorsOfBlock];
#ifdef PMTP_SIMD_VNNI
        Int scales[kVectorsOfBlock / 2];  // of two vectors each, the second's in the upper halves
#else
        Int scales[kVectorsOfBlock];  // in both halves
#endif
        __m256i offsets;
        Float d;
        Float dmin;
    };

    StripOfSuperBlocks(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 256),
          blocks((const Block *) weights + column * n_records),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        const Block & block = blocks[r];
        fetch_ahead<sizeof(block), 2048>(&block);
        const __m256i scales = Type::scales(block);
        Decoded d;
        for (int v = 0; v < kVectorsOfBlock; v++) {
            d.w[v] = Type::decode(block, v);
#ifdef PMTP_SIMD_VNNI
            if (v % 2 == 0) {
                d.scales[v / 2] = lane_scales(scales, v, v + 1);
            }
#else
            d.scales[v] = lane_scales(scales, v, v);
#endif
        }
        d.offsets = Type::offsets(block, scales);
        d.d = broadcast(half_to_float(block.d));
        if constexpr (Type::kHasMins) {
            d.dmin = broadcast(half_to_float(block.dmin));
        }
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const char * x = (const char *) tile.values + (r * N + n) * 256;
            const Int offset = lane_products(d.offsets, load_as<__m256i>(tile.sums16 + (r * N + n) * 16));
            Int dots = Type::kHasMins ? zero() : offset;
#ifdef PMTP_SIMD_VNNI  // a lane's 4 products fit 16 bits
            PMTP_UNROLL
            for (int v = 0; v < kVectorsOfBlock; v += 2) {
                const Int a = dot(zero(), d.w[v], load(x + v * kBytes));
                const Int b = dot(zero(), d.w[v + 1], load(x + (v + 1) * kBytes));
                dots = dot16(dots, low_halves(a, b), d.scales[v / 2]);
            }
#else
            PMTP_UNROLL
            for (int v = 0; v < kVectorsOfBlock; v++) {
                dots = dot16(dots, pairs16(d.w[v], load(x + v * kBytes)), d.scales[v]);
            }
#endif
            Float value = to_float(dots) * d.d;
            if constexpr (Type::kHasMins) {
                value = fma(to_float(offset), d.dmin, value);
            }
            sums[0][n] = fma(value, broadcast(tile.scales[r * N + n]), sums[0][n]);
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[1][N], const Tile & tile) const {
        store_totals(sums, tile, column);
    }

    const int64_t n_records;
    const Block * const blocks;
    const int64_t column;
};

template <class Type> struct StripsOfSuperBlocks {
    template <int N> struct Of {
        using Wide = StripOfSuperBlocks<Type>;
        using Narrow = Wide;
    };
};

}  // namespace pmtp::products

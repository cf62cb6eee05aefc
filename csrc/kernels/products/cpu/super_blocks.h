// Types of blocks of 256 values whose 16 sub-blocks of 16 have whole numbers for scales, in ggml's layout: a vector
// holds successive values of one weight row. The products of a block and an activation row are whole numbers, which are
// added up in each group of four lanes (16 bytes); floats begin there. A type has
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

// Of each group of four lanes, in two vectors that were packed into one of 16-bit numbers: the scales of the sub-blocks
// of vectors a and b. Without VNNI a and b are the same.
#if PMTP_SIMD == 64
PMTP_INLINE Int lane_scales(__m256i scales, int a, int b) {
    const __m512i groups = _mm512_setr_epi64(0, 0, 0x0001000100010001, 0x0001000100010001, 0x0002000200020002,
                                             0x0002000200020002, 0x0003000300030003, 0x0003000300030003);
    const __m512i first =
        _mm512_mask_blend_epi64(0xaa, _mm512_set1_epi16((short) (4 * a)), _mm512_set1_epi16((short) (4 * b)));
    return _mm512_permutexvar_epi16(_mm512_add_epi16(groups, first), _mm512_castsi256_si512(scales));
}
PMTP_INLINE Int lane_products(__m256i a, __m256i b) { return _mm512_zextsi256_si512(_mm256_madd_epi16(a, b)); }
#else
PMTP_INLINE Int lane_scales(__m256i scales, int a, int b) {
    int16_t s[16];
    _mm256_storeu_si256((__m256i *) s, scales);
    return _mm256_unpacklo_epi64(_mm256_set_m128i(_mm_set1_epi16(s[2 * a + 1]), _mm_set1_epi16(s[2 * a])),
                                 _mm256_set_m128i(_mm_set1_epi16(s[2 * b + 1]), _mm_set1_epi16(s[2 * b])));
}
PMTP_INLINE Int lane_products(__m256i a, __m256i b) { return _mm256_madd_epi16(a, b); }
#endif

// C f16 numbers: one in every lane, or four in each group of four lanes.
template <int C> PMTP_INLINE Float fours_of_halves(uint64_t halves) {
    if constexpr (C == 1) {
        return broadcast(half_to_float((uint16_t) halves));
    } else {
        return in_all_groups(_mm_cvtph_ps(_mm_cvtsi64_si128((long long) halves)));
    }
}

// In each group of four lanes: the sum of a's four, in all of them; of four vectors, lane c the sum of a[c]'s.
PMTP_INLINE Int add_fours(const Int (&a)[1]) {
    const Int pairs = add32(a[0], swap_pairs(a[0]));
    return add32(pairs, swap_lanes(pairs));
}
PMTP_INLINE Int add_fours(const Int (&a)[4]) {
    const Int low = add32(low_lanes(a[0], a[1]), high_lanes(a[0], a[1]));
    const Int high = add32(low_lanes(a[2], a[3]), high_lanes(a[2], a[3]));
    return add32(low_pairs(low, high), high_pairs(low, high));
}

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

// C: four weight rows, whose sums share a vector and for which an activation row is read once; or one, where no four
// are left.
template <class Type, int C> struct StripOfSuperBlocks {
    using Block = typename Type::Block;

    static constexpr int kColumns = C;
    static constexpr int kVectors = 1;
    static int64_t bytes(int64_t n_in) { return C * n_in / 256 * (int64_t) sizeof(Block); }

    struct Decoded {
        Int w[C][kVectorsOfBlock];
#ifdef PMTP_SIMD_VNNI
        Int scales[C][kVectorsOfBlock / 2];  // of two vectors each
#else
        Int scales[C][kVectorsOfBlock];
#endif
        __m256i offsets[C];
        Float d;  // of the lanes of add_fours()
        Float dmin;
    };

    StripOfSuperBlocks(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 256),
          blocks((const Block *) weights + column * n_records),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        // Of the strip behind the next one, in the order in which it lies.
        fetch_later<C * sizeof(Block)>(blocks + 2 * C * n_records + C * r);
        Decoded d;
        uint64_t halves = 0, min_halves = 0;
        PMTP_UNROLL
        for (int c = 0; c < C; c++) {
            const Block & block = blocks[c * n_records + r];
            const __m256i scales = Type::scales(block);
            PMTP_UNROLL
            for (int v = 0; v < kVectorsOfBlock; v++) {
                d.w[c][v] = Type::decode(block, v);
#ifdef PMTP_SIMD_VNNI
                if (v % 2 == 0) {
                    d.scales[c][v / 2] = lane_scales(scales, v, v + 1);
                }
#else
                d.scales[c][v] = lane_scales(scales, v, v);
#endif
            }
            d.offsets[c] = Type::offsets(block, scales);
            halves |= (uint64_t) block.d << 16 * c;
            if constexpr (Type::kHasMins) {
                min_halves |= (uint64_t) block.dmin << 16 * c;
            }
        }
        d.d = fours_of_halves<C>(halves);
        if constexpr (Type::kHasMins) {
            d.dmin = fours_of_halves<C>(min_halves);
        }
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const char * x = (const char *) tile.values + (r * N + n) * 256;
            const __m256i x_sums = load_as<__m256i>(tile.sums16 + (r * N + n) * 16);
            Int dots[C], offsets[C];
            PMTP_UNROLL
            for (int c = 0; c < C; c++) {
                offsets[c] = lane_products(d.offsets[c], x_sums);
                dots[c] = Type::kHasMins ? zero() : offsets[c];
#ifdef PMTP_SIMD_VNNI  // a lane's 4 products fit 16 bits
                PMTP_UNROLL
                for (int v = 0; v < kVectorsOfBlock; v += 2) {
                    const Int a = dot(zero(), d.w[c][v], load(x + v * kBytes));
                    const Int b = dot(zero(), d.w[c][v + 1], load(x + (v + 1) * kBytes));
                    dots[c] = dot16(dots[c], pack16(a, b), d.scales[c][v / 2]);
                }
#else
                PMTP_UNROLL
                for (int v = 0; v < kVectorsOfBlock; v++) {
                    dots[c] = dot16(dots[c], pairs16(d.w[c][v], load(x + v * kBytes)), d.scales[c][v]);
                }
#endif
            }
            Float value = to_float(add_fours(dots)) * d.d;
            if constexpr (Type::kHasMins) {
                value = fma(to_float(add_fours(offsets)), d.dmin, value);
            }
            sums[0][n] = fma(value, broadcast(tile.scales[r * N + n]), sums[0][n]);
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[1][N], const Tile & tile) const {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const __m128 totals = add_groups(sums[0][n]);
            std::memcpy(tile.row(n) + column, &totals, C * sizeof(float));
        }
    }

    const int64_t n_records;
    const Block * const blocks;
    const int64_t column;
};

// Without AVX-512 there are registers for four weight rows beside few activation rows only.
template <class Type> struct StripsOfSuperBlocks {
    static constexpr bool kKeepsDecoded = false;
    template <int N> struct Of {
        using Wide = StripOfSuperBlocks<Type, kBytes == 64 || N <= 4 ? 4 : 1>;
        using Narrow = StripOfSuperBlocks<Type, 1>;
    };
};

}  // namespace pmtp::products
